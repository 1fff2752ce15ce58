"""SQLAlchemy engines for a database URL, set up as each database needs it.

SQLite: one connection that writes, BEGIN IMMEDIATE, and two that read, in WAL mode. A transaction that begins by reading
and then wants to write fails with BUSY whatever the time-out; one that says at once that it will write waits its turn.

MySQL, MariaDB: one small pool, READ COMMITTED, and time-outs everywhere: without them a hung server hangs us for ever.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.sqlite.pysqlite import SQLiteDialect_pysqlite
from sqlalchemy.engine import URL, Engine
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.pool import NullPool, StaticPool

from dragoman.storage.types import MYSQL

SQLITE_READERS = 2
BUSY_TIMEOUT = 15.0
"""Seconds that a statement waits for another process's write to SQLite."""

CONNECT_TIMEOUT = 3
READ_TIMEOUT = 10
LOCK_TIMEOUT = 5
"""Seconds to connect, to wait for the server's answer, and for a row's lock."""

MIGRATION_LOCK_TIMEOUT = 120.0
"""Seconds that a process waits while another one migrates."""


class Reading(SQLiteDialect_pysqlite):
    """SQLite whose transactions begin without a lock; the driver itself begins none.

    A dialect, and not a listener for SQLAlchemy's "begin" event: with one, every statement of the engine takes the way
    through its events, which costs a tenth of a short statement's time.
    """

    supports_statement_cache = True
    begin = "BEGIN"

    def do_begin(self, dbapi_connection: DBAPIConnection) -> None:
        """Called by SQLAlchemy, which makes its own errors of the driver's."""
        cursor = dbapi_connection.cursor()
        try:
            cursor.execute(self.begin)
        finally:
            cursor.close()


class Writing(Reading):
    """SQLite whose transactions begin with the write lock."""

    supports_statement_cache = True
    begin = "BEGIN IMMEDIATE"


registry.register("sqlite.dragoman_reading", __name__, Reading.__name__)
registry.register("sqlite.dragoman_writing", __name__, Writing.__name__)


def parse(url: str) -> URL:
    """The URL, with PyMySQL where no driver is named. Raises ValueError for a database that is not supported."""
    try:
        parsed = sa.make_url(url)
    except (sa.exc.ArgumentError, ValueError):  # ValueError: the port is no number
        # Not the text of the error: the URL may hold a password.
        raise ValueError(
            "the database URL is not of the form sqlite:///file.db or mysql+pymysql://user:password@host/name"
        ) from None
    backend, _, driver = parsed.drivername.partition("+")
    if backend in MYSQL:
        if driver not in ("", "pymysql", "mysqldb"):
            raise ValueError(f"the driver {driver!r} is not supported; use mysql+pymysql")
        return parsed if driver else parsed.set(drivername=f"{backend}+pymysql")
    if backend == "sqlite" and driver in ("", "pysqlite"):
        return parsed
    raise ValueError(
        f"databases of type {parsed.drivername!r} are not supported; use sqlite, mysql or mariadb"
    )


def is_sqlite(url: URL) -> bool:
    """Whether it is SQLite (else MySQL or MariaDB)."""
    return url.get_backend_name() == "sqlite"


def is_memory(url: URL) -> bool:
    """Whether the database lives and dies with its connection."""
    return is_sqlite(url) and url.database in (None, "", ":memory:")


def file_of(url: URL) -> Path | None:
    """Where SQLite keeps it; None for one in memory, and for other databases."""
    if not is_sqlite(url) or is_memory(url):
        return None
    name = str(url.database)
    return Path(unquote(urlsplit(name).path)) if name.startswith("file:") else Path(name)


def is_private(url: str) -> bool:
    """Whether the database at the URL is one process's own. Raises ValueError as `parse`."""
    return is_memory(parse(url))


def describe(url: URL, *, mariadb: bool = False) -> str:
    """For people: the kind of database and where it is, without credentials. `mariadb`: the server has said so."""
    if is_memory(url):
        return "SQLite (in memory)"
    if is_sqlite(url):
        return f"SQLite {url.database}"
    name = "MariaDB" if mariadb or url.get_backend_name() == "mariadb" else "MySQL"
    where = url.host or url.query.get("unix_socket") or "localhost"
    return f"{name} {where}/{url.database}"


