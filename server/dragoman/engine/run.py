"""One run, from its first event to its last, in one task that nobody but the engine cancels.

Inside, a second task iterates the agent: that is the one that ends early when the run is cancelled, when the store has
not taken its events for too long, or when the server stops. Whatever happened to it, the outer task then asks the agent
what came of it, and writes the messages, the priced calls, the totals and the last event in one transaction.
A caller who leaves only stops watching, unless he has said that the run ends with him.

A run that has to wait for its session's turn is here, too: its task waits before it begins. One that pauses ends here; when
it is continued, here or elsewhere, a new task takes up what it has left (`Past`).

Nothing but that last transaction frees the session and keeps the bill, so it is offered to the store for as long as the
process lives; observers are told after a while that they need not wait for it. Where the store takes everything but this
run's end (a defect), the run ends as failed, with its bill and without its messages.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from uuid import UUID

from dragoman import ids, observing, wire
from dragoman.engine import states, terminal
from dragoman.engine.log import RunLog
from dragoman.engine.ports import AgentRun, Meter, Outcome, Runner, RunOrder
from dragoman.errors import DragomanError, Internal, StorageUnavailable
from dragoman.observing import UNOBSERVED, RunWatch
from dragoman.quotas import Slot
from dragoman.records import Cancellation, Pause, Run, RunEnd, RunStatus, Totals, totals, utcnow
from dragoman.v1 import event_pb2

logger = logging.getLogger(__name__)

STOP_GRACE = 5.0
"""Seconds that an agent has to let go after its task was cancelled."""

END_ATTEMPTS = 5
"""How often the end of a run is offered to a store that does not answer (each time with the store's own retries) before
observers are told."""

END_PAUSE = 5.0
"""Seconds between two offers, at the most."""


@dataclass(frozen=True, slots=True)
class Past:
    """What a run had come to before it was continued."""

    after_sequence: int = 0
    totals: Totals = field(default_factory=Totals)
    message_ids: tuple[str, ...] = ()
    active: timedelta = timedelta()
    content: str = ""


class LiveRun:
    """A run under way (or waiting) in this process, or just ended."""

    def __init__(
        self,
        run: Run,
        order: RunOrder,
        log: RunLog,
        runner: Runner,
        meter: Callable[["LiveRun"], Meter],
        write_end: Callable[[RunEnd], Awaitable[None]],
        *,
        past: Past,
        place: Slot,
        refused: Callable[[], Awaitable[Cancellation | None]],
        pause_timeout: float,
        position: int = 0,
        cancel_on_disconnect: bool = False,
        deadline: float | None = None,
        watch: RunWatch = UNOBSERVED,
    ) -> None:
        """`place`: given back when its end is stored. `refused`: why it must not begin after all when it has waited.
        `position`: its place among those that wait, when it is queued. `deadline`: in the loop's time. `watch`: sees it."""
        self._watch = watch
        self._run = run
        self._order = order
        self._log = log
        self._runner = runner
        self._meter = meter
        self._write_end = write_end
        self._past = past
        self._refused = refused
        self._pause_timeout = timedelta(seconds=pause_timeout)
        self._position = position
        self._cancel_on_disconnect = cancel_on_disconnect
        self._followers = 0
        self._cancellation: Cancellation | None = None
        self._interrupted = asyncio.Event()
        self._granted = asyncio.Event()
        self._released = asyncio.Event()
        loop = asyncio.get_running_loop()
        self._loop = loop
        self._began: float | None = None
        self._timers: list[asyncio.TimerHandle] = []
        if deadline is not None:
            self._timers.append(
                loop.call_at(deadline, self.cancel, Cancellation(event_pb2.CANCEL_REASON_DEADLINE))
            )
        self.place = place
        """Its place among the runs of this process."""
        self.booked = False
        """Whether calls of it may be stored already."""
        self._ended: asyncio.Future[Run] = loop.create_future()
        # Nobody has to wait for the end: an error there is logged, and observers get it from the log.
        self._ended.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    @property
    def run_id(self) -> UUID:
        """The run's id."""
        return self._run.id

    @property
    def session_id(self) -> UUID:
        """The session's id."""
        return self._run.session_id

    @property
    def after_sequence(self) -> int:
        """After which sequence those who asked for it follow: 0, or that of the pause that was continued."""
        return self._past.after_sequence

    @property
    def run(self) -> Run:
        """The run as it is known here."""
        return self._run

    def events(self, after_sequence: int) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """The events after the sequence: those there are, then those to come, to the last. Any number of observers.

        Raises StorageUnavailable when the end of the run could not be stored (yet), RunNotResumable when another process
        has ended it.
        """
        return self._log.observe(after_sequence)

    async def wait(self) -> Run:
        """The run when it has ended (or paused) and is stored. Raises what `events` raises."""
        return await asyncio.shield(self._ended)

    def join(self) -> None:
        """Somebody follows it through a call."""
        self._followers += 1

    def leave(self, *, timed_out: bool = False) -> None:
        """He has gone (`timed_out`: by his deadline). The last one may take the run with him."""
        self._followers -= 1
        if self._followers == 0 and self._cancel_on_disconnect:
            if timed_out:
                self.cancel(Cancellation(event_pb2.CANCEL_REASON_DEADLINE))
            else:
                by = self._run.owner.principal
                self.cancel(Cancellation(event_pb2.CANCEL_REASON_CALLER, by, "nobody follows it any more"))

    def grant(self) -> None:
        """It has its session's turn."""
        self._granted.set()

    def cancel(self, cancellation: Cancellation) -> None:
        """Asks the run to end. The first reason counts; harmless when it has ended."""
        if self._cancellation is None:
            self._cancellation = cancellation
            self._interrupted.set()

    def release(self) -> None:
        """Says that the process is about to end: a store that does not answer is not waited for beyond `END_ATTEMPTS`."""
        self._released.set()

    async def conduct(self) -> None:
        """The whole run. Returns when it is stored, or cannot be; never raises but for cancellation."""
        observing.bind(run_id=str(self.run_id))
        self._watch.enter()
        try:
            await self._conduct()
        finally:
            self._watch.ended("lost", "INTERNAL")  # unless it is known by now how it ended

    async def _conduct(self) -> None:
        try:
            outcome, defect = Outcome(content=self._past.content), None
            if await self._turn():
                self._begin()
                outcome, defect = await self._work()
        finally:
            for timer in self._timers:
                timer.cancel()
        await self._log.seal()
        await self._end(outcome, defect)

    async def _turn(self) -> bool:
        """Waits for the session's turn. False when the run ends before it has it."""
        if self._run.status is not RunStatus.QUEUED:
            return True
        self._log.append(terminal.opening(self._run, self._position))
        await _first(self._granted, self._interrupted, self._log.stuck, name=f"turn-{self.run_id}")
        if not self._interrupted.is_set() and (refused := await self._refused()) is not None:
            self.cancel(refused)
        return not self._interrupted.is_set() and not self._log.stuck.is_set()

    def _begin(self) -> None:
        waited = self._run.status is RunStatus.QUEUED
        self._run = replace(self._run, status=RunStatus.RUNNING)
        self._began = self._loop.time()
        self._watch.began()
        if (limit := self._run.limits.max_duration) is not None:
            left = max(limit - self._past.active, timedelta()).total_seconds()
            note = f"the limit is {limit.total_seconds():g} s"
            self._timers.append(
                self._loop.call_later(
                    left, self.cancel, Cancellation(event_pb2.CANCEL_REASON_MAX_DURATION, note=note)
                )
            )
        continuation = self._order.continuation
        if continuation is None:
            self._log.append(terminal.run_started(self._run) if waited else terminal.opening(self._run))
        else:
            self._log.append(terminal.run_continued(len(continuation.resolutions)))

    async def _work(self) -> tuple[Outcome, DragomanError | None]:
        """What the agent came to, and the error that is not the agent's."""
        defect: DragomanError | None = None
        agent_run: AgentRun | None = None
        try:
            agent_run = self._runner.begin(self._order, self._meter(self))
            defect = await self._iterate(agent_run)
        except Exception as error:  # noqa: BLE001 - a run must always end with its one last event
            defect = _incident(self.run_id, error)
        outcome = Outcome(content=self._past.content)
        try:
            if agent_run is not None:
                outcome = agent_run.outcome()
        except Exception as error:  # noqa: BLE001 - likewise
            defect = _incident(self.run_id, error)
        return outcome, defect

    async def _iterate(self, agent_run: AgentRun) -> DragomanError | None:
        """Feeds the log until the agent has ended or was interrupted. Returns the error that is not the agent's."""
        iteration = asyncio.create_task(self._feed(agent_run), name=f"agent-{self.run_id}")
        triggers = [
            asyncio.create_task(self._interrupted.wait(), name=f"interrupt-{self.run_id}"),
            asyncio.create_task(self._log.stuck.wait(), name=f"stuck-{self.run_id}"),
        ]
        try:
            await asyncio.wait({iteration, *triggers}, return_when=asyncio.FIRST_COMPLETED)
            if not iteration.done():
                await agent_run.stop()
        finally:
            for task in (iteration, *triggers):
                task.cancel()
            # An agent that does not let go is left behind and logged; the run ends all the same.
            done, left = await asyncio.wait({iteration, *triggers}, timeout=STOP_GRACE)
            if left:
                logger.error(
                    "an agent did not stop when it was cancelled", extra={"run_id": str(self.run_id)}
                )
        if iteration in done and not iteration.cancelled() and (raised := iteration.exception()) is not None:
            return raised if isinstance(raised, DragomanError) else _incident(self.run_id, raised)
        return None

    async def _feed(self, agent_run: AgentRun) -> None:
        async with aclosing(agent_run.events()) as events:
            async for event in events:
                self._log.append(event)
                await self._log.room()

    async def _end(self, outcome: Outcome, defect: DragomanError | None) -> None:
        if self._log.stuck.is_set():
            defect = StorageUnavailable()
        if defect is not None and outcome.status != "completed":
            outcome.status, outcome.error = "failed", defect
        if outcome.status == "running" and self._cancellation is None:
            outcome.status, outcome.error = "failed", _incident(self.run_id)
        try:
            try:
                await self._store_end(outcome)
            except DragomanError:
                raise
            except Exception as error:  # noqa: BLE001 - the session and the bill must not be lost with the messages
                incident = _incident(self.run_id, error)
                await self._store_end(Outcome(status="failed", error=incident, calls=outcome.calls))
        except DragomanError as error:
            self._give_up(error)
        except Exception as error:  # noqa: BLE001 - observers must not wait for ever
            self._give_up(_incident(self.run_id, error))

    async def _store_end(self, outcome: Outcome) -> None:
        total = self._past.totals + totals(outcome.calls, self._past.totals.currency)
        message_ids = [*self._past.message_ids, *wire.ids(outcome.messages)]
        end_time = utcnow()
        expire_time = end_time + self._pause_timeout
        step, event = terminal.last_event(outcome, total, message_ids, self._cancellation, expire_time)
        status = states.advance(self._run.status, step)
        if status is None:
            raise AssertionError(f"a run cannot {step} when it is {self._run.status}")
        chunk = self._log.ending(event)
        await self._offer(
            RunEnd(
                run_id=self.run_id,
                session_id=self.session_id,
                owner=self._run.owner,
                status=status,
                end_time=end_time,
                chunk=chunk,
                totals=total,
                messages=tuple(outcome.messages),
                media=tuple(outcome.media),
                calls=tuple(outcome.calls),
                booked=self.booked,
                pause=self._pause(outcome, expire_time) if status is RunStatus.PAUSED else None,
            )
        )
        for call in outcome.calls:
            self._watch.called(call)  # also those that the end has interrupted
        self._watch.ended(str(status), terminal.why(event))
        self.place.release()
        self._log.close(event)
        self._run = replace(
            self._run,
            status=status,
            update_time=end_time,
            end_time=end_time if status.final else None,
            last_sequence=self._log.last_sequence,
            totals=total,
            last_event=chunk.events[-1],
        )
        logger.info(
            "run ended" if status.final else "run paused",
            extra={
                "run_id": str(self.run_id),
                "agent": self._run.agent_name,
                "status": str(status),
                "model_calls": total.model_calls,
                "total_tokens": total.usage.total_tokens,
                "events": self._log.last_sequence,
            },
        )
        if not self._ended.done():
            self._ended.set_result(self._run)

    def _pause(self, outcome: Outcome, expire_time: datetime) -> Pause:
        now = self._loop.time()
        active = timedelta(seconds=now - (now if self._began is None else self._began))
        return Pause(outcome.continuation, outcome.content, self._past.active + active, expire_time)

    async def _offer(self, end: RunEnd) -> None:
        """Offers the end to the store, which may have taken it before, until it is taken or the process ends."""
        attempts = 0
        while True:
            try:
                await self._write_end(end)
            except StorageUnavailable:
                attempts += 1
            else:
                return
            if attempts < END_ATTEMPTS:
                await asyncio.sleep(min(0.5 * 2**attempts, END_PAUSE))
                continue
            if self._released.is_set():
                raise StorageUnavailable()
            if attempts == END_ATTEMPTS:
                logger.error("a run is not stored yet", extra={"run_id": str(self.run_id)})
                self._tell(StorageUnavailable())
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(END_PAUSE):
                    await self._released.wait()

    def _tell(self, error: DragomanError) -> None:
        """Ends the waiting of observers."""
        self._log.fail(error)
        if not self._ended.done():
            self._ended.set_exception(error)

    def _give_up(self, error: DragomanError) -> None:
        """Leaves the run to whoever finds that its lease has run out."""
        logger.error("a run could not be stored", extra={"run_id": str(self.run_id), "reason": error.reason})
        self._watch.ended("lost", error.reason)
        self._tell(error)


async def _first(*events: asyncio.Event, name: str) -> None:
    """Returns when one of the events is set."""
    tasks = {asyncio.create_task(event.wait(), name=name) for event in events}
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


def _incident(run_id: UUID, error: BaseException | None = None) -> Internal:
    incident = str(ids.new_id())
    logger.error(
        "a run failed by a defect", exc_info=error, extra={"run_id": str(run_id), "incident_id": incident}
    )
    return Internal(incident)
