"""What the engine and the transport need of the other rooms, as Protocols.

`app.py` wires the real things in and mypy proves that they fit; nothing here imports them.

    Catalog        which agents there are, and whether they accept what a caller sent       catalog/
    Runner         runs an agent and says what happened                                     adapter/
    MessageView    shows a stored message as its proto                                      adapter/
    MediaInspector tells whether bytes are what they claim to be                            adapter/
    MediaFetcher   fetches media that callers name by URL                                   fetch/
    BlobStore      keeps media, where the database does not                                 blobs/
    Store          keeps everything                                                         storage/
    Pricer         what tokens cost                                                         pricing/
    Signals        tells other processes at once what they would find in the store later    signals/
"""

from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import Generic, Literal, Protocol, TypeAlias, TypeVar
from uuid import UUID

from dragoman.errors import DragomanError
from dragoman.records import (
    Cancellation,
    Cost,
    EventChunk,
    Limits,
    Media,
    Message,
    ModelCall,
    Owner,
    Pause,
    RequestKey,
    Run,
    RunCalls,
    RunEnd,
    RunStatus,
    Session,
    SessionConflict,
    TokenUsage,
)
from dragoman.v1 import agent_service_pb2, event_pb2, message_pb2, run_service_pb2

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
    request: RequestKey | None = None
    limits: Limits = field(default_factory=Limits)
    conflict: SessionConflict = SessionConflict.REJECT
    cancel_on_disconnect: bool = False
    deadline: float | None = None
    """Seconds from now after which it is cancelled; None for none."""


@dataclass(frozen=True, slots=True)
class ContinueDraft:
    """A paused run that a caller wants to go on."""

    owner: Owner
    run_id: UUID
    after_sequence: int
    """Of the pause whose requirements the resolutions were checked against: of `run_paused`."""
    resolutions: tuple[run_service_pb2.Resolution, ...]
    """One for each requirement, of the right kind, checked against its schema."""
    request: RequestKey | None = None
    cancel_on_disconnect: bool = False
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Continuation:
    """A run that goes on after a pause: what the runner is to take up."""

    state: bytes = field(repr=False)
    """What the runner had left in `Outcome.continuation`."""
    resolutions: tuple[run_service_pb2.Resolution, ...]
    content: str = field(default="", repr=False)
    """The text that was written before."""


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
    continuation: Continuation | None = None
    """Set when it goes on after a pause; `message`, `media` and `inputs` are empty then."""


class Meter(Protocol):
    """What a run may still spend, and what is known of its calls before they end. Used on the event loop only."""

    def may_call(self) -> bool:
        """Asked before every request to a model. False: it must not be made; the run is being cancelled."""
        ...

    def note(self, call: ModelCall, *, under_way: bool) -> None:
        """Told whenever a provider has reported usage, and once more when the call has ended.

        `call` is as `Outcome.calls` would have it at this moment; the same id each time. May cancel the run.
        """
        ...


@dataclass(slots=True)
class Outcome:
    """What came of a run as far as it got. Valid at any moment, so that an interrupted run keeps what it had."""

    status: Literal["running", "completed", "failed", "paused"] = "running"
    """`running`: neither ended nor failed by itself (it was interrupted)."""
    content: str = ""
    """All of it, what was written before a pause included."""
    structured: object | None = None
    """JSON of the structured answer; None when there is none."""
    finish_reason: event_pb2.FinishReason.ValueType = event_pb2.FINISH_REASON_UNSPECIFIED
    error: DragomanError | None = None
    """Set when failed."""
    requirements: list[event_pb2.Requirement] = field(default_factory=list)
    continuation: bytes = field(default=b"", repr=False)
    """When paused: what `Continuation.state` will be."""
    messages: list[Message] = field(default_factory=list)
    """The new ones (since a pause, the newer ones), in order, the user's first. A history that a provider accepts: no
    orphan tool calls, but for those that a paused run waits for."""
    media: list[Media] = field(default_factory=list)
    """Those that `messages` refer to."""
    calls: list[ModelCall] = field(default_factory=list)
    """All model calls (since a pause, the newer ones), the interrupted one included, priced."""


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

    def begin(self, order: RunOrder, meter: Meter) -> AgentRun:
        """Prepares a run, or what follows a pause. Does no I/O and raises nothing: what goes wrong is in the outcome."""
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

    def limits(self, name: str) -> Limits:
        """The agent's own limits of a run. Raises AgentNotFound."""
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


@dataclass(frozen=True, slots=True)
class FetchedMedium:
    """What a URL gave."""

    data: bytes = field(repr=False)
    mime_type: str
    """What its server says it is, which may be anything; empty when it does not say."""


class MediaFetcher(Protocol):
    """Fetches media that callers name by URL, from hosts that the operator allows."""

    def refusal(self, uri: str) -> str:
        """Why the URL is not fetched, as a sentence without a subject; empty when it would be tried. Asks nobody."""
        ...

    async def fetch(self, uri: str, path: str) -> FetchedMedium:
        """The bytes. Raises InvalidMedia or MediaTooLarge with a violation at `path`."""
        ...


