"""Engines of one or several processes on a real store.

    Door         the real store, behind a door that can be shut, held or booby-trapped call by call
    Neighbours   signals between engines, on time or lost
    Process      one engine with its own connections, as another process would have them; it can crash
    Cluster      processes on one database

All of them live on one event loop, so that a test can stop any of them at any point.
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeAlias, cast
from uuid import UUID

from dragoman.engine import Engine, elsewhere
from dragoman.engine.engine import FollowedRun
from dragoman.engine.ports import (
    Catalog,
    Page,
    Pricer,
    Runner,
    Store,
)
from dragoman.errors import StorageUnavailable
from dragoman.records import (
    Run,
    Session,
    SessionConflict,
)
from dragoman.storage import SqlStore, open_store
from dragoman.v1 import event_pb2

from .engine_fakes import OWNER, OneAgent, ScriptedRunner, draft, until, watch

POLL = 0.05


# Stores and signals

Trap: TypeAlias = Callable[..., Awaitable[None] | None]
"""Is given the arguments of a call before the store sees them; what it raises is what the call raises."""


class Door:
    """Everything is the real store's, unless the door is shut (`down`), or a call is held up or trapped."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.down = False
        self.traps: dict[str, Trap] = {}
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        attribute = getattr(self.store, name)
        if not inspect.iscoroutinefunction(attribute):
            return attribute

        async def pass_through(*args: Any, **kwargs: Any) -> Any:
            self.calls[name] += 1
            if self.down:
                raise StorageUnavailable()
            trap = self.traps.get(name)
            if trap is not None and (waits := trap(*args, **kwargs)) is not None:
                await waits
            return await attribute(*args, **kwargs)

        return pass_through

    def hold(self, name: str) -> asyncio.Event:
        """Holds up all calls of a method until the event is set."""
        gate = asyncio.Event()

        async def wait(*_args: Any, **_kwargs: Any) -> None:
            await gate.wait()

        self.traps[name] = wait
        return gate

    def fail(self, name: str) -> None:
        """Lets all calls of a method fail, as of a store that does not answer."""

        def refuse(*_args: Any, **_kwargs: Any) -> None:
            raise StorageUnavailable()

        self.traps[name] = refuse

    async def run(self, run_id: UUID) -> Run:
        """As it is stored."""
        return await self.store.get_run(OWNER, run_id)

    async def runs(self) -> list[Run]:
        """All of them, the oldest first."""
        return (await self.store.list_runs(OWNER, Page(1000)))[::-1]

    async def session(self, session_id: UUID) -> Session:
        """As it is stored."""
        return await self.store.get_session(OWNER, session_id)

    async def free(self, session_id: UUID) -> bool:
        """Whether nobody has the session's turn."""
        return (await self.session(session_id)).active_run_id is None

    async def log(self, run_id: UUID) -> list[event_pb2.RunEvent]:
        """The stored events, in order."""
        events: list[event_pb2.RunEvent] = []
        while chunks := await self.store.read_events(
            OWNER, run_id, events[-1].sequence if events else 0, 1024 * 1024
        ):
            for chunk in chunks:
                assert chunk.last_sequence - chunk.first_sequence + 1 == len(chunk.events)
                events += map(event_pb2.RunEvent.FromString, chunk.events)
        return events

    async def bill(self, run_id: UUID) -> list[int]:
        """The tokens of its calls, as they are booked."""
        return sorted(one.usage.total_tokens for one in await self.store.run_calls(OWNER, run_id))

    async def messages(self, run_id: UUID) -> list[str]:
        """The ids of its messages, in order."""
        session_id = (await self.run(run_id)).session_id
        page: Page[int] = Page(1000)
        return [
            str(one.id)
            for one in await self.store.list_messages(OWNER, session_id, page, run_id=run_id, members=True)
        ]


@asynccontextmanager
async def door_to(url: str = "sqlite://") -> AsyncIterator[Door]:
    """An open store; by default one in memory."""
    store = open_store(url, sqlite_synchronous="NORMAL")
    await store.open()
    try:
        yield Door(store)
    finally:
        await store.close()


