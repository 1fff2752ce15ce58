"""Engines of one or several processes on a real store, with runners that play scripts.

Script       what an agent does: events, waits, model calls, and how it ends
Door         the real store, behind a door that can be shut, held or booby-trapped call by call
Neighbours   signals between engines, on time or lost
Process      one engine with its own connections, as another process would have them; it can crash
"""

import asyncio
import inspect
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias, cast
from uuid import UUID

from dragoman import ids
from dragoman.engine import Engine, elsewhere
from dragoman.engine.engine import FollowedRun
from dragoman.engine.ports import (
    Catalog,
    ContinueDraft,
    JsonObject,
    Meter,
    Outcome,
    Page,
    Pricer,
    RunDraft,
    Runner,
    RunOrder,
    Store,
)
from dragoman.errors import AgentNotFound, StorageUnavailable
from dragoman.records import (
    CallStatus,
    Cost,
    Limits,
    Message,
    ModelCall,
    Owner,
    RequestKey,
    Run,
    Session,
    SessionConflict,
    TokenUsage,
    money,
    utcnow,
)
from dragoman.storage import SqlStore, open_store
from dragoman.v1 import agent_service_pb2, event_pb2

OWNER = Owner("local")
POLL = 0.05
ENDS = frozenset({"run_completed", "run_failed", "run_cancelled"})
PATIENCE = 20.0
"""Seconds after which a test that waits for something gives up."""


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Waits for a condition, on the store or in memory."""
    async with asyncio.timeout(PATIENCE):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.005)


# What agents do


async def end_abandoned(door: "Door", run_id: UUID) -> None:
    """What a process does that finds a run's lease expired, as if it were."""

    async def end() -> bool:
        run = await door.run(run_id)
        if run.status.final:
            return True
        return (await elsewhere.end_abandoned(door.store, run, timedelta(microseconds=1))).stored

    await until(end)


def text(words: str, member: str = "") -> event_pb2.RunEvent:
    event = event_pb2.RunEvent(content_delta=event_pb2.ContentDelta(text=words))
    if member:
        event.member.run_id = member
    return event


def thought(words: str) -> event_pb2.RunEvent:
    return event_pb2.RunEvent(reasoning_delta=event_pb2.ReasoningDelta(text=words))


def tool(call_id: str) -> event_pb2.RunEvent:
    event = event_pb2.RunEvent()
    event.tool_call_started.tool_call.id = call_id
    return event


def complete(outcome: Outcome) -> None:
    outcome.status = "completed"


def pause(then: str) -> Callable[[Outcome], None]:
    """The end of a segment: the run waits, and plays the script `then` when it is continued."""

    def finish(outcome: Outcome) -> None:
        outcome.status = "paused"
        outcome.requirements = [event_pb2.Requirement(id="r1", confirmation=event_pb2.ConfirmationNeed())]
        outcome.continuation = then.encode()

    return finish


@dataclass(frozen=True)
class Spend:
    """A request to the model. It is asked for first, unless `unasked`; `reports` are tokens known before it ends."""

    tokens: int = 10
    reports: tuple[int, ...] = ()
    hangs: bool = False
    """It never ends."""
    unasked: bool = False


@dataclass(frozen=True)
class Remember:
    """A message that the run will leave."""


Step: TypeAlias = object
"""An event, an exception to raise, something to await (called without arguments), Spend or Remember."""


class Script:
    """What one segment of a run does."""

    def __init__(self, *steps: Step, finish: Callable[[Outcome], None] = complete) -> None:
        self.steps = steps
        self.finish = finish


class ScriptedRun:
    """Plays a script."""

    def __init__(self, script: Script, order: RunOrder, meter: Meter, pricer: "UnitPricer") -> None:
        self.order = order
        self._script = script
        self._meter = meter
        self._pricer = pricer
        before = order.continuation.content if order.continuation is not None else ""
        self._outcome = Outcome(content=before)
        self.refused = False
        self.stopped = False
        self.closed = False

    async def events(self) -> AsyncGenerator[event_pb2.RunEvent, None]:
        try:
            for step in self._script.steps:
                if isinstance(step, event_pb2.RunEvent):
                    copy = event_pb2.RunEvent()
                    copy.CopyFrom(step)
                    if not copy.HasField("member"):
                        self._outcome.content += copy.content_delta.text
                    yield copy
                elif isinstance(step, BaseException):
                    raise step
                elif isinstance(step, Spend):
                    await self._spend(step)
                elif isinstance(step, Remember):
                    self._outcome.messages.append(message(self.order.run_id))
                else:
                    await cast("Callable[[], Awaitable[object]]", step)()
            self._script.finish(self._outcome)
        finally:
            self.closed = True

    async def _spend(self, spend: Spend) -> None:
        if not spend.unasked and not self._meter.may_call():
            self.refused = True
            await asyncio.Event().wait()
        made = call(self.order.run_id)
        self._outcome.calls.append(made)
        for tokens in spend.reports:
            await self._report(made, tokens, CallStatus.INTERRUPTED, under_way=True)
        if spend.hangs:
            await asyncio.Event().wait()
        await self._report(made, spend.tokens, CallStatus.COMPLETED, under_way=False)

    async def _report(self, made: ModelCall, tokens: int, status: CallStatus, *, under_way: bool) -> None:
        usage = TokenUsage(output_tokens=tokens)
        cost = self._pricer.price(made.provider, made.model, usage, utcnow())
        now = replace(made, usage=usage, cost=cost, status=status)
        at = next(place for place, one in enumerate(self._outcome.calls) if one.id == made.id)
        self._outcome.calls[at] = now
        self._meter.note(now, under_way=under_way)
        await asyncio.sleep(0)

    async def stop(self) -> None:
        self.stopped = True

    def outcome(self) -> Outcome:
        return self._outcome


