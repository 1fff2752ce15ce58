"""The store: everything that is kept."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

from dragoman.engine.ports.media import StoredMedium
from dragoman.engine.ports.money import Spending, SpendingQuery, UsageQuery, UsageRow
from dragoman.records import (
    AllOwners,
    Cancellation,
    EventChunk,
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
)

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class Page(Generic[Key]):
    """A slice of a list: at most `size` rows after the row with the key `after` (None: from the beginning)."""

    size: int
    after: Key | None = None


TimeKey: TypeAlias = tuple[datetime, UUID]
"""Key of lists ordered by a time, the newest first; the id breaks ties."""


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

    async def get_any_run(self, run_id: UUID) -> Run:
        """A run of any owner, for an administrator. Raises RunNotFound."""
        ...

    async def list_runs(
        self,
        owner: Owner | AllOwners,
        page: Page[TimeKey],
        *,
        session_id: UUID | None = None,
        agent_name: str = "",
        status: RunStatus | None = None,
    ) -> list[Run]:
        """By (create_time, id), the newest first."""
        ...

    async def query_usage(
        self, owner: Owner | AllOwners, query: UsageQuery, page: Page[tuple[str, ...]]
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
