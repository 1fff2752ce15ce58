"""What the engine and the transport need of the other rooms, as Protocols.

`app.py` wires the real things in and mypy proves that they fit; nothing here imports them.

    Catalog        which agents there are, and whether they accept what a caller sent       catalog/
    Runner         runs an agent and says what happened                                     adapter/
    MessageView    shows a stored message as its proto                                      adapter/
    MediaInspector tells whether bytes are what they claim to be                            adapter/
    Store          keeps everything                                                         storage/
    Pricer         what tokens cost                                                         pricing/
"""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar
from uuid import UUID

from dragoman.errors import DragomanError
from dragoman.records import (
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
from dragoman.v1 import agent_service_pb2, event_pb2, message_pb2

Key = TypeVar("Key")

JsonObject: TypeAlias = dict[str, object]
"""What `google.protobuf.Struct` holds: null, booleans, floats, strings, lists and objects."""


class MediaKind(StrEnum):
    """What sort of medium it is; the values are Agno's words."""

    IMAGE = "image"
    FILE = "file"
    AUDIO = "audio"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class InputMedia:
    """A medium that came with a message, inspected: `mime_type` is what the bytes are."""

    kind: MediaKind
    mime_type: str
    name: str
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class RunDraft:
    """A run that a caller asks for, before it exists."""

    owner: Owner
    agent_name: str
    session: Session | None
    """None: a new session is made."""
    message: str
    media: tuple[InputMedia, ...] = ()
    inputs: Mapping[str, object] = field(default_factory=dict)
    """As the agent's RequestModel accepted them (JSON)."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    session_inputs: Mapping[str, object] = field(default_factory=dict)
    """For a new session: what the agent's CreateSessionModel made of no inputs."""


@dataclass(frozen=True, slots=True)
class RunOrder:
    """A run that exists: what the runner is to do."""

    run_id: UUID
    owner: Owner
    session: Session
    agent_name: str
    message: str
    media: tuple[InputMedia, ...]
    inputs: Mapping[str, object]
    metadata: Mapping[str, str]


@dataclass(slots=True)
class Outcome:
    """What came of a run as far as it got. Valid at any moment, so that an interrupted run keeps what it had."""

    status: Literal["running", "completed", "failed", "paused"] = "running"
    """`running`: neither ended nor failed by itself (it was interrupted)."""
    content: str = ""
    structured: object | None = None
    """JSON of the structured answer; None when there is none."""
    finish_reason: event_pb2.FinishReason.ValueType = event_pb2.FINISH_REASON_UNSPECIFIED
    error: DragomanError | None = None
    """Set when failed."""
    requirements: list[event_pb2.Requirement] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    """The new ones, in order, the user's first. A history that a provider accepts: no orphan tool calls."""
    media: list[Media] = field(default_factory=list)
    """Those that `messages` refer to."""
    calls: list[ModelCall] = field(default_factory=list)
    """All model calls, the interrupted one included, priced."""


class AgentRun(Protocol):
    """One run of an agent, under way. Used by one task."""

    def events(self) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """What happens, as it happens, without sequence and time.

        Never yields run_started, run_paused, run_completed, run_failed or run_cancelled: those are the engine's. Ends
        normally also when the run failed: `outcome()` tells. Cancelling the task that iterates closes the model's HTTP
        request at once. Must be closed (`aclose`) by the one who iterates.
        """
        ...

    async def stop(self) -> None:
        """Asks the agent and its members to stop at the next occasion. Returns at once; harmless when it has ended."""
        ...

    def outcome(self) -> Outcome:
        """What came of it so far."""
        ...


class Runner(Protocol):
    """Runs agents."""

    def begin(self, order: RunOrder) -> AgentRun:
        """Prepares a run. Does no I/O and raises nothing: all that goes wrong is in the outcome."""
        ...

    async def close(self) -> None:
        """Closes the model clients."""
        ...


class Catalog(Protocol):
    """The agents that are served."""

    def agents(self) -> Sequence[agent_service_pb2.Agent]:
        """All, by name."""
        ...

    def agent(self, name: str) -> agent_service_pb2.Agent:
        """One. Raises AgentNotFound."""
        ...

    async def accept_session(self, name: str, inputs: JsonObject, owner: Owner) -> JsonObject:
        """The inputs as the agent's CreateSessionModel and `validate_create_session` accept them.

        Raises AgentNotFound, InvalidInput with paths below `inputs`, AgentFailed when the agent's own code raises.
        """
        ...

    async def accept_run(self, draft: RunDraft) -> JsonObject:
        """`draft.inputs` as the agent's RequestModel and `validate_run` accept them. Raises as `accept_session`."""
        ...


class MediaInspector(Protocol):
    """Tells whether bytes are what they claim to be."""

    async def inspect(
        self, kind: MediaKind | None, mime_type: str, name: str, data: bytes, path: str
    ) -> InputMedia:
        """The medium with its true MIME type. Raises InvalidMedia with violations at `path` and below."""
        ...


class MessageView(Protocol):
    """Shows a stored message."""

    def show(self, message: Message, media: Mapping[bytes, Media]) -> message_pb2.Message:
        """The message without `session_id`. `media`: bytes to put inline, by hash; others are shown by id."""
        ...


class Pricer(Protocol):
    """What tokens cost."""

    @property
    def currency(self) -> str:
        """The reporting currency."""
        ...

    def price(self, provider: str, model: str, usage: TokenUsage, at: datetime) -> Cost | None:
        """The cost of a call that ended at `at`; None when no price or exchange rate is known. Never raises."""
        ...


@dataclass(frozen=True, slots=True)
class Page(Generic[Key]):
    """A slice of a list: at most `size` rows after the row with the key `after` (None: from the beginning)."""

    size: int
    after: Key | None = None


TimeKey: TypeAlias = tuple[datetime, UUID]
"""Key of lists ordered by a time, the newest first; the id breaks ties."""


class UsageDimension(StrEnum):
    """By what usage can be grouped."""

    DAY = "day"
    AGENT = "agent"
    MEMBER = "member"
    MODEL = "model"
    USER = "user"
    SESSION = "session"
    PRINCIPAL = "principal"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which calls to sum and how to group them."""

    group_by: tuple[UsageDimension, ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None
    agent_name: str = ""
    session_id: UUID | None = None


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The sums of one group."""

    key: tuple[str, ...]
    """One text per dimension, in order; DAY as YYYY-MM-DD; MODEL takes two places: provider, model."""
    runs: int
    model_calls: int
    unpriced_calls: int
    usage: TokenUsage
    usd: Decimal
    amount: Decimal
    currency: str


class Store(Protocol):
    """Keeps everything. Every call may raise StorageUnavailable; every write is whole or not at all."""

    async def create_session(self, session: Session) -> None:
        """Inserts a session."""
        ...

    async def get_session(self, owner: Owner, session_id: UUID) -> Session:
        """Raises SessionNotFound."""
        ...

    async def list_sessions(self, owner: Owner, agent_name: str, page: Page[TimeKey]) -> list[Session]:
        """By (update_time, id), the newest first; `agent_name` empty: all agents."""
        ...

    async def update_session(
        self, owner: Owner, session_id: UUID, *, title: str | None, metadata: Mapping[str, str] | None
    ) -> Session:
        """Changes what is not None. Raises SessionNotFound."""
        ...

    async def delete_session(self, owner: Owner, session_id: UUID) -> None:
        """Deletes it with its messages, runs, events and media nobody else refers to; keeps the ledger.

        Raises SessionNotFound, SessionBusy.
        """
        ...

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
        """By sequence. Without `members` only those with no parent run. Raises SessionNotFound."""
        ...

    async def load_history(self, owner: Owner, session_id: UUID, runs: int | None) -> list[Message]:
        """The messages of the last `runs` runs (None: all) of the session's own agent, in order. One indexed read."""
        ...

    async def get_media(self, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
        """Those of the owner's that there are, by hash."""
        ...

    async def start_run(self, run: Run, new_session: Session | None) -> Session:
        """Inserts the run, claiming its session's turn; makes the session first when it is new. One transaction.

        Returns the session. Raises SessionNotFound (unknown, another owner's, another agent's), SessionBusy.
        """
        ...

    async def append_events(self, chunks: Sequence[EventChunk]) -> None:
        """Appends to the event logs of several runs at once. Appending the same chunk twice is harmless."""
        ...

    async def read_events(
        self, owner: Owner, run_id: UUID, after_sequence: int, max_bytes: int
    ) -> list[EventChunk]:
        """Stored chunks that hold events after the sequence, in order, at least one if there is any, up to `max_bytes`.

        Raises RunNotFound.
        """
        ...

    async def end_run(self, end: RunEnd) -> None:
        """Writes all that a run leaves and frees its session, in one transaction. A second time it changes nothing."""
        ...

    async def get_run(self, owner: Owner, run_id: UUID) -> Run:
        """Raises RunNotFound."""
        ...

    async def list_runs(
        self,
        owner: Owner,
        page: Page[TimeKey],
        *,
        session_id: UUID | None = None,
        agent_name: str = "",
        status: RunStatus | None = None,
    ) -> list[Run]:
        """By (create_time, id), the newest first."""
        ...

    async def query_usage(
        self, owner: Owner, query: UsageQuery, page: Page[tuple[str, ...]]
    ) -> list[UsageRow]:
        """Groups in the order of their keys."""
        ...

    async def unfinished_runs(self, before: datetime) -> list[Run]:
        """Running runs, of any owner, whose process has not renewed its lease since `before`."""
        ...

    async def renew_leases(self, run_ids: Sequence[UUID], now: datetime) -> None:
        """Says that these runs' process lives."""
        ...

    async def ping(self) -> None:
        """Returns when the database answers. Raises StorageUnavailable."""
        ...
