"""RunService: starts, follows, reads and ends runs.

Everything that a caller can get wrong is found before a run exists: first the shape of the whole request, then the agent,
the media, the session, and last the agent's own rules. Only then is the engine asked; until then nothing was written.

Asked again with the same request id, a caller follows the run of the first request, also when the second would be refused
by now: the first may itself have made the session busy, or ended the pause.

Whoever follows a run through a call joins it and leaves it, once, whatever ends the call. That ends nothing, unless the
run's disconnect policy says so.
"""

from collections.abc import AsyncGenerator, Awaitable, Iterator
from contextlib import aclosing, contextmanager
from typing import Protocol
from uuid import UUID

from dragoman import observing, records
from dragoman.engine.ports import (
    BudgetState,
    Catalog,
    ContinueDraft,
    MessageView,
    RunDraft,
    Store,
)
from dragoman.errors import DragomanError, Draining, RequestIdReused, RunNotFound, StorageUnavailable
from dragoman.quotas import Quotas
from dragoman.records import Owner, RequestKey
from dragoman.transport import convert
from dragoman.transport.context import Context
from dragoman.transport.continuing import ContinueReader
from dragoman.transport.deadline import Deadline
from dragoman.transport.detail import wanted
from dragoman.transport.drafts import DETAILS, DraftReader
from dragoman.transport.follow import follow
from dragoman.transport.idempotency import request_key
from dragoman.transport.media import MediaReader
from dragoman.transport.messages import MessageReader
from dragoman.transport.paging import TIME_KEY, Pager
from dragoman.transport.principal import check_all_owners, current_owner, may_use
from dragoman.transport.validation import Checks
from dragoman.transport.whose import whose_rows
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

    async def cancel_any(self, run: records.Run, *, by: str, note: str) -> records.Run:
        """Ends somebody's run for an administrator; likewise."""
        ...

    async def budgets(self, owner: Owner, agent_name: str, quotas: Quotas) -> list[BudgetState]:
        """The budgets that hold for the owner's runs (of the agent), as they stand."""
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
        media: MediaReader,
        heartbeat_interval: float,
        currency: str,
    ) -> None:
        self._engine = engine
        self._store = store
        self._messages = MessageReader(store, view)
        self._drafts = DraftReader(catalog, store, media, currency=currency)
        self._continues = ContinueReader(store)
        self._heartbeat_interval = heartbeat_interval

    async def Run(self, request: pb.RunRequest, context: Context) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """Starts a run and follows it to its end."""
        deadline = Deadline(context)
        run = await self._started(request, current_owner(), deadline)
        async with aclosing(self._follow(run, run.after_sequence, request.detail, deadline)) as events:
            async for event in events:
                yield event

    async def Execute(self, request: pb.RunRequest, context: Context) -> pb.ExecuteResponse:
        """Starts a run and answers when it has ended or waits."""
        owner, deadline = current_owner(), Deadline(context)
        observed = await self._started(request, owner, deadline)
        with _joined(observed, deadline):
            run = convert.run(await observed.wait())
            content = await _written(observed) if run.HasField("paused") else convert.content(run)
        return pb.ExecuteResponse(
            run=run,
            content=content,
            messages=await self._messages.of_run(owner, observed.session_id, observed.run_id),
        )

    async def AttachRun(
        self, request: pb.AttachRunRequest, context: Context
    ) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """Follows a run from any of its events."""
        checks = Checks()
        run_id = checks.id("run_id", request.run_id)
        if request.after_sequence < 0:
            checks.add("after_sequence", f"must not be negative, is {request.after_sequence}")
        checks.known("detail", request.detail, DETAILS)
        checks.done()
        run = await self._engine.attach(current_owner(), run_id)
        async with aclosing(self._follow(run, request.after_sequence, request.detail)) as events:
            async for event in events:
                yield event

    async def ContinueRun(
        self, request: pb.ContinueRunRequest, context: Context
    ) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """Resolves what a paused run waits for and follows it from there."""
        owner, deadline = current_owner(), Deadline(context)
        key = await request_key("continue", request, owner)

        async def resume() -> ObservedRun:
            return await self._engine.resume(await self._continues.read(request, owner, key, deadline))

        run = await self._once(owner, key, resume())
        async with aclosing(self._follow(run, run.after_sequence, request.detail, deadline)) as events:
            async for event in events:
                yield event

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
        whose = whose_rows(request, owner, checks)
        session_id = checks.optional_id("session_id", request.session_id)
        agent_name = checks.agent_filter("agent_name", request.agent_name)
        checks.known("status", request.status, tuple(convert.STATUS_FILTER))
        pager = Pager(request, owner, TIME_KEY, checks)
        checks.done()
        if session_id is not None and isinstance(whose, Owner):
            await self._store.get_session(whose, session_id)
        rows = await self._store.list_runs(
            whose,
            pager.page(),
            session_id=session_id,
            agent_name=agent_name,
            status=convert.STATUS_FILTER[request.status],
        )
        show = convert.run if isinstance(whose, Owner) else convert.anybodys_run
        runs, token = pager.cut(rows, show, lambda row: (row.create_time, row.id))
        return pb.ListRunsResponse(runs=runs, next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, context: Context) -> pb.CancelRunResponse:
        """Ends a run and answers when it has ended."""
        owner = current_owner()
        checks = Checks()
        run_id = checks.id("run_id", request.run_id)
        note = checks.line("note", request.note, MAX_NOTE)
        if request.all_owners:
            check_all_owners()
        checks.done()
        if request.all_owners:
            run = await self._store.get_any_run(run_id)
            if not may_use(run.agent_name):
                raise RunNotFound(run_id)
            if run.owner != owner:
                run = await self._engine.cancel_any(run, by=owner.principal, note=note)
                return pb.CancelRunResponse(run=convert.anybodys_run(run))
        run = await self._engine.cancel(owner, run_id, by=owner.principal, note=note)
        return pb.CancelRunResponse(run=convert.run(run))

    async def _started(self, request: pb.RunRequest, owner: Owner, deadline: Deadline) -> ObservedRun:
        key = await request_key("run", request, owner)
        if key and any(medium.HasField("uri") for medium in request.media):
            # A URL is fetched once: what it gives the second time may be something else, or nothing.
            found = await self._engine.find(owner, key)
            if found is not None:
                return found

        async def start() -> ObservedRun:
            return await self._engine.start(await self._drafts.read(request, owner, key, deadline))

        return await self._once(owner, key, start())

    async def _once(self, owner: Owner, key: RequestKey | None, begin: Awaitable[ObservedRun]) -> ObservedRun:
        """What `begin` comes to; when it is refused, the run of the same request made before, if there is one."""
        try:
            return await begin
        except (Draining, StorageUnavailable, RequestIdReused):
            raise
        except DragomanError:
            found = await self._engine.find(owner, key) if key else None
            if found is None:
                raise
            return found

    async def _follow(
        self,
        run: ObservedRun,
        after_sequence: int,
        detail: pb.EventDetail.ValueType,
        deadline: Deadline | None = None,
    ) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """The run's events for one caller, who has joined before anything waits."""
        with _joined(run, deadline):
            stream = follow(run.events(after_sequence), wanted(detail), self._heartbeat_interval)
            async with aclosing(stream):
                async for event in stream:
                    yield event


@contextmanager
def _joined(run: ObservedRun, deadline: Deadline | None) -> Iterator[None]:
    """Follows the run through a call. `deadline`: of a call that started or continued it, which is the run's too."""
    observing.bind(run_id=str(run.run_id))
    run.join()
    try:
        yield
    finally:
        run.leave(timed_out=deadline is not None and deadline.passed)


async def _written(run: ObservedRun) -> str:
    """What a paused run has said so far: its last event does not repeat it."""
    async with aclosing(run.events(0)) as events:
        return "".join(
            [
                event.content_delta.text
                async for event in events
                if event.HasField("content_delta") and not event.HasField("member")
            ]
        )