def sqlite_writer(url: URL, synchronous: str) -> Engine:
    """One connection, for one thread; for a database in memory it serves the reads too."""
    memory = is_memory(url)
    pool: dict[str, Any] = {"poolclass": StaticPool} if memory else {"pool_size": 1, "max_overflow": 0}
    pragmas = ["foreign_keys=ON", f"synchronous={synchronous}"]
    if not memory:
        pragmas.append("journal_mode=WAL")
    return _sqlite(url, "dragoman_writing", pragmas, pool, BUSY_TIMEOUT)


def sqlite_readers(url: URL) -> Engine:
    """Connections that can only read."""
    pool = {"pool_size": SQLITE_READERS, "max_overflow": 0}
    return _sqlite(url, "dragoman_reading", ["query_only=ON"], pool, BUSY_TIMEOUT)


def mysql(url: URL, connections: int, **settings: Any) -> Engine:
    """A pool of `connections` to MySQL or MariaDB. `settings` of SQLAlchemy's win."""
    standard: dict[str, Any] = {
        "pool_size": connections,
        "max_overflow": 0,
        "pool_pre_ping": True,
        "pool_recycle": 1800,
        # Every use of a connection is a transaction that ends by commit or rollback: no second rollback on return.
        "pool_reset_on_return": None,
        "isolation_level": "READ COMMITTED",
        "hide_parameters": True,
    }
    return sa.create_engine(
        _with_booleans(url),
        connect_args={
            **mysql_arguments(url),
            "read_timeout": READ_TIMEOUT,
            "write_timeout": READ_TIMEOUT,
            "init_command": f"SET SESSION innodb_lock_wait_timeout = {LOCK_TIMEOUT},"
            " sql_mode = 'STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION'",
        },
        **standard | settings,
    )


def shared(url: str, serialize: Callable[[Any], str], *, connections: int, sqlite_synchronous: str) -> Engine:
    """Connections of its own for a library that brings its own tables. Raises ValueError as `parse`.

    `serialize` makes the text of JSON columns. On SQLite it is one connection, whose transactions wait for the write lock
    when they write; a database in memory is another one than the store's.
    """
    parsed = parse(url)
    if not is_sqlite(parsed):
        return mysql(parsed, connections, json_serializer=serialize, pool_reset_on_return="rollback")
    pool: dict[str, Any] = {"poolclass": StaticPool} if is_memory(parsed) else {"pool_size": 1}
    pragmas = ["foreign_keys=ON", f"synchronous={sqlite_synchronous}"]
    return _sqlite(parsed, "dragoman_reading", pragmas, {"json_serializer": serialize, **pool}, BUSY_TIMEOUT)


def for_migration(url: URL) -> Engine:
    """One connection without the pragmas and time-outs of the service: with foreign keys on, SQLite's way of altering a
    table deletes the rows that refer to it; and DDL takes as long as it takes."""
    if is_sqlite(url):
        pool = {"poolclass": NullPool}
        return _sqlite(url, "dragoman_writing", ["foreign_keys=OFF"], pool, MIGRATION_LOCK_TIMEOUT)
    return sa.create_engine(
        _with_booleans(url), connect_args=mysql_arguments(url), poolclass=NullPool, hide_parameters=True
    )


def for_examination(url: URL) -> Engine:
    """One connection as those of the service, which leaves the mode of a SQLite file as it is."""
    if is_sqlite(url):
        return _sqlite(url, "dragoman_writing", [], {"poolclass": NullPool}, CONNECT_TIMEOUT)
    return mysql(url, 1)


def _sqlite(url: URL, driver: str, pragmas: list[str], pool: dict[str, Any], timeout: float) -> Engine:
    """An engine each of whose connections has the pragmas."""
    engine = sa.create_engine(
        url.set(drivername=f"sqlite+{driver}"),
        connect_args={"timeout": timeout, "check_same_thread": False, "isolation_level": None},
        hide_parameters=True,
        **pool,
    )

    @event.listens_for(engine, "connect")
    def _connected(connection: Any, _record: object) -> None:
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    return engine


def mysql_arguments(url: URL) -> dict[str, Any]:
    """mysqlclient and PyMySQL take these under the same names."""
    arguments: dict[str, Any] = {"charset": "utf8mb4", "connect_timeout": CONNECT_TIMEOUT}
    if (
        str(url.query.get("ssl_disabled", "")).lower() in ("1", "true", "yes")
        and "mysqldb" not in url.drivername
    ):
        arguments["ssl_disabled"] = True
    return arguments


def _with_booleans(url: URL) -> URL:
    """Without what `mysql_arguments` has taken from the query: there it would be text, and "false" is true."""
    return url.difference_update_query(["ssl_disabled"])
