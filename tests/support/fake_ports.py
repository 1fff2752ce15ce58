"""Small in-memory stand-ins for what the transport talks to: enough to be asked, no more."""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from dragoman import ids
from dragoman.engine.ports import (
    BudgetState,
    ContinueDraft,
    InputMedia,
    JsonObject,
    MediaKind,
    Page,
    RequestRecord,
    RunDraft,
    TimeKey,
    UsageQuery,
    UsageRow,
)
from dragoman.errors import (
    AgentNotFound,
    DragomanError,
    InvalidInput,
    InvalidMedia,
    MediaNotFound,
    RequestIdReused,
    RunNotFound,
    RunNotPaused,
    SessionNotFound,
    Violation,
)
from dragoman.quotas import Quotas
from dragoman.records import (
    Limits,
    Media,
    Message,
    Owner,
    RequestKey,
    Run,
    RunStatus,
    Session,
    TokenUsage,
    Totals,
)
from dragoman.v1 import agent_service_pb2, event_pb2, message_pb2

OWNER = Owner("local")
NOW = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)


def make_session(agent_name: str = "plain", **fields: Any) -> Session:
    """A session of the local owner."""
    defaults = {"id": ids.new_id(), "owner": OWNER, "title": "", "metadata": {}, "inputs": {}}
    times = {"create_time": NOW, "update_time": NOW}
    return Session(agent_name=agent_name, **{**defaults, **times, **fields})


def make_run(session_id: UUID, **fields: Any) -> Run:
    """A run of the local owner, under way."""
    defaults: dict[str, Any] = {
        "id": ids.new_id(),
        "session_id": session_id,
        "owner": OWNER,
        "agent_name": "plain",
        "model": "scripted-1",
        "provider": "Scripted",
        "status": RunStatus.RUNNING,
        "metadata": {},
        "create_time": NOW,
        "update_time": NOW,
    }
    return Run(**{**defaults, **fields})


def make_message(
    run: Run, sequence: int, text: str, *, media: tuple[bytes, ...] = (), **fields: Any
) -> Message:
    """A user's message; the fake view shows `parts` as its text."""
    return Message(
        id=ids.new_id(),
        run_id=run.id,
        parent_run_id=None,
        agent_name=run.agent_name,
        role="user",
        provider="",
        model="",
        parts=text.encode(),
        create_time=NOW,
        media=media,
        sequence=sequence,
        **fields,
    )


class FakeCatalog:
    """`plain` takes text, `painter` images, `strict` needs inputs for a session and refuses some for a run."""

    def __init__(self) -> None:
        image = message_pb2.MEDIA_KIND_IMAGE
        self._agents = {
            name: agent_service_pb2.Agent(
                name=name, kind=agent_service_pb2.AGENT_KIND_AGENT, accepted_media=media
            )
            for name, media in (("painter", [image]), ("plain", []), ("strict", []))
        }
        self.accepted_runs: list[RunDraft] = []

    def agents(self) -> Sequence[agent_service_pb2.Agent]:
        return list(self._agents.values())

    def agent(self, name: str) -> agent_service_pb2.Agent:
        if name not in self._agents:
            raise AgentNotFound(name)
        return self._agents[name]

    def limits(self, name: str) -> Limits:
        self.agent(name)
        return Limits()

    async def accept_session(self, name: str, inputs: JsonObject, owner: Owner) -> JsonObject:
        self.agent(name)
        if name == "strict" and "topic" not in inputs:
            raise InvalidInput([Violation("inputs.topic", "Field required")])
        return {**inputs, "accepted": True}

    async def accept_run(self, draft: RunDraft) -> JsonObject:
        self.accepted_runs.append(draft)
        if draft.agent_name == "strict" and draft.inputs:
            raise InvalidInput([Violation(f"inputs.{key}", "is not allowed") for key in draft.inputs])
        return {**draft.inputs, "accepted": True}


class FakeInspector:
    """Bytes that begin with `bad` are refused; what has no kind is an image when it begins with `img`."""

    async def inspect(
        self, kind: MediaKind | None, mime_type: str, name: str, data: bytes, path: str
    ) -> InputMedia:
        if data.startswith(b"bad"):
            raise InvalidMedia([Violation(f"{path}.data", "is not an image")])
        return InputMedia(
            kind or (MediaKind.IMAGE if data.startswith(b"img") else MediaKind.FILE),
            mime_type or "image/png",
            name,
            data,
        )


