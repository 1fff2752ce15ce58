"""An engine with a runner that plays a script and a store in memory: what the engine alone is tested with."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any, cast
from uuid import UUID

from dragoman import ids
from dragoman.engine import Engine, LiveRun
from dragoman.engine.ports import (
    Catalog,
    InputMedia,
    JsonObject,
    Outcome,
    Page,
    Pricer,
    RunDraft,
    Runner,
    RunOrder,
    Store,
    TimeKey,
    UsageQuery,
    UsageRow,
)
from dragoman.errors import AgentNotFound, RunNotFound, SessionBusy, SessionNotFound, StorageUnavailable
from dragoman.records import (
    CallStatus,
    Cost,
    EventChunk,
    Media,
    Message,
    ModelCall,
    Owner,
    Run,
    RunEnd,
    RunStatus,
    Session,
    TokenUsage,
)
from dragoman.v1 import agent_service_pb2, event_pb2

OWNER = Owner("local")


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


class MemoryStore:
    """What of `Store` the engine uses. `down` makes every call fail; `writes` counts appends."""

    def __init__(self) -> None:
        self.sessions: dict[UUID, Session] = {}
        self.runs: dict[UUID, Run] = {}
        self.active: dict[UUID, UUID] = {}
        self.events: dict[UUID, list[EventChunk]] = {}
        self.ends: list[RunEnd] = []
        self.leases: dict[UUID, datetime] = {}
        self.down = False
        self.writes = 0
        self.poisoned: set[UUID] = set()
        self.block: asyncio.Event | None = None

    def _check(self) -> None:
        if self.down:
            raise StorageUnavailable()

    async def start_run(self, run: Run, new_session: Session | None) -> Session:
        self._check()
        if self.block is not None:
            await self.block.wait()
        if new_session is not None:
            self.sessions[new_session.id] = new_session
        session = self.sessions.get(run.session_id)
        if session is None:
            raise SessionNotFound(run.session_id)
        if run.session_id in self.active:
            raise SessionBusy(run.session_id, self.active[run.session_id])
        self.active[run.session_id] = run.id
        self.runs[run.id] = run
        self.events[run.id] = []
        self.leases[run.id] = run.create_time
        return session

    async def append_events(self, chunks: Sequence[EventChunk]) -> None:
        self._check()
        self.writes += 1
        if any(chunk.run_id in self.poisoned for chunk in chunks):
            raise ValueError("a defect")
        for chunk in chunks:
            self.events[chunk.run_id].append(chunk)

    async def read_events(
        self, owner: Owner, run_id: UUID, after_sequence: int, max_bytes: int
    ) -> list[EventChunk]:
        self._check()
        return [chunk for chunk in self.events[run_id] if chunk.last_sequence > after_sequence][:2]

    async def end_run(self, end: RunEnd) -> None:
        self._check()
        if end.run_id not in self.runs:
            raise RunNotFound(end.run_id)
        if self.runs[end.run_id].status.final:
            return
        self.ends.append(end)
        self.events[end.run_id].append(end.chunk)
        run = self.runs[end.run_id]
        self.runs[end.run_id] = Run(
            **{
                **{name: getattr(run, name) for name in Run.__slots__},
                "status": end.status,
                "end_time": end.end_time,
                "last_sequence": end.chunk.last_sequence,
                "totals": end.totals,
                "last_event": end.chunk.events[-1],
            }
        )
        self.active.pop(end.session_id, None)
        self.leases.pop(end.run_id, None)

    async def get_run(self, owner: Owner, run_id: UUID) -> Run:
        self._check()
        run = self.runs.get(run_id)
        if run is None or run.owner != owner:
            raise RunNotFound(run_id)
        return run

    async def unfinished_runs(self, before: datetime) -> list[Run]:
        self._check()
        return [self.runs[run_id] for run_id, lease in self.leases.items() if lease < before]

    async def renew_leases(self, run_ids: Sequence[UUID], now: datetime) -> None:
        self._check()
        self.leases.update(dict.fromkeys(run_ids, now))

    def log(self, run_id: UUID) -> list[event_pb2.RunEvent]:
        """The stored events, in order."""
        return [event_pb2.RunEvent.FromString(data) for chunk in self.events[run_id] for data in chunk.events]

    async def create_session(self, session: Session) -> None:
        raise NotImplementedError

    async def get_session(self, owner: Owner, session_id: UUID) -> Session:
        raise NotImplementedError

    async def list_sessions(self, owner: Owner, agent_name: str, page: Page[TimeKey]) -> list[Session]:
        raise NotImplementedError

    async def update_session(
        self, owner: Owner, session_id: UUID, *, title: object, metadata: object
    ) -> Session:
        raise NotImplementedError

    async def delete_session(self, owner: Owner, session_id: UUID) -> None:
        raise NotImplementedError

    async def list_messages(
        self,
        owner: Owner,
        session_id: UUID,
        page: Page[int],
        *,
        run_id: UUID | None = None,
        newest_first: bool = False,
        members: bool = False,
    ) -> list[Message]:
        stored = [message for end in self.ends for message in end.messages if end.run_id == run_id]
        numbered = [replace(message, sequence=number) for number, message in enumerate(stored, 1)]
        return [message for message in numbered if message.sequence > (page.after or 0)][: page.size]

    async def load_history(self, owner: Owner, session_id: UUID, runs: int | None) -> list[Message]:
        raise NotImplementedError

    async def get_media(self, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
        raise NotImplementedError

    async def list_runs(
        self,
        owner: Owner,
        page: Page[TimeKey],
        *,
        session_id: UUID | None = None,
        agent_name: str = "",
        status: RunStatus | None = None,
    ) -> list[Run]:
        raise NotImplementedError

    async def query_usage(
        self, owner: Owner, query: UsageQuery, page: Page[tuple[str, ...]]
    ) -> list[UsageRow]:
        raise NotImplementedError

    async def ping(self) -> None:
        self._check()


class ScriptedRun:
    """Plays what its runner was given."""

    def __init__(self, runner: "ScriptedRunner", order: RunOrder) -> None:
        self._runner = runner
        self._order = order
        self._outcome = Outcome(calls=list(runner.calls))
        self.stopped = False
        self.closed = False

    async def events(self) -> AsyncGenerator[event_pb2.RunEvent, None]:
        try:
            for step in self._runner.script:
                if isinstance(step, event_pb2.RunEvent):
                    copy = event_pb2.RunEvent()
                    copy.CopyFrom(step)
                    if copy.HasField("content_delta"):
                        self._outcome.content += copy.content_delta.text
                    yield copy
                elif isinstance(step, BaseException):
                    raise step
                elif callable(step):
                    await step()
            self._runner.finish(self._outcome)
        finally:
            self.closed = True

    async def stop(self) -> None:
        self.stopped = True

    def outcome(self) -> Outcome:
        return self._outcome


def complete(outcome: Outcome) -> None:
    outcome.status = "completed"


class ScriptedRunner:
    """A runner whose runs all play the same script."""

    def __init__(self, *script: object, finish: Callable[[Outcome], None] = complete) -> None:
        self.script = script
        self.finish = finish
        self.calls: list[ModelCall] = []
        self.begun: list[ScriptedRun] = []
        self.refuses: Exception | None = None

    def begin(self, order: RunOrder) -> ScriptedRun:
        if self.refuses is not None:
            raise self.refuses
        run = ScriptedRun(self, order)
        self.begun.append(run)
        return run

    async def close(self) -> None:
        return None


class OneAgent:
    """A catalog with one agent."""

    def agents(self) -> Sequence[agent_service_pb2.Agent]:
        return [self.agent("echo")]

    def agent(self, name: str) -> agent_service_pb2.Agent:
        if name != "echo":
            raise AgentNotFound(name)
        return agent_service_pb2.Agent(name="echo", model="m-1", provider="p")

    async def accept_session(self, name: str, inputs: JsonObject, owner: Owner) -> JsonObject:
        return inputs

    async def accept_run(self, draft: RunDraft) -> JsonObject:
        return dict(draft.inputs)


class FreePricer:
    """Knows no price."""

    currency = "ZAR"

    def price(self, provider: str, model: str, usage: TokenUsage, at: datetime) -> Cost | None:
        return None


def draft(session: Session | None = None, media: tuple[InputMedia, ...] = ()) -> RunDraft:
    return RunDraft(owner=OWNER, agent_name="echo", session=session, message="hello", media=media)


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


def call(run_id: UUID | None = None, **tokens: int) -> ModelCall:
    return ModelCall(
        id=ids.new_id(),
        run_id=run_id or ids.new_id(),
        parent_run_id=None,
        agent_name="echo",
        kind="model",
        provider="p",
        model="m-1",
        usage=TokenUsage(**tokens),
        cost=None,
        status=CallStatus.COMPLETED,
        stop_reason="end_turn",
        start_time=datetime.now(UTC),
        duration=timedelta(seconds=1),
    )


@asynccontextmanager
async def engine_of(runner: ScriptedRunner, store: MemoryStore, **options: Any) -> AsyncIterator[Engine]:
    """An engine that is open, closed on the store as the test leaves it."""
    engine = Engine(
        catalog=cast("Catalog", OneAgent()),
        runner=cast("Runner", runner),
        store=cast("Store", store),
        pricer=cast("Pricer", FreePricer()),
        **options,
    )
    await engine.open()
    try:
        yield engine
    finally:
        await engine.close()


async def watch(live: LiveRun, after: int = 0) -> list[event_pb2.RunEvent]:
    """The events after the sequence, to the last."""
    return [event async for event in live.events(after)]
