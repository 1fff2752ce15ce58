"""Server processes that a test starts, kills and starts again, and the story of what it did to them.

    server = ServerProcess("a", arguments, folder, environment)
    await server.start()
    await server.kill()
    await server.start()
    await server.close()

Each is `dragoman serve` as an operator runs it, on a free port, with a log of its own. Only processes that were started here
are ever signalled. What was done and when is printed: pytest shows it, with the end of each log, when the test fails.
"""

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from support.haproxy import HAProxy

START_TIMEOUT = 120.0
STOP_TIMEOUT = 60.0
LOG_LINES = 30

_POLL = 0.05
_BEGUN = time.monotonic()


def note(what: str) -> None:
    """A line of the story of this test run, with its time."""
    print(f"{time.monotonic() - _BEGUN:8.2f} s  {what}", flush=True)


class ServerProcess:
    """`dragoman serve`, again and again. `proxy`: the haproxy and the place in it that the server takes when it runs."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        folder: Path,
        environment: Mapping[str, str],
        proxy: tuple[HAProxy, int] | None = None,
    ) -> None:
        self.name = name
        self.address = ""
        self.killed: dict[int, float] = {}
        """Pids that were killed, and when: in the seconds of `time.monotonic`."""
        self.serving = False
        """Whether it has said that it accepts calls, and was not told to stop since."""
        self._arguments = arguments
        self._folder = folder
        self._environment = environment
        self._proxy = proxy
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def running(self) -> bool:
        """Whether the process is there."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """Of the process that runs now."""
        assert self._process is not None
        return self._process.pid

    async def start(self) -> None:
        """Starts it and returns when it accepts calls, through the proxy too."""
        assert not self.running
        self._starts += 1
        ready = self._folder / f"{self.name}-{self._starts}.address"
        command = [sys.executable, "-m", "dragoman.cli", "serve", *self._arguments, "--port", "0"]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--ready-file", str(ready)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **self._environment},
            )
        deadline = time.monotonic() + START_TIMEOUT
        while not ready.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise AssertionError(f"server {self.name} did not start:\n{self.last_words()}")
            await asyncio.sleep(_POLL)
        self.address = ready.read_text().strip()
        if self._proxy is not None:
            proxy, slot = self._proxy
            proxy.connect(slot, self.address)
            await asyncio.to_thread(proxy.wait_serving, slot)
        self.serving = True
        note(f"server {self.name} serves (pid {self.pid}, {self.address})")

    async def kill(self) -> None:
        """SIGKILL."""
        self.killed[self.pid] = time.monotonic()
        self.signal(signal.SIGKILL)
        await self._ended()

    async def terminate(self) -> None:
        """SIGTERM; returns when it has ended, which it must do with 0."""
        self.signal(signal.SIGTERM)
        await self.ended()

    async def ended(self) -> None:
        """Waits for the end of a process that was told to stop."""
        code = await self._ended()
        note(f"server {self.name} has stopped ({code})")
        assert code == 0, f"server {self.name} ended with {code}:\n{self.last_words()}"

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the process, which ends it."""
        self.serving = False
        assert self._process is not None
        note(f"{number.name} to server {self.name} (pid {self.pid})")
        self._process.send_signal(number)

    def resident(self) -> int:
        """Bytes of memory that the process has now (RSS)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        found = re.search(r"^VmRSS:\s+(\d+) kB$", status, re.MULTILINE)
        assert found is not None
        return int(found[1]) * 1024

    async def close(self) -> None:
        """Ends it whatever it does, and tells the end of its log."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            with contextlib.suppress(TimeoutError):
                await self._ended()
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        print(f"--- end of the log of server {self.name}\n{self.last_words()}")

    @property
    def log(self) -> Path:
        """What it wrote."""
        return self._folder / f"{self.name}.log"

    def last_words(self) -> str:
        """The end of its log."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])

    async def _ended(self) -> int:
        assert self._process is not None
        deadline = time.monotonic() + STOP_TIMEOUT
        while (code := self._process.poll()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError(f"server {self.name} does not end:\n{self.last_words()}")
            await asyncio.sleep(_POLL)
        return code
