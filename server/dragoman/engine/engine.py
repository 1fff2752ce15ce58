"""Starts runs, finds them again, ends them, and keeps the promise that each has exactly one end.

A run is claimed in the store before anything else happens: its row and its session's turn in one transaction. From then
on a task of the engine owns it, and the call that asked for it is only an observer.

Every process says of its runs, from time to time, that it lives (a lease). A run whose process is silent for longer is
ended as abandoned by whoever notices, and its session is free again; it is never executed a second time. A process that
was silent for that long, and lives after all, looks whether its runs are still its own: who watches one that is not is
told so, and is never shown a second end.
"""

import asyncio
import logging
from collections.abc import Coroutine
from datetime import datetime, timedelta
from typing import Any, TypeVar
from uuid import UUID

from dragoman import ids
from dragoman.engine import states, terminal
from dragoman.engine.log import CATCH_UP_BYTES, RunLog
from dragoman.engine.ports import Catalog, Outcome, Page, Pricer, RunDraft, Runner, RunOrder, Store
from dragoman.engine.run import LiveRun
from dragoman.engine.states import Step
from dragoman.engine.terminal import Cancellation
from dragoman.engine.writer import EventWriter
from dragoman.errors import Draining, RunNotFound, RunNotResumable, StorageUnavailable, TooManyRuns
from dragoman.records import EventChunk, Owner, Run, RunEnd, RunStatus, Session, Totals, utcnow
from dragoman.v1 import event_pb2

T = TypeVar("T")

logger = logging.getLogger(__name__)

WRITE_INTERVAL = 0.05
"""Seconds over which the events of all runs are gathered into one write."""

MESSAGES_AT_A_TIME = 200


