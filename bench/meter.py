"""How a server process tells what it has used: the side channel between it and the benchmark.

The server first says where it listens. From then on a thread of its own, which sleeps all the rest of the time, answers
each question with the process's own accounting. When the other end is closed the process ends itself, so that a benchmark
that was killed leaves nothing behind.
"""

import os
import signal
import threading
import time
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

_PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Reading:
    """What a process has used so far."""

    cpu: float
    """Seconds of CPU, user and system, of all its threads."""
    rss: int
    """Bytes of memory that are resident now."""


class Meter:
    """The server's end of the channel."""

    def __init__(self, channel: Connection) -> None:
        self._channel = channel

    def ready(self, address: str) -> None:
        """Says that calls are accepted at `address` (`host:port`), and answers from now on."""
        self._channel.send(address)
        threading.Thread(target=self._answer, name="meter", daemon=True).start()

    def _answer(self) -> None:
        try:
            while True:
                self._channel.recv()
                self._channel.send(Reading(time.process_time(), _resident()))
        except (EOFError, OSError):
            os.kill(os.getpid(), signal.SIGTERM)


def ask(channel: Connection) -> Reading:
    """What the server at the other end has used so far. Raises EOFError or OSError when it has ended."""
    channel.send(None)
    reading = channel.recv()
    assert isinstance(reading, Reading)
    return reading


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * _PAGE
