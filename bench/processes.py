"""Servers as processes: started all at the same time, asked through their side channels, stopped by their own pids."""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path

from bench.meter import Reading, ask

ROOT = Path(__file__).parents[1]

START_TIMEOUT = 90.0
"""Seconds: importing Agno takes several, and all servers start at once."""

STOP_TIMEOUT = 10.0
"""Seconds."""


_SETTINGS = ("DRAGOMAN_", "AGENT_OS_", "AGNO_", "OS_")
"""Prefixes of environment variables that servers read."""


class ServerFailed(Exception):
    """A server did not start. The text has the end of its log."""


@dataclass(frozen=True, slots=True)
class Process:
    """A server that is ready."""

    address: str
    channel: Connection

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self.address.rpartition(":")[2])

    def read(self) -> Reading:
        """What it has used so far."""
        return ask(self.channel)


@contextmanager
def processes(names: Sequence[str], directory: Path) -> Iterator[dict[str, Process]]:
    """Runs these servers until the block is left; their files and logs go below `directory`. Raises ServerFailed."""
    running: dict[str, tuple[subprocess.Popen[bytes], Connection]] = {}
    try:
        for name in names:
            running[name] = _start(name, directory / name)
        yield {name: _ready(directory / name, channel) for name, (_, channel) in running.items()}
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, channel in running.values():
            _end(process)
            channel.close()


def _start(name: str, directory: Path) -> tuple["subprocess.Popen[bytes]", Connection]:
    directory.mkdir(exist_ok=True)  # a database may lie there already
    ours, theirs = Pipe()
    with theirs, (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.servers", name, str(theirs.fileno()), str(directory)],
            cwd=directory,  # not ours: settings files that lie there are nobody's business
            env=_environment(),
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    return process, ours


def _environment() -> dict[str, str]:
    """Ours, without what would change a server's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(_SETTINGS)}
    return {**kept, "PYTHONPATH": str(ROOT), "AGNO_TELEMETRY": "false"}


def _ready(directory: Path, channel: Connection) -> Process:
    with suppress(EOFError, OSError):
        if channel.poll(START_TIMEOUT):
            return Process(str(channel.recv()), channel)
    end = (directory / "log").read_text(encoding="utf-8", errors="replace").splitlines()[-20:]
    raise ServerFailed("\n".join([f"the server of {directory.name} did not start:", *end]))


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