class BlobStore(Protocol):
    """Keeps bytes outside of the database. Every call may raise StorageUnavailable; each may be repeated."""

    async def put(self, key: str, data: bytes) -> None:
        """Keeps `data` under `key`. Again: the same."""
        ...

    async def get(self, key: str, offset: int = 0, size: int | None = None) -> bytes | None:
        """At most `size` of the bytes from `offset` on (None: all); None when there is nothing under `key`."""
        ...

    async def delete(self, key: str) -> None:
        """Forgets the key, if there is such a one."""
        ...


class StoredMedium(Protocol):
    """A medium that can be read piece by piece."""

    @property
    def mime_type(self) -> str:
        """What it is."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    async def read(self, offset: int, size: int) -> bytes:
        """At most `size` of its bytes from `offset` on; fewer only at its end. Raises MediaNotFound when it is gone."""
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
    time_zone: str = "UTC"
    """Whose days DAY means: an IANA name that `dragoman.zones` knows."""


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


class BudgetPeriod(StrEnum):
    """Over what a budget is summed up; the values are those of the settings."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A budget as it is set. At least one of the names is not empty."""

    principal: str
    """Whose it is. A name with `*` (any text) or `?` (any character) gives each principal that it fits one of its own."""
    agent_name: str
    """What it is for, likewise."""
    period: BudgetPeriod
    limit: Decimal
    """What may be spent in a period, in the reporting currency."""
    time_zone: str = "UTC"
    """Whose days and months are meant."""


@dataclass(frozen=True, slots=True)
class SpendingQuery:
    """Which calls to sum up: of whose runs, over all users, started in [start_time, end_time)."""

    principal: str
    """Empty: anybody's."""
    agent_name: str
    """Of the agent that was run; empty: any."""
    currency: str
    start_time: datetime
    split_time: datetime
    """What started before it is summed up apart from the rest."""
    end_time: datetime
    own: frozenset[UUID] = frozenset()
    """Calls to leave out of the sums and to tell one by one."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What a query found. Calls without a price count as nothing."""

    settled: Decimal
    recent: Decimal
    """Of calls that started before the split, and since."""
    own: Mapping[UUID, Decimal]
    """Those of the query's own calls that are booked."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget that holds for somebody, and how it stands."""

    principal: str
    """Whose it is; empty when it is an agent's, whoever runs it."""
    agent_name: str
    """What it is for; empty when it is a principal's, whatever is run."""
    period: BudgetPeriod
    limit: Decimal
    """In the reporting currency, as all its amounts."""
    spent: Decimal
    currency: str
    reset_time: datetime
    """When the next period begins."""


class Signals(Protocol):
    """Tells processes that something about a run has changed in the store: events, its end, a wish to cancel, its turn.

    Only a hint: a signal may be lost, come late, come twice or be about a run that nobody here knows.
    """

    def tell(self, run_ids: Iterable[UUID]) -> None:
        """Tells all other processes, soon. Never blocks, never raises."""
        ...

    def listen(self, listener: Callable[[Collection[UUID]], None]) -> None:
        """Calls `listener` on the event loop with what others tell. Once, before anything is told."""
        ...


@dataclass(frozen=True, slots=True)
class Started:
    """What became of a request to start a run."""

    run: Run
    """The run; the first one's when the same request was made before."""
    session: Session
    created: bool = True
    """False: the same request was made before, and nothing was done."""
    position: int = 0
    """When it is queued: its place among those that wait, from 1."""
    interrupted: tuple[Run, ...] = ()
    """Runs that were asked to end (INTERRUPTED): a paused one among them is for the caller to end."""


@dataclass(frozen=True, slots=True)
class Continued:
    """What became of a request to continue a run."""

    run: Run
    after_sequence: int
    """Of the pause that was (or is) continued: its followers want what comes after it."""
    session: Session
    pause: Pause | None = None
    """None: the same request was made before, and nothing was done."""
    message_ids: tuple[UUID, ...] = ()
    """Of the messages that the run has stored, in order."""


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """What a caller's earlier request came to."""

    key: RequestKey
    session_id: UUID
    run_id: UUID | None
    """None: it made a session."""
    after_sequence: int
    """After which sequence its followers want the run's events."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    status: RunStatus
    last_sequence: int


@dataclass(frozen=True, slots=True)
class Notice:
    """What other processes want of a run that this one holds."""

    run_id: UUID
    status: RunStatus
    """RUNNING on one that was queued: it has its turn. Final: another process has ended it."""
    cancellation: Cancellation | None


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of an end that was offered."""

    stored: bool
    """Whether this end is the one that is stored; False: another process has ended the run before, and only the calls
    were booked."""
    next_run_id: UUID | None = None
    """The run that has got the session's turn."""