class Neighbours:
    """Signals between engines in one process. Unless they are `connected`, all are lost."""

    def __init__(self, *, connected: bool = False) -> None:
        self.connected = connected
        self.told: list[UUID] = []
        self._listeners: list[tuple[Signal, Callable[[Collection[UUID]], None]]] = []

    def signal(self) -> "Signal":
        """One process' end."""
        return Signal(self)

    def spread(self, teller: "Signal", run_ids: Collection[UUID]) -> None:
        self.told += run_ids
        if self.connected:
            for signal, listener in self._listeners:
                if signal is not teller:
                    asyncio.get_running_loop().call_soon(listener, run_ids)

    def add(self, signal: "Signal", listener: Callable[[Collection[UUID]], None]) -> None:
        self._listeners.append((signal, listener))


class Signal:
    """Satisfies `Signals`."""

    def __init__(self, neighbours: Neighbours) -> None:
        self._neighbours = neighbours

    def tell(self, run_ids: Iterable[UUID]) -> None:
        self._neighbours.spread(self, tuple(run_ids))

    def listen(self, listener: Callable[[Collection[UUID]], None]) -> None:
        self._neighbours.add(self, listener)


# Engines


def engine_on(runner: ScriptedRunner, door: Door, **options: Any) -> Engine:
    """An engine that is not open yet."""
    options.setdefault("signals", Neighbours().signal())
    options.setdefault("poll_interval", POLL)
    return Engine(
        catalog=cast("Catalog", options.pop("catalog", None) or OneAgent()),
        runner=cast("Runner", runner),
        store=cast("Store", door),
        pricer=cast("Pricer", runner.pricer),
        **options,
    )


@asynccontextmanager
async def engine_of(runner: ScriptedRunner, door: Door, **options: Any) -> AsyncIterator[Engine]:
    """An engine that is open, closed on the store as the test leaves it."""
    engine = engine_on(runner, door, **options)
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


@dataclass
class Process:
    """An engine with connections of its own."""

    engine: Engine
    door: Door
    runner: ScriptedRunner
    crashed: bool = field(default=False)

    async def start(self, *args: Any, **kwargs: Any) -> FollowedRun:
        return await self.engine.start(draft(*args, **kwargs))

    async def queue(self, session: Session, message: str = "hello", **more: Any) -> FollowedRun:
        return await self.start(session, message, conflict=SessionConflict.QUEUE, **more)

    async def interrupt(self, session: Session, message: str = "hello", **more: Any) -> FollowedRun:
        return await self.start(session, message, conflict=SessionConflict.INTERRUPT, **more)

    async def attach(self, run_id: UUID) -> FollowedRun:
        return await self.engine.attach(OWNER, run_id)

    async def watch(self, run_id: UUID, after: int = 0) -> list[event_pb2.RunEvent]:
        return await watch(await self.attach(run_id), after)

    async def cancel(self, run_id: UUID, note: str = "") -> Run:
        return await self.engine.cancel(OWNER, run_id, by="local", note=note)

    async def crash(self) -> None:
        """Stops at once, as a process that is killed: nothing is stored any more, nobody is told anything."""
        self.crashed = True
        self.door.down = True
        ending = [*self.engine._tasks, *self.engine._services]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)
        self.engine._services = []
        self.engine._live.clear()


class Cluster:
    """Processes on one database."""

    def __init__(self, url: str, stack: AsyncExitStack, neighbours: Neighbours) -> None:
        self._url = url
        self._stack = stack
        self.neighbours = neighbours
        self.processes: list[Process] = []

    async def process(self, runner: ScriptedRunner, **options: Any) -> Process:
        """One more."""
        door = await self._stack.enter_async_context(door_to(self._url))
        engine = engine_on(runner, door, **{"signals": self.neighbours.signal(), **options})
        await engine.open()
        process = Process(engine, door, runner)
        self._stack.push_async_callback(self._close, process)
        self.processes.append(process)
        return process

    async def two(self, runner: ScriptedRunner, **options: Any) -> tuple[Process, Process]:
        """Two that serve the same agent."""
        return await self.process(runner, **options), await self.process(runner, **options)

    async def _close(self, process: Process) -> None:
        if not process.crashed:
            await process.engine.close()


@asynccontextmanager
async def cluster_on(url: str, *, connected: bool = False) -> AsyncIterator[Cluster]:
    """No processes yet, on the database at `url`."""
    async with AsyncExitStack() as stack:
        yield Cluster(url, stack, Neighbours(connected=connected))


async def end_abandoned(door: Door, run_id: UUID) -> None:
    """What a process does that finds a run's lease expired, as if it were."""

    async def end() -> bool:
        run = await door.run(run_id)
        if run.status.final:
            return True
        return (await elsewhere.end_abandoned(door.store, run, timedelta(microseconds=1))).stored

    await until(end)
