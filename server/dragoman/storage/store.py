"""`SqlStore`: the engine's `Store` on SQLite, MySQL or MariaDB.

Every method hands one transaction to the database's threads. A write is finished even when its caller goes away (else a
client that cancels would lose what is being written), and `close` waits for the writes that are under way.
"""

import asyncio
import contextlib
from collections.abc import Collection, Coroutine, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import (
    BlobStore,
    Continued,
    Ended,
    Notice,
    Page,
    Progress,
    RequestRecord,
    Spending,
    SpendingQuery,
    Started,
    TimeKey,
    UsageQuery,
    UsageRow,
)
from dragoman.errors import InvalidInput, StorageUnavailable, Violation
from dragoman.observing import UNOBSERVED, Observer
from dragoman.records import (
    AllOwners,
    Cancellation,
    EventChunk,
    Media,
    Message,
    ModelCall,
    Owner,
    RequestKey,
    Run,
    RunCalls,
    RunEnd,
    RunStatus,
    Session,
    SessionConflict,
    utcnow,
)
from dragoman.storage import (
    budgets,
    calls,
    continues,
    ends,
    engines,
    events,
    keys,
    media,
    messages,
    reprice,
    requests,
    runs,
    sessions,
    turns,
    usage,
)
from dragoman.storage.blobs import GARBAGE, MediaKeeper, Medium
from dragoman.storage.database import Database, Work
from dragoman.storage.migrate import SchemaOutdated, SchemaState, migrate_engine, state_of, upgrade
from dragoman.storage.types import json_size

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds over which a transaction is repeated before StorageUnavailable."""

PIECE = 1024 * 1024
"""Largest value in one statement, in bytes: larger ones would hold the event loop up while they are escaped."""

MAX_JSON = 1024 * 1024
"""Largest `inputs` of a session, in bytes of JSON."""

_MEDIA_ATTEMPTS = 5
_REQUEST_ATTEMPTS = 4


class SqlStore:
    """See the module. Made by `open_store`; used on one event loop, between `open` and `close`."""

    def __init__(
        self,
        url: str,
        *,
        connections: int,
        sqlite_synchronous: str,
        patience: float,
        blobs: BlobStore | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._url = engines.parse(url)
        self._database = Database(
            self._url,
            connections=connections,
            sqlite_synchronous=sqlite_synchronous,
            patience=patience,
            observer=observer,
        )
        self._media = MediaKeeper(self._database, blobs)
        self._writes: set[asyncio.Task[Any]] = set()
        self._piece = PIECE
        self._closed = False

    @property
    def description(self) -> str:
        """The kind of database and where it is; never credentials. Before `open` it goes by the URL."""
        return engines.describe(self._url, mariadb=self._database.is_mariadb)

    async def open(self, *, migrate: bool = False) -> None:
        """Connects and checks the schema; brings it up to date first on SQLite, elsewhere only with `migrate`.

        Raises SchemaOutdated, StorageUnavailable.
        """
        if engines.is_memory(self._url):
            # The database is the writer's connection.
            await self._database.on_writer(migrate_engine)
        elif migrate or engines.is_sqlite(self._url):
            await self._database.attempt(partial(upgrade, self._url))
        else:
            state: SchemaState = await self._database.attempt(partial(state_of, self._url))
            if not state.up_to_date:
                raise SchemaOutdated(state)
        # As a write: the first connection that writes turns a SQLite file to WAL, which nobody else may be writing to.
        packet = await self._database.write(_max_packet)
        if packet is not None:
            # The driver writes bytes as hex digits; the rest of the statement needs some room too.
            self._piece = max(min(PIECE, packet // 2 - 64 * 1024), 16 * 1024)

    async def close(self) -> None:
        """Waits for the writes under way, then closes the connections. Harmless a second time."""
        if self._closed:
            return
        self._closed = True
        while self._writes:
            await asyncio.wait(set(self._writes))
        await self._database.close()

    @property
    def keys(self) -> keys.SqlKeys:
        """The API keys."""
        return keys.SqlKeys(self._database, self._write)

    async def ping(self) -> None:
        """Returns when the database answers. Raises StorageUnavailable."""
        await self._database.read(_ping)

    # Sessions

    async def create_session(self, session: Session, request: RequestKey | None = None) -> Session:
        """Inserts a session and returns it, or the one that the same request has made.

        Raises RequestIdReused, and InvalidInput when its inputs are larger than `MAX_JSON`.
        """
        _check_inputs(session)
        return await self._write(self._requested(request, lambda c: sessions.insert(c, session, request)))

    async def find_request(self, owner: Owner, request: RequestKey) -> RequestRecord | None:
        """What the same request came to earlier. Raises RequestIdReused."""
        return await self._database.read(lambda c: requests.find(c, owner, request))

    async def get_session(self, owner: Owner, session_id: UUID) -> Session:
        """Raises SessionNotFound."""
        return await self._database.read(lambda c: sessions.get(c, owner, session_id))

    async def list_sessions(self, owner: Owner, agent_name: str, page: Page[TimeKey]) -> list[Session]:
        """By (update_time, id), the newest first."""
        return await self._database.read(lambda c: sessions.select(c, owner, agent_name, page))

    async def update_session(
        self, owner: Owner, session_id: UUID, *, title: str | None, metadata: Mapping[str, str] | None
    ) -> Session:
        """Changes what is not None. Raises SessionNotFound."""
        now = utcnow()
        return await self._write(
            self._database.write(
                lambda c: sessions.update(c, owner, session_id, title=title, metadata=metadata, now=now)
            )
        )

    async def delete_session(self, owner: Owner, session_id: UUID) -> None:
        """Deletes it and what hangs on it; keeps the ledger. Raises SessionNotFound, SessionBusy."""
        await self._write(
            self._database.write_once(lambda c, uncertain: sessions.delete(c, uncertain, owner, session_id))
        )
        with contextlib.suppress(StorageUnavailable):  # what is left over is swept up later
            await self._write(self._media.collect())

    # Messages and media

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
        """By sequence. Raises SessionNotFound."""

        def work(connection: sa.Connection) -> list[Message]:
            sessions.check(connection, owner, session_id)
            return messages.select(
                connection,
                owner,
                session_id,
                page,
                run_id=run_id,
                newest_first=newest_first,
                members=members,
            )

        return await self._database.read(work)

    async def load_history(self, owner: Owner, session_id: UUID, runs: int | None) -> list[Message]:
        """The messages of the last `runs` runs (None: all) of the session's own agent, in order, without usage and cost."""
        return await self._database.read(lambda c: messages.history(c, owner, session_id, runs))

    async def load_member_history(
        self, owner: Owner, session_id: UUID, names: Sequence[str], each: int, last: int
    ) -> list[Message]:
        """The messages of the members that the session's own team delegated to, in order, without usage and cost.

        Of each of `names` its latest `each` runs, as far as they are among the session's `last` runs. One statement.
        """
        return await self._database.read(
            lambda c: messages.member_history(c, owner, session_id, names, each, last)
        )

    async def get_media(self, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
        """Those of the owner's that there are, by hash."""
        return await self._media.get(owner, hashes)

    async def open_media(self, owner: Owner, sha256: bytes) -> Medium:
        """A medium to be read in pieces. Raises MediaNotFound."""
        return await self._media.open(owner, sha256)

    async def sweep_media(self, before: datetime, limit: int) -> int:
        """Deletes at most `limit` media that were put before and that nothing refers to; returns how many."""
        swept: int = await self._write(self._database.write(lambda c: media.sweep(c, before, limit)))
        # Where the media store is away they wait: the database is well, and that is what others ask.
        with contextlib.suppress(StorageUnavailable):
            while await self._media.collect() == GARBAGE:
                pass
        return swept

    # Runs and their events

    async def start_run(
        self,
        run: Run,
        new_session: Session | None,
        *,
        conflict: SessionConflict = SessionConflict.REJECT,
        max_queued: int = 0,
        request: RequestKey | None = None,
    ) -> Started:
        """Inserts the run, which claims its session's turn or waits for it.

        Raises SessionNotFound, SessionBusy, TooManyRuns, RequestIdReused, and InvalidInput as `create_session`.
        """
        if new_session is not None:
            _check_inputs(new_session)
        wanted = turns.Start(run, new_session, conflict, max_queued, request)
        return await self._write(self._requested(request, lambda c: turns.start(c, wanted)))

    async def continue_run(
        self,
        owner: Owner,
        run_id: UUID,
        *,
        after_sequence: int,
        holder: UUID,
        request: RequestKey | None = None,
    ) -> Continued:
        """PAUSED becomes RUNNING. Raises RunNotFound, RunNotPaused, RequestIdReused."""
        wanted = continues.Continuing(owner, run_id, after_sequence, holder, request, utcnow())
        return await self._write(self._requested(request, lambda c: continues.continue_run(c, wanted)))

    async def request_cancel(self, owner: Owner, run_id: UUID, cancellation: Cancellation) -> Run:
        """Notes on a run that somebody holds that it is to end; the first wish counts. Raises RunNotFound."""
        return await self._write(
            self._database.write(lambda c: runs.request_cancel(c, owner, run_id, cancellation))
        )

    async def notices(self, holder: UUID, run_ids: Collection[UUID]) -> list[Notice]:
        """What the holder of these runs has to know."""
        if not run_ids:
            return []
        return await self._database.read(lambda c: runs.notices(c, holder, run_ids))

    async def progress(self, run_ids: Collection[UUID]) -> dict[UUID, Progress]:
        """How far these runs are, of any owner; without those that do not exist."""
        if not run_ids:
            return {}
        return await self._database.read(lambda c: runs.progress(c, run_ids))

    async def append_events(self, chunks: Sequence[EventChunk], calls: Sequence[RunCalls] = ()) -> None:
        """Appends to the event logs of several runs, and books calls. What is stored already, or comes after the end, is
        left out."""
        if chunks or calls:
            await self._write(self._database.write(lambda c: events.append(c, chunks, calls, self._piece)))

    async def read_events(
        self, owner: Owner, run_id: UUID, after_sequence: int, max_bytes: int
    ) -> list[EventChunk]:
        """Chunks with events after the sequence, up to `max_bytes` but at least one.

        Raises RunNotFound, EventsTrimmed.
        """
        return await self._database.read(lambda c: events.read(c, owner, run_id, after_sequence, max_bytes))

    async def end_run(self, end: RunEnd) -> Ended:
        """Writes all that a run leaves and hands its session's turn on. A second time it changes nothing.

        Raises RunNotFound when there is no such run of the owner's, or it has been deleted.
        """
        return await self._write(self._end_run(end))

    async def get_run(self, owner: Owner, run_id: UUID) -> Run:
        """Raises RunNotFound."""
        return await self._database.read(lambda c: runs.get(c, owner, run_id))

    async def get_any_run(self, run_id: UUID) -> Run:
        """A run of any owner. Raises RunNotFound."""
        return await self._database.read(lambda c: runs.get_any(c, run_id))

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
        return await self._database.read(
            lambda c: runs.select(c, owner, page, session_id=session_id, agent_name=agent_name, status=status)
        )

    # Housekeeping

    async def abandoned_runs(self, lease: timedelta, limit: int) -> list[Run]:
        """Runs, of any owner, whose holders have been silent for longer than `lease`."""
        return await self._database.read(lambda c: runs.abandoned(c, lease, limit))

    async def expired_runs(self, limit: int) -> list[Run]:
        """Paused runs, of any owner, whose time to be continued is over."""
        return await self._database.read(lambda c: runs.expired(c, limit))

    async def renew_leases(self, holder: UUID, run_ids: Collection[UUID]) -> None:
        """Says that the process that holds these runs lives."""
        if run_ids:
            await self._write(self._database.write(lambda c: runs.renew(c, holder, run_ids)))

    async def trim_events(self, before: datetime, limit: int) -> int:
        """Deletes the events, but for the last one, of at most `limit` runs that ended before; returns of how many."""
        run_ids = await self._database.read(lambda c: events.trimmable(c, before, limit))
        # A transaction for each: a long one would keep all others waiting on SQLite.
        trimmed = 0
        for run_id in run_ids:
            trimmed += await self._write(self._database.write(partial(events.trim, run_id=run_id)))
        return trimmed

    async def trim_requests(self, before: datetime, limit: int) -> int:
        """Forgets at most `limit` requests that were made before; returns how many."""
        return await self._write(self._database.write(lambda c: requests.trim(c, before, limit)))

    # The ledger

    async def run_calls(self, owner: Owner, run_id: UUID) -> list[ModelCall]:
        """The calls that are booked for a run and its members, by the time at which they began."""
        return await self._database.read(lambda c: calls.of_run(c, owner, run_id))

    async def query_usage(
        self, owner: Owner | AllOwners, query: UsageQuery, page: Page[tuple[str, ...]]
    ) -> list[UsageRow]:
        """Groups in the order of their keys."""
        return await self._database.read(lambda c: usage.select(c, owner, query, page))

    async def spending(self, queries: Sequence[SpendingQuery]) -> list[Spending]:
        """What was spent, for each query."""
        if not queries:
            return []
        return await self._database.read(lambda c: budgets.spending(c, queries))

    async def scan_calls(
        self, chosen: reprice.Chosen, after: UUID | None, limit: int = reprice.STRETCH
    ) -> reprice.Stretch:
        """The chosen ones among the next `limit` calls of all owners after an id (None: from the first)."""
        return await self._database.read(lambda c: reprice.scan(c, chosen, after, limit))

    async def replace_costs(self, changes: Sequence[reprice.Change], time: datetime) -> reprice.Replaced:
        """Gives calls new costs and keeps the old ones, in one transaction. See reprice.py."""
        return await self._write(self._database.write(lambda c: reprice.replace_costs(c, changes, time)))

    async def _end_run(self, end: RunEnd) -> Ended:
        ending = await self._database.compute(lambda: ends.prepare(end, self._piece))
        # Not to leave media behind that nothing will refer to.
        wanted = bool(end.media) and await self._database.read(lambda c: ends.is_open(c, end))
        for _ in range(_MEDIA_ATTEMPTS):
            for medium in end.media if wanted else ():
                await self._media.put(end.owner, medium, self._piece)
            try:
                return await self._database.write(lambda c: ends.write(c, ending))
            except ends.MediaGone:
                continue
        raise StorageUnavailable()

    async def _requested(self, request: RequestKey | None, work: Work[T]) -> T:
        """The result of `work`, which does what was requested or finds what the same request came to."""
        for _ in range(_REQUEST_ATTEMPTS):
            try:
                return await self._database.write(work)
            except sa.exc.IntegrityError:
                if request is None:
                    raise
        return await self._database.write(work)

    async def _write(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`, which is carried through whatever becomes of the caller."""
        task = asyncio.create_task(work, name="storage-write")
        self._writes.add(task)
        task.add_done_callback(self._written)
        return await asyncio.shield(task)

    def _written(self, task: asyncio.Task[Any]) -> None:
        self._writes.discard(task)
        if not task.cancelled():
            task.exception()  # the caller may be gone: database trouble has been logged, the rest was for the caller


def open_store(
    url: str,
    *,
    connections: int = 4,
    sqlite_synchronous: str = "FULL",
    patience: float = PATIENCE,
    blobs: BlobStore | None = None,
    observer: Observer = UNOBSERVED,
) -> SqlStore:
    """A store for the database at `url`; `await store.open()` connects.

    `connections`: to MySQL or MariaDB, each with a thread. `sqlite_synchronous`: FULL, or NORMAL, which may lose the last
    transactions at power loss. `patience`: seconds over which a failing transaction is repeated. `blobs`: where media go;
    None: into the database. `observer`: sees each transaction. Raises ValueError for a URL of another kind of database.
    """
    if sqlite_synchronous not in ("FULL", "NORMAL"):
        raise ValueError("sqlite_synchronous must be FULL or NORMAL")
    return SqlStore(
        url,
        connections=connections,
        sqlite_synchronous=sqlite_synchronous,
        patience=patience,
        blobs=blobs,
        observer=observer,
    )


def _check_inputs(session: Session) -> None:
    size = json_size(session.inputs)
    if size > MAX_JSON:
        raise InvalidInput([Violation("inputs", f"must be at most {MAX_JSON} bytes as JSON, not {size}")])


def _ping(connection: sa.Connection) -> None:
    connection.execute(sa.select(sa.literal(1))).one()


def _max_packet(connection: sa.Connection) -> int | None:
    """The largest statement that the server takes, in bytes; None on SQLite."""
    if connection.dialect.name == "sqlite":
        return None
    return int(connection.exec_driver_sql("SELECT @@max_allowed_packet").scalar_one())