class Store(Protocol):
    """Keeps everything. Every call may raise StorageUnavailable; every write is whole or not at all."""

    async def create_session(self, session: Session, request: RequestKey | None = None) -> Session:
        """Inserts a session and returns it, or the one that the same request made before. Raises RequestIdReused."""
        ...

    async def find_request(self, owner: Owner, request: RequestKey) -> RequestRecord | None:
        """What the same request came to earlier; None when there was none. Raises RequestIdReused."""
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
        """The messages of the last `runs` runs (None: all) of the session's own agent, in order. One indexed read.

        Without what they have used and cost: no model is told.
        """
        ...

    async def load_member_history(
        self, owner: Owner, session_id: UUID, names: Sequence[str], each: int, last: int
    ) -> list[Message]:
        """The messages of the members that the session's own team delegated to, in order. One indexed read.

        Of each of `names` its latest `each` runs, as far as they are among the session's `last` runs. Without what they
        have used and cost.
        """
        ...

    async def open_media(self, owner: Owner, sha256: bytes) -> StoredMedium:
        """A medium to be read in pieces: nothing is held open between them. Raises MediaNotFound."""
        ...

    async def sweep_media(self, before: datetime, limit: int) -> int:
        """Deletes at most `limit` media that were put before and that nothing refers to; returns how many."""
        ...

    async def get_media(self, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
        """Those of the owner's that there are, by hash."""
        ...

    async def start_run(
        self,
        run: Run,
        new_session: Session | None,
        *,
        conflict: SessionConflict = SessionConflict.REJECT,
        max_queued: int = 0,
        request: RequestKey | None = None,
    ) -> Started:
        """Inserts the run, claiming its session's turn; makes the session first when it is new. One transaction.

        `run.holder` holds it, and its lease begins now. When the turn is taken: SessionBusy (REJECT); or it is inserted
        as QUEUED, last among those that wait (QUEUE, at most `max_queued` of them: else TooManyRuns); or likewise, when
        the one that has the turn and all that wait have been asked to end (INTERRUPT). The same request made before is
        found before anything else. Raises SessionNotFound (unknown, another owner's, another agent's), SessionBusy,
        TooManyRuns, RequestIdReused.
        """
        ...

    async def continue_run(
        self,
        owner: Owner,
        run_id: UUID,
        *,
        after_sequence: int,
        holder: UUID,
        request: RequestKey | None = None,
    ) -> Continued:
        """PAUSED becomes RUNNING, held by `holder`, if it still stands at `after_sequence`. One transaction.

        Raises RunNotFound, RunNotPaused, RequestIdReused.
        """
        ...

    async def request_cancel(self, owner: Owner, run_id: UUID, cancellation: Cancellation) -> Run:
        """Asks the process that holds the run to end it, and returns the run as it is. The first wish counts.

        Nothing is noted on a run that nobody holds. Raises RunNotFound.
        """
        ...

    async def notices(self, holder: UUID, run_ids: Collection[UUID]) -> list[Notice]:
        """Of `run_ids`, which the holder holds or has held: those with a cancellation, those no longer held by it, and
        those that were QUEUED when the holder looked last and are RUNNING now (it may get these every time)."""
        ...

    async def progress(self, run_ids: Collection[UUID]) -> dict[UUID, Progress]:
        """How far these runs are, of any owner. Those that do not exist are left out."""
        ...

    async def append_events(self, chunks: Sequence[EventChunk], calls: Sequence[RunCalls] = ()) -> None:
        """Appends to the event logs of several runs at once, and books calls; both only for runs that are held.

        Appending the same chunk twice is harmless; a call that is booked again is replaced.
        """
        ...

    async def read_events(
        self, owner: Owner, run_id: UUID, after_sequence: int, max_bytes: int
    ) -> list[EventChunk]:
        """Stored chunks that hold events after the sequence, in order, at least one if there is any, up to `max_bytes`.

        Raises RunNotFound, EventsTrimmed.
        """
        ...

    async def end_run(self, end: RunEnd) -> Ended:
        """Writes all that a run leaves, in one transaction. A second time it changes nothing.

        A run that ends gives its session's turn to the one that has waited longest; a paused one keeps it. Where
        another process has ended the run before, its calls are booked and its totals corrected, and nothing else.
        """
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

    async def spending(self, queries: Sequence[SpendingQuery]) -> list[Spending]:
        """What was spent, for each query, as it is booked at one moment."""
        ...

    async def abandoned_runs(self, lease: timedelta, limit: int) -> list[Run]:
        """Runs, of any owner, that are held by processes silent for longer than `lease` by the database's clock."""
        ...

    async def expired_runs(self, limit: int) -> list[Run]:
        """Paused runs, of any owner, whose time to be continued is over."""
        ...

    async def run_calls(self, owner: Owner, run_id: UUID) -> list[ModelCall]:
        """The calls that are booked for a run and its members, in order. Empty when there is no such run."""
        ...

    async def renew_leases(self, holder: UUID, run_ids: Collection[UUID]) -> None:
        """Says, by the database's clock, that the process that holds these runs lives."""
        ...

    async def trim_events(self, before: datetime, limit: int) -> int:
        """Deletes the events, but for the last one, of at most `limit` runs that ended before; returns of how many."""
        ...

    async def trim_requests(self, before: datetime, limit: int) -> int:
        """Forgets at most `limit` requests that were made before; returns how many."""
        ...

    async def ping(self) -> None:
        """Returns when the database answers. Raises StorageUnavailable."""
        ...
