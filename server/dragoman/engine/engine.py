"""Starts runs, finds them again, continues and ends them, and keeps the promise that each has exactly one end.

A run is claimed in the store before anything else happens: its row, the caller's request id and its session's turn (or its
place in the queue) in one transaction. From then on a task of the engine owns it, and the call that asked for it is only
an observer. Any process can be asked for any run: one that is held here is followed from memory, any other through the
store (`watch`); a wish to end it is left in the store for whoever holds it.

Every process says of its runs, from time to time, that it lives (a lease). A run whose process is silent for longer is
ended as abandoned by whoever notices (`keeper`), and its session is free again; it is never executed a second time. A process
that was silent for that long, and lives after all, is told by the store that its end came too late: who watches there is
sent to the end that counts, and what was spent is booked all the same.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from functools import partial
from typing import Any, TypeAlias, TypeVar
from uuid import UUID

from dragoman import ids
from dragoman.engine import elsewhere, plans
from dragoman.engine.admission import Admission
from dragoman.engine.budgets import Budgets, HeldBudget, RunBudget
from dragoman.engine.keeper import Keeper
from dragoman.engine.log import RunLog
from dragoman.engine.meter import RunMeter
from dragoman.engine.ports import (
    BudgetState,
    Catalog,
    ContinueDraft,
    Ended,
    Meter,
    Notice,
    Pricer,
    RunDraft,
    Runner,
    RunOrder,
    Signals,
    Started,
    Store,
)
from dragoman.engine.run import LiveRun, Past
from dragoman.engine.watch import StoredRun, Watcher
from dragoman.engine.writer import EventWriter
from dragoman.errors import (
    Draining,
    RunNotFound,
    RunNotResumable,
    StorageUnavailable,
    TooManyRuns,
)
from dragoman.observing import UNOBSERVED, Observer, RunWatch
from dragoman.quotas import NO_QUOTAS, Quotas, QuotaTable, Slot, Slots
from dragoman.records import (
    Cancellation,
    Limits,
    ModelCall,
    Owner,
    RequestKey,
    Run,
    RunCalls,
    RunEnd,
    RunStatus,
    Totals,
)
from dragoman.v1 import event_pb2

T = TypeVar("T")

FollowedRun: TypeAlias = LiveRun | StoredRun
"""A run that can be followed here: held by this process, or through the store."""

logger = logging.getLogger(__name__)

WRITE_INTERVAL = 0.05
"""Seconds over which the events of all runs are gathered into one write."""

RETRY_PAUSE = 2.0
"""Seconds after which a run that was interrupted while paused is ended again, when the store did not answer."""


class Engine:
    """All runs of one process. Made and used on one event loop.

    `lease`: seconds of silence after which others take this process for dead. `poll_interval`: seconds between two looks
    for what others did. `max_queued_runs`: runs that may wait for one session. `pause_timeout`: seconds in which a paused
    run has to be continued. `limits`: what any run may spend at most; `budgets`: what all of somebody's may. `max_runs`:
    runs that may be here at once; `quotas`: those of one principal.
    """

    def __init__(
        self,
        *,
        catalog: Catalog,
        runner: Runner,
        store: Store,
        pricer: Pricer,
        signals: Signals,
        max_runs: int = 1000,
        quotas: QuotaTable | None = None,
        flush_interval: float = 0.025,
        lease: float = 30.0,
        poll_interval: float = 0.25,
        max_queued_runs: int = 16,
        pause_timeout: float = 24 * 3600.0,
        limits: Limits | None = None,
        event_retention: timedelta = timedelta(days=7),
        request_retention: timedelta = timedelta(days=7),
        budgets: Budgets | None = None,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._observer = observer
        self._catalog = catalog
        self._runner = runner
        self._store = store
        self._pricer = pricer
        self._signals = signals
        self._admission = Admission(max_runs, quotas or QuotaTable())
        self._flush_interval = flush_interval
        self._max_queued_runs = max_queued_runs
        self._pause_timeout = pause_timeout
        self._id = ids.new_id()
        self._plans = plans.Planner(catalog, pricer, self._id, limits or Limits())
        self._writer = EventWriter(store, interval=WRITE_INTERVAL, on_appended=self._appended)
        self._watcher = Watcher(store, poll_interval)
        self._keeper = Keeper(
            store,
            self,
            self._id,
            lease=lease,
            poll_interval=poll_interval,
            event_retention=event_retention,
            request_retention=request_retention,
            observer=observer,
        )
        self._budgets = budgets or Budgets(store, pricer.currency)
        self._live: dict[UUID, LiveRun] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._draining = False
        self._services: list[asyncio.Task[None]] = []

    @property
    def active_runs(self) -> int:
        """Runs under way, waiting, or about to be, in this process."""
        return self._admission.places.total

    @property
    def places(self) -> Slots:
        """Whose they are."""
        return self._admission.places

    async def open(self) -> None:
        """Starts the writer, the watcher and the keeper; ends what was abandoned before."""
        self._signals.listen(self._signalled)
        self._services = [
            asyncio.create_task(self._writer.run(), name="event-writer"),
            asyncio.create_task(self._watcher.run(), name="watcher"),
            asyncio.create_task(self._budgets.run(), name="budgets"),
            *self._keeper.loops(),
        ]

    # What callers ask for

    async def start(self, draft: RunDraft) -> FollowedRun:
        """Claims and starts a run, or finds the one that the same request started before. Once claimed it goes on,
        whatever becomes of the caller.

        Raises AgentNotFound, SessionNotFound, SessionBusy, InvalidInput (a limit of cost, or a budget, for a model without a
        price), BudgetExceeded, RequestIdReused, TooManyRuns, Draining, StorageUnavailable.
        """
        return await self._claimed(draft, partial(self._claim, draft), "start")

    async def resume(self, draft: ContinueDraft) -> FollowedRun:
        """Continues a paused run here, or finds it when the same request has continued it before.

        Raises RunNotFound, RunNotPaused, AgentNotFound and BudgetExceeded (it stays paused), RequestIdReused, TooManyRuns,
        Draining, StorageUnavailable.
        """
        return await self._claimed(draft, partial(self._claim_paused, draft), "resume")

    async def find(self, owner: Owner, request: RequestKey) -> FollowedRun | None:
        """The run that the same request started or continued. Raises RequestIdReused, StorageUnavailable."""
        record = await self._store.find_request(owner, request)
        if record is None or record.run_id is None:
            return None
        live = self._live.get(record.run_id)
        if live is not None and live.after_sequence == record.after_sequence:
            return live
        run = await self._store.get_run(owner, record.run_id)
        return self._followed(run, record.after_sequence)

    async def attach(self, owner: Owner, run_id: UUID) -> FollowedRun:
        """A run of the owner's, wherever it runs or ran. Raises RunNotFound, StorageUnavailable."""
        live = self._live.get(run_id)
        if live is not None and live.run.owner == owner:
            self._observer.attached(run_id, here=True)
            return live
        run = await self._store.get_run(owner, run_id)
        self._observer.attached(run_id, here=False)
        return self._followed(run)

    async def cancel(self, owner: Owner, run_id: UUID, *, by: str, note: str) -> Run:
        """Ends a run for its owner, wherever it runs, and returns it as it is then. Idempotent.

        Raises RunNotFound, StorageUnavailable.
        """
        cancellation = Cancellation(event_pb2.CANCEL_REASON_CALLER, by, note)
        return await self._end_anywhere(owner, run_id, cancellation)

    async def cancel_any(self, run: Run, *, by: str, note: str) -> Run:
        """Ends somebody's run for an administrator; else as `cancel`."""
        return await self._end_anywhere(
            run.owner, run.id, Cancellation(event_pb2.CANCEL_REASON_ADMINISTRATOR, by, note)
        )

    async def budgets(self, owner: Owner, agent_name: str, quotas: Quotas = NO_QUOTAS) -> list[BudgetState]:
        """The budgets that hold for the owner's runs (of the agent, unless it is empty), as they stand; those of the
        caller's credentials (`quotas`) included.

        Raises AgentNotFound, StorageUnavailable.
        """
        agents = [self._catalog.agent(agent_name)] if agent_name else self._catalog.agents()
        return await self._budgets.states(owner, [agent.name for agent in agents], quotas)

    async def drain(self, grace: float) -> None:
        """Starts nothing new and sends those who follow runs of other processes to a peer; lets what runs here finish
        for `grace` seconds; ends the rest as drained."""
        self._draining = True
        self._watcher.stop()
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
        for service in self._services:
            service.cancel()
        for ended in await asyncio.gather(*self._services, return_exceptions=True):
            if isinstance(ended, Exception):
                logger.error("a task of the engine had failed", exc_info=ended)
        self._services = []
        await self._budgets.close()

    # What the keeper asks for

    def held(self) -> Mapping[UUID, LiveRun]:
        """All runs that are under way or waiting here, as they are at this moment."""
        return dict(self._live)

    def heed(self, notice: Notice, live: LiveRun) -> None:
        """Does what another process wants of a run that was held here when the store was asked."""
        if not notice.status.held:
            # Ended by another process: what it still does is kept by nobody but the ledger. To one that has just ended or
            # paused here, by itself, it means nothing.
            live.cancel(Cancellation(event_pb2.CANCEL_REASON_ABANDONED))
        elif notice.cancellation is not None:
            live.cancel(notice.cancellation)
        elif notice.status is RunStatus.RUNNING:
            live.grant()

    def handed_over(self, run: Run, ended: Ended) -> None:
        """A run was ended, and perhaps another one has got its session's turn."""
        told = [run.id]
        if ended.next_run_id is not None:
            told.append(ended.next_run_id)
            if (following := self._live.get(ended.next_run_id)) is not None:
                following.grant()
        self._watcher.hurry(told)
        self._signals.tell(told)

    # Inside

    async def _claimed(
        self,
        draft: RunDraft | ContinueDraft,
        claim: Callable[[Slot], Coroutine[Any, Any, FollowedRun]],
        name: str,
    ) -> FollowedRun:
        """What `claim` comes to; it is carried through when the caller leaves."""
        if self._draining:
            raise Draining()
        try:
            place = self._admission.admit(draft.owner.principal, draft.quotas)
        except TooManyRuns:
            same = self._admission.under_way(draft.owner, draft.request)
            if same is None:
                raise
            return await asyncio.shield(same)
        task = self._own(claim(place), name)
        self._admission.follow(task, place, draft.owner, draft.request)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_unfollowed)
            raise

    async def _claim(self, draft: RunDraft, place: Slot) -> FollowedRun:
        deadline = _at(draft.deadline)
        held = self._budgets.held(draft.owner, draft.agent_name, draft.quotas)
        run, session = self._plans.plan(draft, budget=bool(held))
        await self._budgets.admit(held)
        started = await self._store.start_run(
            run,
            None if draft.session else session,
            conflict=draft.conflict,
            max_queued=self._max_queued_runs,
            request=draft.request,
        )
        if not started.created:
            return self._followed(started.run)
        live = self._conduct(
            started.run,
            plans.first_order(draft, started),
            Past(totals=Totals(currency=self._pricer.currency)),
            place=place,
            held=held,
            position=started.position,
            cancel_on_disconnect=draft.cancel_on_disconnect,
            deadline=deadline,
        )
        self._interrupt(started)
        return live

    async def _claim_paused(self, draft: ContinueDraft, place: Slot) -> FollowedRun:
        deadline = _at(draft.deadline)
        paused = await self._store.get_run(draft.owner, draft.run_id)
        self._catalog.agent(paused.agent_name)
        held = self._budgets.held(draft.owner, paused.agent_name, draft.quotas)
        if paused.status is RunStatus.PAUSED:  # else it is refused for that
            await self._budgets.admit(held)
        continued = await self._store.continue_run(
            draft.owner,
            draft.run_id,
            after_sequence=draft.after_sequence,
            holder=self._id,
            request=draft.request,
        )
        if continued.pause is None:
            return self._followed(continued.run, continued.after_sequence)
        order, past = plans.next_order(draft, continued, continued.pause)
        return self._conduct(
            continued.run,
            order,
            past,
            place=place,
            held=held,
            cancel_on_disconnect=draft.cancel_on_disconnect,
            deadline=deadline,
        )

    def _conduct(
        self,
        run: Run,
        order: RunOrder,
        past: Past,
        *,
        place: Slot,
        held: Sequence[HeldBudget],
        position: int = 0,
        cancel_on_disconnect: bool,
        deadline: float | None,
    ) -> LiveRun:
        """Gives the claimed run its task. `held`: the budgets that hold for it."""
        watch = self._observer.run(run, continued=order.continuation is not None)
        log = RunLog(
            run.id,
            run.owner,
            self._store,
            self._writer,
            self._flush_interval,
            past.after_sequence,
            saw=watch.saw,
        )
        budget = self._budgets.watch(held)
        live = LiveRun(
            run,
            order,
            log,
            self._runner,
            partial(self._meter, budget=budget, watch=watch),
            self._write_end,
            past=past,
            place=place,
            refused=partial(self._budgets.refused, held),
            pause_timeout=self._pause_timeout,
            position=position,
            cancel_on_disconnect=cancel_on_disconnect,
            deadline=deadline,
            watch=watch,
        )
        self._live[run.id] = live
        self._own(self._hold(live, budget), f"run-{run.id}")
        return live

    async def _hold(self, live: LiveRun, budget: RunBudget) -> None:
        try:
            await live.conduct()
        finally:
            live.place.release()
            budget.close()
            # Continued here before its task had quite ended, it is another one's by now.
            if self._live.get(live.run_id) is live:
                del self._live[live.run_id]

    def _meter(self, live: LiveRun, budget: RunBudget, watch: RunWatch) -> Meter:
        run = live.run
        ledger = RunCalls(run.id, run.session_id, run.owner, run.agent_name, self._pricer.currency, ())

        def book(call: ModelCall) -> None:
            live.booked = True
            self._writer.book(ledger, call)

        before = replace(run.totals, currency=self._pricer.currency)
        return RunMeter(run.limits, before, end=live.cancel, book=book, budget=budget, ended=watch.called)

    async def _write_end(self, end: RunEnd) -> None:
        """Writes the end of one of our runs. Raises RunNotResumable when it was ended by another process."""
        try:
            ended = await self._store.end_run(end)
        except RunNotFound:  # ended by another process, and then deleted with its session
            raise RunNotResumable(end.run_id) from None
        if not ended.stored:
            raise RunNotResumable(end.run_id)
        if end.status.final and (live := self._live.get(end.run_id)) is not None:
            self.handed_over(live.run, ended)
        else:
            self._signals.tell((end.run_id,))

    def _followed(self, run: Run, after_sequence: int = 0) -> FollowedRun:
        live = self._live.get(run.id)
        if live is not None and live.after_sequence == after_sequence:
            return live
        return StoredRun(run, self._store, self._watcher, after_sequence)

    async def _end_anywhere(self, owner: Owner, run_id: UUID, cancellation: Cancellation) -> Run:
        """The run when it has ended, whoever holds it. Raises RunNotFound, StorageUnavailable, Draining."""
        live = self._live.get(run_id)
        if live is not None and live.run.owner == owner:
            live.cancel(cancellation)
            with contextlib.suppress(RunNotResumable):
                run = await live.wait()
                if run.status.final:
                    return run
        while not (run := await self._store.request_cancel(owner, run_id, cancellation)).status.final:
            if run.status is RunStatus.PAUSED:
                # Unless somebody has continued it at this moment: then it is asked again.
                ended = await elsewhere.end_paused(self._store, run, cancellation)
                if ended.stored:
                    self._observer.swept("cancelled")
                self.handed_over(run, ended)
                continue
            live = self._live.get(run_id)
            if live is not None:
                live.cancel(cancellation)
            self._signals.tell((run_id,))
            await StoredRun(run, self._store, self._watcher).wait()
        return run

    def _interrupt(self, started: Started) -> None:
        """Ends those in whose place the run has come."""
        cancellation = Cancellation(event_pb2.CANCEL_REASON_INTERRUPTED)
        for run in started.interrupted:
            if run.status is RunStatus.QUEUED:
                # Its holder finds the wish on its row, and nobody gives it a turn any more.
                if (live := self._live.get(run.id)) is not None:
                    live.cancel(cancellation)
            else:
                # It may pause instead of ending: then it is for us to end it.
                self._own(self._see_off(run, cancellation), f"interrupt-{run.id}")
        self._signals.tell([run.id for run in started.interrupted])

    async def _see_off(self, run: Run, cancellation: Cancellation) -> None:
        while True:
            try:
                await self._end_anywhere(run.owner, run.id, cancellation)
            except (Draining, RunNotFound):  # the wish is noted, or there is nothing left to end
                return
            except StorageUnavailable:
                if self._draining:
                    return
                await asyncio.sleep(RETRY_PAUSE)
            else:
                return

    def _own(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        """Runs `work` as a task that the engine waits for before it closes."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _appended(self, run_ids: Iterable[UUID]) -> None:
        self._signals.tell(run_ids)

    def _signalled(self, run_ids: Collection[UUID]) -> None:
        """Another process says that something has changed."""
        self._watcher.hurry(run_ids)
        self._keeper.hurry(run_ids)


def _unfollowed(claim: "asyncio.Task[FollowedRun]") -> None:
    """Nobody is there any more to follow what was claimed: its disconnect policy decides."""
    if not claim.cancelled() and claim.exception() is None:
        followed = claim.result()
        followed.join()
        followed.leave()


def _at(seconds: float | None) -> float | None:
    return None if seconds is None else asyncio.get_running_loop().time() + seconds
