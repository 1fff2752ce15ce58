"""A server as a process of its own, for as long as a block lasts.

It is ready when it has written its address; it is told to stop by SIGTERM and killed, by its own pid, only when it does
not go. Its log is a file, of which the end is told when it fails.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

START_TIMEOUT = 60.0
"""Seconds: importing Agno for the first time, without compiled files, takes several."""

STOP_TIMEOUT = 15.0
"""Seconds."""

_POLL = 0.05


class ServerFailed(Exception):
    """The process ended, or never was ready. `log` is the end of what it wrote."""

    def __init__(self, message: str, log: str) -> None:
        super().__init__(message)
        self.log = log


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A server that is ready."""

    address: str
    pid: int
    log: Path


@contextmanager
def server_process(arguments: Sequence[str], directory: Path) -> Iterator[ServerProcess]:
    """Runs `dragoman serve` with these arguments until the block is left; files are made in `directory`.

    Raises ServerFailed when it does not get ready, or does not end with 0 when told to stop.
    """
    log, ready = directory / "server.log", directory / "address"
    command = [sys.executable, "-m", "dragoman.cli", "serve", *arguments, "--ready-file", str(ready)]
    with log.open("wb") as output:
        # The command is this program itself, with arguments of ours.
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)  # noqa: S603
    try:
        _wait(process, ready, log)
        yield ServerProcess(ready.read_text(encoding="utf-8").strip(), process.pid, log)
    except BaseException:
        _stop(process)
        raise
    if _stop(process) != 0:
        raise ServerFailed(f"the server ended with {process.returncode}", tail(log))


def _wait(process: "subprocess.Popen[bytes]", ready: Path, log: Path) -> None:
    until = time.monotonic() + START_TIMEOUT
    while not ready.exists():
        if process.poll() is not None:
            raise ServerFailed(f"the server ended with {process.returncode}", tail(log))
        if time.monotonic() > until:
            raise ServerFailed(f"the server was not ready within {START_TIMEOUT:g} s", tail(log))
        time.sleep(_POLL)


def _stop(process: "subprocess.Popen[bytes]") -> int:
    if process.poll() is None:
        process.terminate()
    try:
        return process.wait(STOP_TIMEOUT)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


def tail(path: Path, lines: int = 40) -> str:
    """The last lines of a file."""
    return "\n".join(path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
