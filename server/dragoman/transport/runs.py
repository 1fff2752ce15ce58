"""RunService: starts, follows, reads and ends runs.

Everything that a caller can get wrong is found before a run exists: first the shape of the whole request, then the agent,
the media, the session, and last the agent's own rules. Only then is the engine asked; until then nothing was written.
A caller who leaves stops watching and ends nothing.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol
from uuid import UUID

from dragoman import records
from dragoman.engine.ports import Catalog, ContinueDraft, MediaInspector, MessageView, RunDraft, Store
from dragoman.records import Owner
from dragoman.transport import convert
from dragoman.transport.context import Context
from dragoman.transport.detail import wanted
from dragoman.transport.drafts import DraftReader
from dragoman.transport.follow import follow
from dragoman.transport.messages import MessageReader
from dragoman.transport.paging import TIME_KEY, Pager
from dragoman.transport.principal import current_owner
from dragoman.transport.validation import Checks
from dragoman.v1 import event_pb2
from dragoman.v1 import run_service_pb2 as pb
from dragoman.v1.run_service_pb2_grpc import RunServiceServicer

MAX_NOTE = 255


class ObservedRun(Protocol):
    """A run that can be followed here, as far as this room looks at it (`engine.LiveRun`, `engine.StoredRun`)."""

    @property
    def run_id(self) -> UUID:
        """The run's id."""
        ...

    @property
    def session_id(self) -> UUID:
        """The session's id."""
        ...

    @property
    def after_sequence(self) -> int:
        """After which sequence the followers of the request begin: 0, or that of the pause that was continued."""
        ...

    def events(self, after_sequence: int) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """The events after the sequence, to the one that ends or pauses the run. Must be closed.

        Raises EventsTrimmed, Draining with the last sequence, StorageUnavailable, RunNotResumable.
        """
        ...

    async def wait(self) -> records.Run:
        """The run when it has ended or is paused. Raises what `events` raises."""
        ...

    def join(self) -> None:
        """Somebody follows the run through this call: `leave` must come."""
        ...

    def leave(self, *, timed_out: bool = False) -> None:
        """He does so no more. A run with the disconnect policy CANCEL ends when the last one leaves (`timed_out`: because
        the call's deadline passed)."""
        ...


class RunEngine(Protocol):
    """What starts, finds, continues and ends runs (`engine.Engine`)."""

    async def start(self, draft: RunDraft) -> ObservedRun:
        """Claims and starts a run; finds it when the same request was made before."""
        ...

    async def find(self, owner: Owner, request: records.RequestKey) -> ObservedRun | None:
        """The run that the same request started or continued. Raises RequestIdReused."""
        ...

    async def attach(self, owner: Owner, run_id: UUID) -> ObservedRun:
        """A run of the owner's, wherever it runs or ran. Raises RunNotFound."""
        ...

    async def resume(self, draft: ContinueDraft) -> ObservedRun:
        """Continues a paused run. Raises RunNotFound, RunNotPaused, RequestIdReused, TooManyRuns, Draining."""
        ...

    async def cancel(self, owner: Owner, run_id: UUID, *, by: str, note: str) -> records.Run:
        """Ends a run, wherever it runs; idempotent."""
        ...


class RunServicer(RunServiceServicer):
    """Runs agents for the calling owner."""

    def __init__(
        self,
        *,
        engine: RunEngine,
        catalog: Catalog,
        store: Store,
        view: MessageView,
        inspector: MediaInspector,
        heartbeat_interval: float,
        max_media_bytes: int,
    ) -> None:
        self._engine = engine
        self._store = store
        self._messages = MessageReader(store, view)
        self._drafts = DraftReader(catalog, store, inspector, max_media_bytes)
        self._heartbeat_interval = heartbeat_interval

    async def Run(self, request: pb.RunRequest, context: Context) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """Starts a run and follows it to its end."""
        live = await self._engine.start(await self._drafts.read(request, current_owner()))
        stream = follow(live.events(), wanted(request.detail), self._heartbeat_interval)
        try:
            async for event in stream:
                yield event
        finally:
            await stream.aclose()

    async def Execute(self, request: pb.RunRequest, context: Context) -> pb.ExecuteResponse:
        """Starts a run and answers when it has ended."""
        owner = current_owner()
        live = await self._engine.start(await self._drafts.read(request, owner))
        run = convert.run(await live.wait())
        return pb.ExecuteResponse(
            run=run,
            content=await _written(live) if run.HasField("paused") else convert.content(run),
            messages=await self._messages.of_run(owner, live.session_id, live.run_id),
        )

    async def GetRun(self, request: pb.GetRunRequest, context: Context) -> pb.GetRunResponse:
        """One run."""
        checks = Checks()
        run_id = checks.id("run_id", request.run_id)
        checks.done()
        return pb.GetRunResponse(run=convert.run(await self._store.get_run(current_owner(), run_id)))

    async def ListRuns(self, request: pb.ListRunsRequest, context: Context) -> pb.ListRunsResponse:
        """Runs, the newest first."""
        owner = current_owner()
        checks = Checks()
        session_id = checks.optional_id("session_id", request.session_id)
        checks.known("status", request.status, tuple(convert.STATUS_FILTER))
        pager = Pager(request, owner, TIME_KEY, checks)
        checks.done()
        if session_id is not None:
            await self._store.get_session(owner, session_id)
        rows = await self._store.list_runs(
            owner,
            pager.page(),
            session_id=session_id,
            agent_name=request.agent_name,
            status=convert.STATUS_FILTER[request.status],
        )
        runs, token = pager.cut(rows, convert.run, lambda row: (row.create_time, row.id))
        return pb.ListRunsResponse(runs=runs, next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        """Ends a run and answers when it has ended."""
        owner = current_owner()
        checks = Checks()
        run_id = checks.id("run_id", request.run_id)
        note = checks.line("note", request.note, MAX_NOTE)
        checks.done()
        run = await self._engine.cancel(owner, run_id, by=owner.principal, note=note)
        return pb.CancelRunResponse(run=convert.run(run))


async def _written(live: ObservedRun) -> str:
    """What a paused run has said so far: its last event does not repeat it."""
    return "".join(
        [
            event.content_delta.text
            async for event in live.events()
            if event.HasField("content_delta") and not event.HasField("member")
        ]
    )
