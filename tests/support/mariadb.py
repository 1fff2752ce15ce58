"""A private MariaDB server for tests: a data directory of its own in the temporary folder, one free port on loopback.

    server = MariaDBServer.start()
    url = server.fresh_database()     # mysql+pymysql://...; empty
    server.kill(); server.restart()   # as after a crash
    server.stop()

The server is Debian's `mariadb-server` as it is. When it is missing and the tests run as root on a system with apt-get it
is installed, without its system service; otherwise `MariaDBMissing` says what to install. Its character set is Latin-1 on
purpose: nothing may depend on the defaults of a server.
"""

import contextlib
import fcntl
import itertools
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pymysql

PACKAGE = "mariadb-server"
START_TIMEOUT = 60.0

_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/usr/local/bin", "/opt/homebrew/bin")
_POLICY = Path("/usr/sbin/policy-rc.d")
_USER, _PASSWORD = "dragoman", "dragoman"


class MariaDBMissing(RuntimeError):
    """There is no MariaDB on this machine, and it could not be installed."""


class MariaDBServer:
    """A running server. Not thread-safe; one for each test process."""

    def __init__(self, folder: Path, daemon: Path) -> None:
        self._folder = folder
        self._daemon = daemon
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count(1)
        self._idle: list[str] = []
        self.port = _free_port()

    @classmethod
    def start(cls) -> "MariaDBServer":
        """Makes a data directory and starts a server on it. Raises MariaDBMissing."""
        daemon, install = _find_or_install()
        folder = Path(tempfile.mkdtemp(prefix="dragoman-mariadb-"))
        server = cls(folder, daemon)
        try:
            server._make_data(install)
            server.restart()
        except BaseException:
            server.stop()
            raise
        return server

    @property
    def pid(self) -> int | None:
        """The server's process; None while it is down."""
        return None if self._process is None else self._process.pid

    def url(self, database: str) -> str:
        """SQLAlchemy's URL of a database."""
        return f"mysql+pymysql://{_USER}:{_PASSWORD}@127.0.0.1:{self.port}/{database}"

    def fresh_database(self) -> str:
        """Makes an empty database. Returns its URL."""
        name = f"test_{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    @contextlib.contextmanager
    def migrated_database(self) -> Iterator[str]:
        """The URL of a database with the schema and no rows. Used ones are emptied: that is cheaper than making new ones.

        Whoever changes the schema wants `fresh_database` instead.
        """
        from dragoman.storage import migrate

        if self._idle:
            url = self._idle.pop()
            self._empty(url.rpartition("/")[2])
        else:
            url = self.fresh_database()
            migrate(url)
        yield url
        self._idle.append(url)

    def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Runs a statement as the server's root. Returns its rows."""
        connection = pymysql.connect(unix_socket=str(self._socket), user="root", autocommit=True)
        with connection, connection.cursor() as cursor:
            cursor.execute(statement)
            return list(cursor.fetchall())

    def restart(self) -> None:
        """Starts the server (again) on the same data and port, and waits until it answers."""
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    self._daemon,
                    "--no-defaults",
                    *_as_user(),
                    f"--datadir={self._data}",
                    f"--tmpdir={self._temporary}",
                    f"--socket={self._socket}",
                    f"--pid-file={self._folder / 'pid'}",
                    f"--port={self.port}",
                    "--bind-address=127.0.0.1",
                    "--skip-name-resolve",
                    "--skip-log-bin",
                    "--performance-schema=OFF",
                    "--innodb-buffer-pool-size=64M",
                    # A killed server loses nothing by this; a machine without power would.
                    "--innodb-flush-log-at-trx-commit=2",
                    "--max-connections=300",
                    "--character-set-server=latin1",
                    "--collation-server=latin1_swedish_ci",
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait()

    def kill(self) -> None:
        """Ends the server as a crash does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """Ends the server in good order and removes its data."""
        self._end(signal.SIGTERM)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def _temporary(self) -> Path:
        """Not the common one: a server that starts deletes the temporary tables that it finds there."""
        return self._folder / "tmp"

    @property
    def _socket(self) -> Path:
        return self._folder / "socket"

    def _make_data(self, install: Path) -> None:
        self._temporary.mkdir()
        if os.geteuid() == 0:
            account = pwd.getpwnam("mysql")
            for folder in (self._folder, self._temporary):
                os.chown(folder, account.pw_uid, account.pw_gid)
        made = subprocess.run(
            [
                install,
                "--no-defaults",
                *_as_user(),
                f"--datadir={self._data}",
                f"--tmpdir={self._temporary}",
                "--auth-root-authentication-method=normal",
                "--skip-test-db",
                "--skip-name-resolve",
            ],
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise RuntimeError(f"mariadb-install-db failed:\n{made.stdout}{made.stderr}")

    def _wait(self) -> None:
        deadline = time.monotonic() + START_TIMEOUT
        while True:
            try:
                # By ourselves first: PyMySQL leaves a socket open on which nobody listens yet.
                with socket.socket(socket.AF_UNIX) as probe:
                    probe.connect(str(self._socket))
                self.execute(f"CREATE USER IF NOT EXISTS '{_USER}'@'%' IDENTIFIED BY '{_PASSWORD}'")
                self.execute(f"GRANT ALL ON *.* TO '{_USER}'@'%'")
            except (OSError, pymysql.err.OperationalError) as error:
                ended = self._process is None or self._process.poll() is not None
                if ended or time.monotonic() > deadline:
                    log = (self._folder / "log").read_text(errors="replace")
                    raise RuntimeError(f"MariaDB did not start ({error}):\n{log[-4000:]}") from error
                time.sleep(0.05)
            else:
                return

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(START_TIMEOUT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _empty(self, database: str) -> None:
        tables = [
            table
            for (table,) in self.execute(
                f"SELECT table_name FROM information_schema.tables WHERE table_schema = '{database}'"
            )
            if table != "dragoman_version"
        ]
        connection = pymysql.connect(
            unix_socket=str(self._socket), user="root", database=database, autocommit=True
        )
        with connection, connection.cursor() as cursor:
            cursor.execute("SET SESSION foreign_key_checks = 0, innodb_lock_wait_timeout = 10")
            for table in tables:
                cursor.execute(f"DELETE FROM `{table}`")


def _find_or_install() -> tuple[Path, Path]:
    """The daemon and the program that makes a data directory."""
    found = _find()
    if found is None and os.geteuid() == 0 and shutil.which("apt-get"):
        with (Path(tempfile.gettempdir()) / "dragoman-mariadb-install.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one test process installs, the others wait
            if _find() is None:
                _install()
        found = _find()
    if found is None:
        raise MariaDBMissing(
            f"these tests need a MariaDB server: install the package {PACKAGE} "
            f"(Debian, Ubuntu: apt-get install {PACKAGE}), or leave them out with -m 'not mariadb'"
        )
    return found


def _find() -> tuple[Path, Path] | None:
    path = os.pathsep.join([os.environ.get("PATH", ""), *_FOLDERS])
    daemon = shutil.which("mariadbd", path=path)
    install = shutil.which("mariadb-install-db", path=path)
    return None if daemon is None or install is None else (Path(daemon), Path(install))


def _install() -> None:
    """Installs the package; a policy keeps its scripts from starting the system's own server."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    guarded = not _POLICY.exists()
    if guarded:
        _POLICY.write_text("#!/bin/sh\nexit 101\n")
        _POLICY.chmod(0o755)
    try:
        for command in (["update"], ["install", "--yes", "--no-install-recommends", PACKAGE]):
            done = subprocess.run(
                ["apt-get", "-q", *command], env=environment, capture_output=True, text=True, check=False
            )
            if done.returncode != 0:
                raise MariaDBMissing(
                    f"apt-get {' '.join(command)} failed; install {PACKAGE} by hand:\n{done.stderr[-2000:]}"
                )
    finally:
        if guarded:
            _POLICY.unlink()


def _as_user() -> list[str]:
    """The server refuses to run as root."""
    return ["--user=mysql"] if os.geteuid() == 0 else []


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