class FakeView:
    """Shows `parts` as the text, and media by id or with their bytes."""

    def show(self, message: Message, media: Mapping[bytes, Media]) -> message_pb2.Message:
        shown = message_pb2.Message(
            id=str(message.id),
            run_id=str(message.run_id),
            agent_name=message.agent_name,
            sequence=message.sequence,
            role=message_pb2.MESSAGE_ROLE_USER,
            content=message.parts.decode(),
        )
        for sha256 in message.media:
            data = media[sha256].data if sha256 in media else b""
            shown.media.add(id=sha256.hex(), data=data)
        return shown


@dataclass(frozen=True)
class FakeMedium:
    """A medium in memory."""

    medium: Media

    @property
    def mime_type(self) -> str:
        return self.medium.mime_type

    @property
    def size(self) -> int:
        return len(self.medium.data)

    async def read(self, offset: int, size: int) -> bytes:
        return self.medium.data[offset : offset + size]


@dataclass
class FakeStore:
    """Dicts. Raises `broken` from every call when that is set."""

    sessions: dict[UUID, Session] = field(default_factory=dict)
    runs: dict[UUID, Run] = field(default_factory=dict)
    messages: dict[UUID, list[Message]] = field(default_factory=dict)
    media: dict[bytes, Media] = field(default_factory=dict)
    usage: list[UsageRow] = field(default_factory=list)
    requests: dict[tuple[Owner, str], RequestRecord] = field(default_factory=dict)
    queries: list[UsageQuery] = field(default_factory=list)
    media_reads: int = 0
    broken: Exception | None = None

    def add_session(self, **fields: Any) -> Session:
        session = make_session(**fields)
        self.sessions[session.id] = session
        return session

    def add_run(self, session: Session, **fields: Any) -> Run:
        run = make_run(session.id, **fields)
        self.runs[run.id] = run
        return run

    def add_messages(self, run: Run, *texts: str, media: tuple[bytes, ...] = ()) -> list[Message]:
        kept = self.messages.setdefault(run.session_id, [])
        added = [make_message(run, len(kept) + 1 + n, text, media=media) for n, text in enumerate(texts)]
        kept.extend(added)
        return added

    def add_medium(self, data: bytes) -> bytes:
        sha256 = hashlib.sha256(data).digest()
        self.media[sha256] = Media(sha256, "image/png", data)
        return sha256

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    async def ping(self) -> None:
        self._check()

    async def create_session(self, session: Session, request: RequestKey | None = None) -> Session:
        self._check()
        record = await self.find_request(session.owner, request) if request else None
        if record is not None:
            return self.sessions[record.session_id]
        self.sessions[session.id] = session
        if request:
            self.requests[session.owner, request.id] = RequestRecord(request, session.id, None, 0)
        return session

    async def find_request(self, owner: Owner, request: RequestKey) -> RequestRecord | None:
        record = self.requests.get((owner, request.id))
        if record is not None and record.key != request:
            raise RequestIdReused(request.id)
        return record

    async def get_session(self, owner: Owner, session_id: UUID) -> Session:
        self._check()
        session = self.sessions.get(session_id)
        if session is None or session.owner != owner:
            raise SessionNotFound(session_id)
        return session

    async def list_sessions(self, owner: Owner, agent_name: str, page: Page[TimeKey]) -> list[Session]:
        self._check()
        rows = [
            row for row in self.sessions.values() if row.owner == owner and agent_name in ("", row.agent_name)
        ]
        return _newest_first(rows, page, lambda row: (row.update_time, row.id))

    async def update_session(
        self, owner: Owner, session_id: UUID, *, title: str | None, metadata: Mapping[str, str] | None
    ) -> Session:
        session = await self.get_session(owner, session_id)
        session = replace(
            session,
            title=session.title if title is None else title,
            metadata=session.metadata if metadata is None else metadata,
        )
        self.sessions[session_id] = session
        return session

    async def delete_session(self, owner: Owner, session_id: UUID) -> None:
        await self.get_session(owner, session_id)
        del self.sessions[session_id]

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
        await self.get_session(owner, session_id)
        rows = [row for row in self.messages.get(session_id, []) if run_id in (None, row.run_id)]
        if newest_first:
            rows = [row for row in reversed(rows) if page.after is None or row.sequence < page.after]
        else:
            rows = [row for row in rows if page.after is None or row.sequence > page.after]
        return rows[: page.size]

    async def get_media(self, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
        self._check()
        self.media_reads += 1
        return {sha256: self.media[sha256] for sha256 in hashes if sha256 in self.media}

    async def open_media(self, owner: Owner, sha256: bytes) -> "FakeMedium":
        self._check()
        if sha256 not in self.media:
            raise MediaNotFound(sha256.hex())
        return FakeMedium(self.media[sha256])

    async def get_run(self, owner: Owner, run_id: UUID) -> Run:
        self._check()
        run = self.runs.get(run_id)
        if run is None or run.owner != owner:
            raise RunNotFound(run_id)
        return run

    async def list_runs(
        self,
        owner: Owner,
        page: Page[TimeKey],
        *,
        session_id: UUID | None = None,
        agent_name: str = "",
        status: RunStatus | None = None,
    ) -> list[Run]:
        self._check()
        rows = [
            row
            for row in self.runs.values()
            if row.owner == owner
            and session_id in (None, row.session_id)
            and agent_name in ("", row.agent_name)
            and status in (None, row.status)
        ]
        return _newest_first(rows, page, lambda row: (row.create_time, row.id))

    async def query_usage(
        self, owner: Owner, query: UsageQuery, page: Page[tuple[str, ...]]
    ) -> list[UsageRow]:
        self._check()
        self.queries.append(query)
        rows = [row for row in self.usage if page.after is None or row.key > page.after]
        return sorted(rows, key=lambda row: row.key)[: page.size]


def _newest_first(rows: list[Any], page: Page[TimeKey], key: Callable[[Any], TimeKey]) -> list[Any]:
    rows = sorted(rows, key=key, reverse=True)
    return [row for row in rows if page.after is None or key(row) < page.after][: page.size]


def usage_row(*key: str, **fields: Any) -> UsageRow:
    """One group's sums."""
    defaults: dict[str, Any] = {
        "runs": 1,
        "model_calls": 2,
        "unpriced_calls": 1,
        "usage": TokenUsage(input_tokens=10, output_tokens=5),
        "usd": Decimal("0.5"),
        "amount": Decimal("9.123456789012"),
        "currency": "ZAR",
    }
    return UsageRow(key=key, **{**defaults, **fields})


def delta(text: str) -> event_pb2.RunEvent:
    """An event of the script below, still without sequence."""
    return event_pb2.RunEvent(content_delta=event_pb2.ContentDelta(text=text))


def completed(text: str) -> event_pb2.RunEvent:
    """The event that ends a run well."""
    return event_pb2.RunEvent(run_completed=event_pb2.RunCompleted(content=text, model_calls=1))


Step = event_pb2.RunEvent | asyncio.Event | Exception | type[asyncio.CancelledError]
"""What a fake run does next: an event, waiting for something, or an error."""


class FakeRun:
    """Plays a script to every observer, and counts them and those who join and leave."""

    def __init__(
        self, draft: RunDraft | None, run: Run, script: Sequence[Step], after_sequence: int = 0
    ) -> None:
        self._draft = draft
        self.run = run
        self._script = script
        self.after_sequence = after_sequence
        self.opened = 0
        self.closed = 0
        self.sent = 0
        self.joined = 0
        self.left: list[bool] = []
        """For each who left, whether because of a deadline."""

    @property
    def draft(self) -> RunDraft:
        """What it was started with."""
        assert self._draft is not None, "the run was not started by a draft"
        return self._draft

    @property
    def run_id(self) -> UUID:
        return self.run.id

    @property
    def session_id(self) -> UUID:
        return self.run.session_id

    def join(self) -> None:
        self.joined += 1

    def leave(self, *, timed_out: bool = False) -> None:
        self.left.append(timed_out)
        assert len(self.left) <= self.joined, "somebody left who had not joined"

    async def events(self, after_sequence: int) -> AsyncGenerator[event_pb2.RunEvent, None]:
        self.opened += 1
        try:
            sequence = self.after_sequence
            for step in self._script:
                if isinstance(step, event_pb2.RunEvent):
                    sequence += 1
                    if sequence > after_sequence:
                        event = event_pb2.RunEvent(sequence=sequence)
                        event.MergeFrom(step)
                        self.sent += 1
                        yield event
                elif isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    raise step
        finally:
            # A clean-up that has something to wait for: a second cancel would cut it short.
            for _ in range(3):
                await asyncio.sleep(0)
            self.closed += 1

    async def wait(self) -> Run:
        last: event_pb2.RunEvent | None = None
        async with aclosing(self.events(0)) as events:
            async for event in events:
                last = event
        if last is None:
            raise AssertionError("the script has no event")
        statuses = {
            "run_completed": RunStatus.COMPLETED,
            "run_failed": RunStatus.FAILED,
            "run_cancelled": RunStatus.CANCELLED,
            "run_paused": RunStatus.PAUSED,
        }
        kind = last.WhichOneof("event")
        self.run = replace(
            self.run,
            status=statuses[str(kind)],
            end_time=NOW + timedelta(seconds=1),
            last_sequence=last.sequence,
            totals=Totals(TokenUsage(input_tokens=3), Decimal("0.1"), Decimal("1.8"), "ZAR", 1),
            last_event=last.SerializeToString(),
        )
        return self.run


class FakeEngine:
    """Starts runs that play `script`; a run in a new session makes one. Remembers requests by their ids."""

    def __init__(self, store: FakeStore) -> None:
        self._store = store
        self._requests: dict[tuple[Owner, str], tuple[RequestKey, FakeRun]] = {}
        self.script: Sequence[Step] = (delta("hello"), completed("hello"))
        self.runs: list[FakeRun] = []
        self.resumed: list[ContinueDraft] = []
        self.found: list[RequestKey] = []
        self.cancelled: list[tuple[UUID, str, str]] = []
        self.budget_states: list[BudgetState] = []
        self.budget_reads: list[tuple[Owner, str]] = []
        self.budget_quotas: Quotas | None = None
        self.refusal: DragomanError | None = None
        """Raised from `start` and `resume`, before they look for the request."""

    async def start(self, draft: RunDraft) -> FakeRun:
        if self.refusal is not None:
            raise self.refusal
        if earlier := self._earlier(draft.owner, draft.request):
            return earlier
        session = draft.session or self._store.add_session(agent_name=draft.agent_name)
        run = self._store.add_run(session, agent_name=draft.agent_name, metadata=draft.metadata)
        return self._keep(draft.owner, draft.request, FakeRun(draft, run, self.script))

    async def find(self, owner: Owner, request: RequestKey) -> FakeRun | None:
        self.found.append(request)
        return self._earlier(owner, request)

    async def attach(self, owner: Owner, run_id: UUID) -> FakeRun:
        if self.refusal is not None:
            raise self.refusal
        run = await self._store.get_run(owner, run_id)
        return self._keep(owner, None, FakeRun(None, run, self.script))

    async def resume(self, draft: ContinueDraft) -> FakeRun:
        if self.refusal is not None:
            raise self.refusal
        if earlier := self._earlier(draft.owner, draft.request):
            return earlier
        run = await self._store.get_run(draft.owner, draft.run_id)
        if run.status is not RunStatus.PAUSED or run.last_sequence != draft.after_sequence:
            raise RunNotPaused(run.id, run.status)
        self.resumed.append(draft)
        run = replace(run, status=RunStatus.RUNNING, last_event=b"")
        self._store.runs[run.id] = run
        return self._keep(
            draft.owner, draft.request, FakeRun(None, run, self.script, after_sequence=draft.after_sequence)
        )

    async def cancel(self, owner: Owner, run_id: UUID, *, by: str, note: str) -> Run:
        run = await self._store.get_run(owner, run_id)
        self.cancelled.append((run_id, by, note))
        return run

    async def cancel_any(self, run: Run, *, by: str, note: str) -> Run:
        self.cancelled.append((run.id, by, note))
        return run

    async def budgets(self, owner: Owner, agent_name: str, quotas: Quotas) -> list[BudgetState]:
        self.budget_reads.append((owner, agent_name))
        self.budget_quotas = quotas
        return self.budget_states

    def _keep(self, owner: Owner, request: RequestKey | None, run: FakeRun) -> FakeRun:
        self.runs.append(run)
        if request is not None:
            self._requests[owner, request.id] = (request, run)
        return run

    def _earlier(self, owner: Owner, request: RequestKey | None) -> FakeRun | None:
        key, run = self._requests.get((owner, request.id), (None, None)) if request else (None, None)
        if key is not None and key != request:
            raise RequestIdReused(key.id)
        return run