class ScriptedRunner:
    """A runner whose runs play the script that is called like their message (or continuation), else the one given."""

    def __init__(self, *steps: Step, finish: Callable[[Outcome], None] = complete, **named: Script) -> None:
        self.script = Script(*steps, finish=finish)
        self.named = named
        self.pricer = UnitPricer()
        self.begun: list[ScriptedRun] = []
        self.refuses: Exception | None = None

    def begin(self, order: RunOrder, meter: Meter) -> Any:
        if self.refuses is not None:
            raise self.refuses
        going_on = order.continuation
        name = order.message if going_on is None else going_on.state.decode()
        run = ScriptedRun(self.named.get(name, self.script), order, meter, self.pricer)
        self.begun.append(run)
        return run

    def of(self, run_id: UUID) -> list[ScriptedRun]:
        """The segments of a run that were begun here."""
        return [run for run in self.begun if run.order.run_id == run_id]

    async def close(self) -> None:
        return None


class OneAgent:
    """A catalog with one agent."""

    def __init__(self) -> None:
        self.own_limits = Limits()

    def agents(self) -> Sequence[agent_service_pb2.Agent]:
        return [self.agent("echo")]

    def agent(self, name: str) -> agent_service_pb2.Agent:
        if name != "echo":
            raise AgentNotFound(name)
        return agent_service_pb2.Agent(name="echo", model="m-1", provider="p")

    def limits(self, name: str) -> Limits:
        return self.own_limits

    async def accept_session(self, name: str, inputs: JsonObject, owner: Owner) -> JsonObject:
        return inputs

    async def accept_run(self, draft: RunDraft) -> JsonObject:
        return dict(draft.inputs)


class UnitPricer:
    """A token costs `unit`; None: nobody knows."""

    currency = "ZAR"

    def __init__(self, unit: Decimal | None = None) -> None:
        self.unit = unit

    def price(self, provider: str, model: str, usage: TokenUsage, at: datetime) -> Cost | None:
        if self.unit is None:
            return None
        amount = money(self.unit * usage.total_tokens)
        rate = Decimal(1)
        return Cost(amount, amount, self.currency, "test 1", rate, at.date(), {"output_tokens": self.unit})


def draft(session: Session | None = None, message: str = "hello", **more: Any) -> RunDraft:
    return RunDraft(owner=OWNER, agent_name="echo", session=session, message=message, **more)


def going_on(run: Run | FollowedRun, after: int, **more: Any) -> ContinueDraft:
    run_id = run.id if isinstance(run, Run) else run.run_id
    return ContinueDraft(owner=OWNER, run_id=run_id, after_sequence=after, resolutions=(), **more)


def request(name: str, body: bytes = b"a") -> RequestKey:
    return RequestKey(name, body.ljust(32, b"."))


def message(run_id: UUID) -> Message:
    return Message(
        id=ids.new_id(),
        run_id=run_id,
        parent_run_id=None,
        agent_name="echo",
        role="assistant",
        provider="p",
        model="m-1",
        parts=b"{}",
        create_time=datetime.now(UTC),
    )


def call(run_id: UUID) -> ModelCall:
    """A call that has just been made: nothing is known of its tokens."""
    return ModelCall(
        id=ids.new_id(),
        run_id=run_id,
        parent_run_id=None,
        agent_name="echo",
        kind="model",
        provider="p",
        model="m-1",
        usage=TokenUsage(),
        cost=None,
        status=CallStatus.INTERRUPTED,
        stop_reason="",
        start_time=datetime.now(UTC),
        duration=timedelta(seconds=1),
    )


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


# What followers see


async def watch(live: FollowedRun, after: int = 0) -> list[event_pb2.RunEvent]:
    """The events after the sequence, to the last."""
    async with asyncio.timeout(PATIENCE):
        return [event async for event in live.events(after)]


def kinds(events: Sequence[event_pb2.RunEvent]) -> list[str]:
    return [event.WhichOneof("event") or "" for event in events]


def written(events: Sequence[event_pb2.RunEvent]) -> str:
    return "".join(event.content_delta.text for event in events)


def numbers(events: Sequence[event_pb2.RunEvent]) -> list[int]:
    return [event.sequence for event in events]


def assert_whole(events: Sequence[event_pb2.RunEvent], *, first: str = "run_started") -> None:
    """Contiguous from 1, begun as it should, one end or pause, and that one last."""
    assert numbers(events) == list(range(1, len(events) + 1))
    assert kinds(events)[0] == first
    assert [kind for kind in kinds(events) if kind in ENDS | {"run_paused"}] == [kinds(events)[-1]]
    assert all(event.create_time.seconds > 0 for event in events)
