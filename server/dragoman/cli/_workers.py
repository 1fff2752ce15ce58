"""Several server processes on one port, and one that looks after them.

    supervisor ── spawns ──► worker 1 ─┐
        │                    worker 2 ─┼─ all listen on the port; the kernel gives each connection to one
        └ holds the port     worker 3 ─┘

The supervisor serves nothing. It reserves the port, brings the schema up to date once, starts the workers, starts another one
when one dies (after a pause that grows), and passes on that it is told to stop. A worker gets all settings through its
standard input, which stays open: when it closes, the supervisor is gone, and the worker stops as if told to. A worker that
cannot even start ends all of them: what is wrong with it would be wrong with the next one.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict

from dragoman.app import ServerInfo, StartError
from dragoman.config import Settings
from dragoman.process import LAST_BREATH, LAST_WORDS, deafen

logger = logging.getLogger(__name__)

FIRST_PAUSE = 0.5
LONGEST_PAUSE = 10.0
"""Seconds before a worker that died is replaced: doubled with each death, from the first to the longest."""

HEALTHY = 30.0
"""Seconds after which a worker's earlier deaths are forgotten."""

SLACK = 20.0
"""Seconds beyond the drain's grace that workers have to end, before they are killed."""


class WorkersFailed(Exception):
    """A worker could not start, and has said why on standard error. `code` is its exit code."""

    def __init__(self, code: int) -> None:
        super().__init__(f"a worker ended with {code} before it was ready")
        self.code = code


def reserve(host: str, port: int) -> socket.socket:
    """A socket that holds the port for workers, without listening. Raises StartError when somebody else has it."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        if port:
            # Sharing is among ourselves: with a stranger on the port every second connection would be his.
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
        held = socket.socket(family, kind)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        held.bind(address)
    except OSError:
        raise StartError(
            f"cannot listen on {host}:{port}: another process has the port, or the address is not of this machine; "
            "choose another one (--port, DRAGOMAN_PORT; 0 takes any free port)"
        ) from None
    return held


class Supervisor:
    """Looks after the workers of one port."""

    def __init__(self, settings: Settings, port: int) -> None:
        self._settings = settings.model_copy(update={"port": port})
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._ready: dict[int, ServerInfo] = {}
        self._all_ready = asyncio.Event()
        self._stopping = asyncio.Event()

    async def run(self, started: Callable[[ServerInfo], None]) -> None:
        """Runs the workers until SIGTERM or SIGINT. Raises WorkersFailed."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal, number)
        keepers = [
            asyncio.create_task(self._keep(number), name=f"worker-{number}")
            for number in range(1, self._settings.workers + 1)
        ]
        announcing = asyncio.create_task(self._announce(started), name="announce")
        failure: BaseException | None = None
        try:
            for ended in asyncio.as_completed(keepers):
                try:
                    await ended
                except WorkersFailed as error:
                    failure = failure or error
                    self._stop()
        finally:
            announcing.cancel()
            await asyncio.wait({announcing})
        if failure is not None:
            raise failure

    async def _announce(self, started: Callable[[ServerInfo], None]) -> None:
        await self._all_ready.wait()
        started(next(iter(self._ready.values())))

    def _on_signal(self, number: int) -> None:
        logger.info("stopping the workers", extra={"signal": signal.Signals(number).name})
        self._stop()

    def _stop(self) -> None:
        """Tells all workers; the second time they hurry."""
        self._stopping.set()
        for process in self._processes.values():
            _signal(process, signal.SIGTERM)

    async def _keep(self, number: int) -> None:
        """Keeps one worker running. Raises WorkersFailed."""
        pause = FIRST_PAUSE
        loop = asyncio.get_running_loop()
        while not self._stopping.is_set():
            since = loop.time()
            was_ready, code = await self._work(number)
            if self._stopping.is_set():
                return
            if not was_ready and not self._all_ready.is_set():
                raise WorkersFailed(code)
            if loop.time() - since > HEALTHY:
                pause = FIRST_PAUSE
            logger.error(
                "a worker died and is replaced",
                extra={"worker": number, "exit_code": code, "pause": pause},
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stopping.wait()
            pause = min(pause * 2, LONGEST_PAUSE)

    async def _work(self, number: int) -> tuple[bool, int]:
        """One worker from its start to its end: whether it was ever ready, and its exit code."""
        reader, writer = os.pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "dragoman.cli", "serve-worker", str(number), str(writer)),
                stdin=asyncio.subprocess.PIPE,
                pass_fds=(writer,),
                start_new_session=True,  # Ctrl-C is for the supervisor, which passes it on once
            )
        finally:
            os.close(writer)
        self._processes[number] = process
        if self._stopping.is_set():
            _signal(process, signal.SIGTERM)
        telling = asyncio.create_task(self._hear(number, reader), name=f"worker-{number}-ready")
        killing = asyncio.create_task(self._kill_late(process), name=f"worker-{number}-late")
        try:
            if process.stdin is not None:
                process.stdin.write(self._settings.model_dump_json().encode() + b"\n")
                with contextlib.suppress(ConnectionError):
                    await process.stdin.drain()
            code = await process.wait()
            return await telling, code
        finally:
            self._processes.pop(number, None)
            self._ready.pop(number, None)
            for task in (telling, killing):
                task.cancel()
            await asyncio.wait({telling, killing})

    async def _hear(self, number: int, reader: int) -> bool:
        """Waits until the worker says that it is ready. False when it ends without saying so."""
        stream = asyncio.StreamReader()
        loop = asyncio.get_running_loop()
        with os.fdopen(reader, "rb", buffering=0) as pipe:
            transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(stream), pipe)
            try:
                line = await stream.readline()
            finally:
                transport.close()
        if not line:
            return False
        self._ready[number] = ServerInfo(**json.loads(line))
        logger.info("a worker is ready", extra={"worker": number})
        if len(self._ready) == self._settings.workers:
            self._all_ready.set()
        return True

    async def _kill_late(self, process: asyncio.subprocess.Process) -> None:
        await self._stopping.wait()
        await asyncio.sleep(
            self._settings.drain_delay + self._settings.drain_grace + LAST_WORDS + LAST_BREATH + SLACK
        )
        logger.error("a worker does not end, and is killed", extra={"pid": process.pid})
        _signal(process, signal.SIGKILL)