class Engine:
    """All runs of one process. Made and used on one event loop."""

    def __init__(
        self,
        *,
        catalog: Catalog,
        runner: Runner,
        store: Store,
        pricer: Pricer,
        max_runs: int = 1000,
        flush_interval: float = 0.025,
        lease: float = 30.0,
    ) -> None:
        self._catalog = catalog
        self._runner = runner
        self._store = store
        self._pricer = pricer
        self._max_runs = max_runs
        self._flush_interval = flush_interval
        self._lease = lease
        self._writer = EventWriter(store, interval=WRITE_INTERVAL)
        self._live: dict[UUID, LiveRun] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._starting = 0
        self._draining = False
        self._keepers: list[asyncio.Task[None]] = []
        # Since when the store has known that this process lives, and runs that may have been ended by another one.
        self._renewed = 0.0
        self._doubted: set[UUID] = set()

    @property
    def active_runs(self) -> int:
        """Runs under way, or about to be, in this process."""
        return len(self._live) + self._starting

    async def open(self) -> None:
        """Starts the writer and the keeper of leases; ends what was abandoned before."""
        self._renewed = asyncio.get_running_loop().time()
        self._keepers = [
            asyncio.create_task(self._writer.run(), name="event-writer"),
            asyncio.create_task(self._keep_leases(), name="lease-keeper"),
        ]

    async def start(self, draft: RunDraft) -> LiveRun:
        """Claims and starts a run. Once claimed it goes on, whatever becomes of the caller.

        Raises AgentNotFound, SessionNotFound, SessionBusy, TooManyRuns, Draining, StorageUnavailable.
        """
        if self._draining:
            raise Draining()
        if self.active_runs >= self._max_runs:
            raise TooManyRuns(self._max_runs)
        self._starting += 1
        claim = self._own(self._claim(draft), "start")
        claim.add_done_callback(self._claimed)
        return await asyncio.shield(claim)

    async def cancel(self, owner: Owner, run_id: UUID, *, by: str, note: str) -> Run:
        """Ends a run for its owner and returns it as it is then. Idempotent.

        Raises RunNotFound, StorageUnavailable; RunNotResumable for one that another process is running.
        """
        live = self._live.get(run_id)
        if live is not None and live.run.owner == owner:
            live.cancel(Cancellation(event_pb2.CANCEL_REASON_CALLER, by, note))
            return await live.wait()
        run = await self._store.get_run(owner, run_id)
        if states.advance(run.status, Step.CANCEL) is None:
            return run
        if run.status is RunStatus.RUNNING:
            raise RunNotResumable(run_id)
        await self._end_elsewhere(run, Cancellation(event_pb2.CANCEL_REASON_CALLER, by, note))
        return await self._store.get_run(owner, run_id)

    async def drain(self, grace: float) -> None:
        """Starts nothing new; lets what runs finish for `grace` seconds; ends the rest as drained."""
        self._draining = True
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace
        if self._tasks:
            logger.info("waiting for runs to finish", extra={"runs": len(self._live), "grace": grace})
        # One that is being claimed joins the others only when the store has answered.
        while self._tasks and (left := deadline - loop.time()) > 0:
            await asyncio.wait(set(self._tasks), timeout=left)
        while self._tasks:
            for live in self._live.values():
                live.cancel(Cancellation(event_pb2.CANCEL_REASON_DRAINED))
                live.release()
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Ends what still runs, stores what is left, stops the engine's own tasks."""
        await self.drain(0)
        for keeper in self._keepers:
            keeper.cancel()
        for ended in await asyncio.gather(*self._keepers, return_exceptions=True):
            if isinstance(ended, Exception):
                logger.error("a task of the engine had failed", exc_info=ended)
        self._keepers = []

    async def _claim(self, draft: RunDraft) -> LiveRun:
        agent = self._catalog.agent(draft.agent_name)
        now = utcnow()
        session = draft.session or Session(
            id=ids.new_id(),
            owner=draft.owner,
            agent_name=draft.agent_name,
            title="",
            metadata={},
            inputs=draft.session_inputs,
            create_time=now,
            update_time=now,
        )
        run = Run(
            id=ids.new_id(),
            session_id=session.id,
            owner=draft.owner,
            agent_name=draft.agent_name,
            model=agent.model,
            provider=agent.provider,
            status=RunStatus.RUNNING,
            metadata=draft.metadata,
            create_time=now,
            update_time=now,
            totals=Totals(currency=self._pricer.currency),
        )
        session = await self._store.start_run(run, None if draft.session else session)
        order = RunOrder(
            run_id=run.id,
            owner=draft.owner,
            session=session,
            agent_name=draft.agent_name,
            message=draft.message,
            media=draft.media,
            inputs=draft.inputs,
            metadata=draft.metadata,
        )
        log = RunLog(run.id, draft.owner, self._store, self._writer, self._flush_interval)
        live = LiveRun(run, order, log, self._runner, self._write_end, self._pricer.currency)
        self._live[run.id] = live
        self._own(self._conduct(live), f"run-{run.id}")
        return live

    async def _conduct(self, live: LiveRun) -> None:
        try:
            await live.conduct()
        finally:
            self._live.pop(live.run_id, None)
            self._doubted.discard(live.run_id)

    async def _write_end(self, end: RunEnd) -> None:
        """Writes the end of one of our runs. Raises RunNotResumable when it was ended by another process."""
        await self._store.end_run(end)
        if end.run_id in self._doubted or self._lapsed():
            stored = await self._store.get_run(end.owner, end.run_id)
            if stored.last_event != end.chunk.events[-1]:
                raise RunNotResumable(end.run_id)

    def _claimed(self, claim: "asyncio.Task[LiveRun]") -> None:
        self._starting -= 1
        if not claim.cancelled():
            claim.exception()  # the caller may have left: what went wrong is then nobody's

    def _own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs `work` as a task that the engine waits for before it closes."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _end_elsewhere(self, run: Run, cancellation: Cancellation) -> None:
        """Ends a run that no task of any process is conducting, with what it has left in the store."""
        sequence = run.last_sequence + 1
        now = utcnow()
        event = terminal.cancelled(await self._left_by(run), run.totals, cancellation)
        event.sequence = sequence
        event.create_time.FromDatetime(now)
        await self._store.end_run(
            RunEnd(
                run_id=run.id,
                session_id=run.session_id,
                owner=run.owner,
                status=RunStatus.CANCELLED,
                end_time=now,
                chunk=EventChunk(run.id, sequence, sequence, (event.SerializeToString(),)),
                totals=run.totals,
            )
        )

    async def _left_by(self, run: Run) -> Outcome:
        """The text and the messages that are stored of a run."""
        outcome = Outcome()
        position = 0
        text: list[str] = []
        while chunks := await self._store.read_events(run.owner, run.id, position, CATCH_UP_BYTES):
            for chunk in chunks:
                events = map(event_pb2.RunEvent.FromString, chunk.events)
                text += [event.content_delta.text for event in events if not event.HasField("member")]
            position = chunks[-1].last_sequence
        outcome.content = "".join(text)
        page: Page[int] = Page(MESSAGES_AT_A_TIME)
        while found := await self._store.list_messages(run.owner, run.session_id, page, run_id=run.id):
            outcome.messages += found
            page = Page(MESSAGES_AT_A_TIME, found[-1].sequence)
        return outcome

    async def _keep_leases(self) -> None:
        while True:
            try:
                await self._keep_once(utcnow())
            except StorageUnavailable:
                logger.warning("leases could not be renewed: the store does not answer")
            except Exception:
                logger.exception("a defect: leases could not be renewed")
            await asyncio.sleep(self._lease / 3)

    async def _keep_once(self, now: datetime) -> None:
        """Renews our leases; ends the runs of those who did not renew theirs."""
        if self._live:
            await self._store.renew_leases(list(self._live), now)
        if self._lapsed():
            self._doubted.update(self._live)
        self._renewed = asyncio.get_running_loop().time()
        await self._stop_lost()
        for run in await self._store.unfinished_runs(now - timedelta(seconds=self._lease)):
            if run.id in self._live:
                continue
            logger.warning("ending an abandoned run", extra={"run_id": str(run.id)})
            try:
                await self._end_elsewhere(run, Cancellation(event_pb2.CANCEL_REASON_ABANDONED))
            except StorageUnavailable:
                raise
            except Exception:
                # One that cannot be ended must not keep the others from it.
                logger.exception("an abandoned run could not be ended", extra={"run_id": str(run.id)})

    def _lapsed(self) -> bool:
        """Whether others may take this process for dead."""
        return asyncio.get_running_loop().time() - self._renewed > self._lease

    async def _stop_lost(self) -> None:
        """Stops those runs that were ended by another process: what they still do is kept by nobody."""
        for live in [self._live[run_id] for run_id in self._doubted if run_id in self._live]:
            try:
                lost = (await self._store.get_run(live.run.owner, live.run_id)).status.final
            except RunNotFound:  # ended, and then deleted with its session
                lost = True
            if lost:
                live.cancel(Cancellation(event_pb2.CANCEL_REASON_ABANDONED))