def _signal(process: asyncio.subprocess.Process, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(number)


def supervise(settings: Settings, *, started: Callable[[ServerInfo], None]) -> None:
    """Runs `settings.workers` workers until SIGTERM or SIGINT. Raises StartError, WorkersFailed."""
    with reserve(settings.host, settings.port) as held:
        port: int = held.getsockname()[1]

        async def run() -> None:
            await Supervisor(settings, port).run(started)

        with asyncio.Runner() as runner:
            try:
                runner.run(run())
            finally:
                deafen(runner.get_loop())


def settings_from(descriptor: int) -> Settings:
    """The settings that the supervisor has written; then keeps an eye on it. For workers."""
    written = bytearray()
    while not written.endswith(b"\n") and (part := os.read(descriptor, 65536)):
        written += part
    settings = Settings(**json.loads(written))
    # Unbuffered: the thread still reads when the process ends, and must hold no lock then.
    threading.Thread(target=_stop_with, args=(descriptor,), name="supervisor-watch", daemon=True).start()
    return settings


def settings_of(number: int, settings: Settings) -> Settings:
    """The settings of one worker, the first being 1: each has a port of its own for its metrics."""
    if not settings.metrics_port:
        return settings
    return settings.model_copy(update={"metrics_port": settings.metrics_port + number - 1})


def say_ready(descriptor: int, info: ServerInfo) -> None:
    """Tells the supervisor that calls are accepted."""
    with os.fdopen(descriptor, "wb") as pipe:
        pipe.write(json.dumps(asdict(info)).encode() + b"\n")


def _stop_with(descriptor: int) -> None:
    """Stops this process when the pipe ends: its other end is the supervisor."""
    while os.read(descriptor, 65536):
        pass
    os.kill(os.getpid(), signal.SIGTERM)
