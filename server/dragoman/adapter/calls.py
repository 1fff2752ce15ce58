"""The ledger of one run: every call of a model from its first byte to its end, however it ends.

`models.py` opens a `Call` when Agno asks a model and reports to it what the provider says of tokens while it answers.
The call ends in one of three ways (completed, failed, interrupted), and at that moment it is priced; what the provider
had reported by then is what it costs. Before a call the run's meter is asked, and it is told what each call has come
to. A call belongs to the run that Agno made it for: the run itself, a team member, or an agent that a tool started or
that reasons for another, which counts as a run under the one that is at work then (`steps.py`).

Some calls come with no run: Agno's memories, summaries and the like. They are of the run that is at work, and of kind
`auxiliary` until Agno's own sums, which come at the end, tell what they were for. Where these sums hold more than was
seen (a model that could not be reached to be metered), the rest becomes a row of its own. Nothing is billed twice.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

from agno.exceptions import RunCancelledException
from agno.metrics import RunMetrics
from agno.models.base import Model
from agno.models.message import Message
from agno.run import cancel
from agno.run.agent import RunOutput
from agno.run.team import TeamRunOutput

from dragoman import ids, wire
from dragoman.adapter import failures, steps
from dragoman.adapter.call import AUXILIARY, MAIN, REASONING, Call, Source, kind_of
from dragoman.adapter.sums import divide, fits, minus, plus
from dragoman.adapter.tokens import Counts, counts
from dragoman.engine.ports import Meter, Pricer
from dragoman.records import CallStatus, ModelCall, TokenUsage, utcnow
from dragoman.v1 import event_pb2

logger = logging.getLogger(__name__)

CLOSE_GRACE: Final = 5.0
"""Seconds that tasks with open calls have to end after they were cancelled."""

_INTERRUPTIONS = (asyncio.CancelledError, GeneratorExit, KeyboardInterrupt, SystemExit)


class LimitReached(Exception):
    """The run may spend no more. It is being ended; this only ends a thread of it."""


class RunEnded(RunCancelledException):
    """The run has been stopped, or is over: it asks no model anything more. Agno ends whatever part of it meets this."""

    def __init__(self) -> None:
        super().__init__("the run has ended")


class Ledger:
    """The calls of one run. Used on one event loop."""

    def __init__(self, run_id: UUID, agent_name: str, pricer: Pricer, meter: Meter) -> None:
        self._pricer = pricer
        self._meter = meter
        self._loop = asyncio.get_running_loop()
        self._root = Source(str(run_id), run_id, None, agent_name)
        self._sources = {self._root.agno_id: self._root}
        self._calls: list[Call] = []
        # What Agno's sums hold of the time before the run was paused, by run, kind, provider and model.
        self._before: dict[tuple[str, str, str, str], Counts] = {}
        self._stopped = False
        self._closed = False

    @property
    def root(self) -> Source:
        """The run itself."""
        return self._root

    @property
    def members(self) -> list[Source]:
        """The members' runs, in the order in which they began."""
        return [source for source in self._sources.values() if source.is_member]

    @property
    def agno_ids(self) -> list[str]:
        """Agno's ids of all runs that have called a model."""
        return list(self._sources)

    async def admit(self) -> None:
        """Returns when another request may be made. While the run is being ended by its meter: waits for that.

        Raises RunEnded after `stop`: what Agno or a tool of the agent's makes of the end is no reason to ask again.
        """
        self._check()
        if not self._meter.may_call():
            await asyncio.Event().wait()

    def admit_in_thread(self) -> None:
        """The same for callers in a thread, and for code that holds the loop up. Raises LimitReached, RunEnded."""
        self._check()
        if not self._on_loop(self._meter.may_call):
            raise LimitReached()

    def stop(self) -> None:
        """The run is being ended: from now on no request is made for it, not even another attempt of a call under way."""
        self._stopped = True
        for call in self._calls:
            call.barred = True

    def _check(self) -> None:
        if self._stopped:
            raise RunEnded()

    def note(self, call: Call) -> None:
        """The provider has reported tokens of a call that is under way."""
        self._tell(call, under_way=True)

    def open(self, model: Model, arguments: Mapping[str, Any]) -> Call:
        """A request is about to be made. `arguments` are those of `Model.ainvoke` and its like."""
        run = arguments.get("run_response")
        source = self._source(run)
        kind = kind_of(model, source, has_run=run is not None)
        call = Call(
            source,
            kind=kind,
            provider=model.get_provider(),
            model=model.id,
            message=arguments.get("assistant_message"),
        )
        call.has_run = run is not None
        call.barred = self._stopped
        with contextlib.suppress(RuntimeError):  # a synchronous call in a thread has no task
            call.task = asyncio.current_task()
        if run is not None and kind in (MAIN, REASONING) and source.messages is None:
            source.messages = arguments.get("messages")
        self._calls.append(call)
        return call

    def end(self, call: Call, error: BaseException | None = None) -> None:
        """The call is over: completed without an error, else failed or interrupted by it."""
        if error is None:
            status = CallStatus.COMPLETED
        elif isinstance(error, _INTERRUPTIONS):
            status = CallStatus.INTERRUPTED
        else:
            status = CallStatus.FAILED
        if call.status is None:
            if error is not None and status is CallStatus.FAILED:
                call.failure = failures.kind_of(error, call.http_status)
            call.end(status, error, self._pricer)
            self._tell(call, under_way=False)

    def finish(self, event: Any) -> event_pb2.RunEvent:
        """`model_request_completed` for Agno's event of that name."""
        call = self._match(event) or self._unmetered(event)
        call.announced = True
        done = event_pb2.ModelRequestCompleted(
            model=call.model,
            provider=call.provider,
            usage=wire.token_usage(call.usage),
            stop_reason=call.stop_reason,
            duration=wire.duration(call.duration),
            attempt=call.attempt,
        )
        if call.cost is not None:
            done.cost.CopyFrom(wire.call_cost(call.cost))
        if call.time_to_first_token is not None:
            done.time_to_first_token.CopyFrom(wire.duration(call.time_to_first_token))
        return event_pb2.RunEvent(model_request_completed=done)

    def resume(self, source: Source) -> None:
        """A member goes on that had begun before the pause. Before those whom it has delegated to."""
        self._sources[source.agno_id] = source

    def begin_after(self, metrics: RunMetrics | None, agno_run_id: str | None = None) -> None:
        """The run goes on after a pause: Agno's sums go on as well, and what they hold by now is in the store.

        `agno_run_id`: whose sums, when they are a member's.
        """
        for kind, entries in ((metrics.details if metrics else None) or {}).items():
            for entry in entries:
                key = (agno_run_id or self._root.agno_id, kind, entry.provider, entry.id)
                self._before[key] = plus(self._before.get(key), counts(entry))

    def settle(self, agno_run_id: str | None, metrics: RunMetrics | None) -> None:
        """Explains what Agno counted for a completed run by the calls that were seen; books the rest."""
        source = self._sources.get(agno_run_id or "", self._root)
        sums: dict[tuple[str, str], dict[str, Counts]] = {}
        for kind, entries in ((metrics.details if metrics else None) or {}).items():
            for entry in entries:
                counted = sums.setdefault((entry.provider, entry.id), {})
                counted[kind] = plus(counted.get(kind), self._since_pause(source, kind, entry))
        for (provider, model), left in sums.items():
            for kind in left:
                for call in self._explaining(source, kind, model):
                    if fits(call.counted, left[kind]):
                        left[kind], call.settled = minus(left[kind], call.counted), True
            self._tell_apart(self._explaining(source, AUXILIARY, model), left)
            unexplained = {kind: rest for kind, rest in left.items() if any(rest)}
            if not unexplained:
                continue
            rest = plus(*unexplained.values())
            kind = next(iter(unexplained)) if len(unexplained) == 1 else AUXILIARY
            # Calls that fit nowhere are part of the rest all the same: rather of an unknown kind than billed twice.
            for call in self._explaining(source, AUXILIARY, model):
                rest = minus(rest, call.counted)
                call.kind, call.settled = kind, True
            if any(rest):
                self._book(source, kind, provider, model, TokenUsage(*rest))

    def _tell_apart(self, unknown: Sequence[Call], left: dict[str, Counts]) -> None:
        """Finds out what calls were for by the sums that they must come to: exactly if they can, else as they fit."""
        for call, kind in zip(unknown, divide([call.counted for call in unknown], left), strict=True):
            if kind is not None:
                left[kind] = minus(left[kind], call.counted)
                call.kind, call.settled = kind, True

    def _since_pause(self, source: Source, kind: str, entry: Any) -> Counts:
        """What Agno counted without what it had counted before the pause."""
        figures = counts(entry)
        before = self._before.pop((source.agno_id, kind, entry.provider, entry.id), None)
        return figures if before is None else minus(figures, before)

    def last(self, agno_run_id: str | None = None) -> Call | None:
        """The latest call in which the run's own agent, or the given run's, worked at its answer."""
        source = self._sources.get(agno_run_id or self._root.agno_id)
        return next((c for c in reversed(self._calls) if c.source is source and c.has_run), None)

    def failed_with(self, told: str | None, agno_run_id: str | None = None) -> Call | None:
        """The latest call, likewise, when its error is what Agno's event tells: the event has the text alone."""
        call = self.last(agno_run_id)
        return call if call is not None and str(call.error) == (told or "") else None

    def of_run(self, agno_run_id: str) -> list[ModelCall]:
        """The calls of one run alone, without those of its members, in order."""
        source = self._sources.get(agno_run_id)
        return [self._row(call) for call in self._calls if call.source is source]

    def unfinished(self, source: Source) -> Call | None:
        """The source's last call, when it did not complete."""
        call = next((c for c in reversed(self._calls) if c.source is source and c.has_run), None)
        return call if call is not None and call.status is not CallStatus.COMPLETED else None

    def messages_of(self, agno_run_id: str) -> Sequence[Message]:
        """Agno's live list of a run's conversation; empty until it has called a model."""
        source = self._sources.get(agno_run_id)
        return source.messages or () if source is not None else ()

    def of_message(self, message_id: str) -> Call | None:
        """The call that wrote the message."""
        return next(
            (c for c in reversed(self._calls) if c.message is not None and c.message.id == message_id), None
        )

    def rows(self) -> list[ModelCall]:
        """All calls, priced; one that is under way as it would be if it were interrupted now."""
        return [self._row(call) for call in self._calls]

    async def close(self, iterating: asyncio.Task[Any] | None) -> None:
        """Ends the calls that are still open, and the tasks that make them, but for the one that iterates the run."""
        self.stop()
        self._closed = True
        tasks: set[asyncio.Task[Any]] = set()
        streams: list[asyncio.Event] = []
        for call in [call for call in self._calls if call.status is None]:
            self.end(call, asyncio.CancelledError())
            if call.task is not None and call.task is not iterating and not call.task.done():
                call.task.cancel()
                tasks.add(call.task)
            elif call.closed is not None:
                streams.append(call.closed)
        if tasks:
            await asyncio.wait(tasks, timeout=CLOSE_GRACE)
        # A generator that Agno has dropped is closed by the event loop: its request ends a few steps from now.
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_GRACE):
                for closed in streams:
                    await closed.wait()
        for call in self._calls:
            call.let_go()

    def _tell(self, call: Call, *, under_way: bool) -> None:
        """Tells the meter how the call stands. What comes after the run's end is in its outcome, or in no ledger."""
        if self._closed:
            return
        row = self._row(call)
        if _runs_on(self._loop):
            self._meter.note(row, under_way=under_way)
        else:
            self._loop.call_soon_threadsafe(lambda: self._meter.note(row, under_way=under_way))

    def _on_loop(self, work: Callable[[], bool]) -> bool:
        if _runs_on(self._loop):
            return work()
        answer: Future[bool] = Future()
        self._loop.call_soon_threadsafe(lambda: answer.set_result(work()))
        return answer.result()

    def _source(self, run: RunOutput | TeamRunOutput | None) -> Source:
        at_work = self._at_work(steps.current.get())
        if run is None or run.run_id is None:
            return at_work
        return self._sources.get(run.run_id) or self._add(run.run_id, _names(run), at_work)

    def _at_work(self, step: steps.AtWork | None) -> Source:
        if step is None:
            return self._root
        known = self._sources.get(step.agno_id)
        return known or self._add(step.agno_id, (step.name, step.agno_id), self._at_work(step.outer))

    def _add(self, agno_id: str, names: tuple[str | None, str | None], at_work: Source) -> Source:
        """A run that has not been seen before. One without a name goes by its agent's id in a team, else by whom it works for."""
        team = self._delegator(agno_id)
        parent = team or at_work
        name, agent_id = names
        source = self._sources[agno_id] = Source(
            agno_id,
            _uuid(agno_id),
            parent.run_id,
            name or (agent_id if team is not None else None) or parent.agent_name,
            parent=parent,
            is_member=team is not None,
        )
        return source

    def _delegator(self, agno_id: str) -> Source | None:
        """The team whose member makes the run; None for an agent that no team runs.

        Agno writes the parent into the events of a member's run, but not into the run that the model is given.
        """
        return next(
            (s for s in self._sources.values() if agno_id in cancel.get_member_run_ids(s.agno_id)), None
        )

    def _match(self, event: Any) -> Call | None:
        """The call that an event tells of: events may lag behind, but keep their order within a run."""
        waiting = [
            call
            for call in self._calls
            if call.status is CallStatus.COMPLETED
            and call.has_run
            and not call.announced
            and call.source.agno_id == (event.run_id or self._root.agno_id)
        ]
        told = (event.input_tokens or 0, event.output_tokens or 0)
        same = (call for call in waiting if call.counted[:2] == told)
        return next(same, None) or next((call for call in waiting if call.kind == MAIN), None)

    def _unmetered(self, event: Any) -> Call:
        """The row of a call that was seen by its event alone."""
        usage = replace(TokenUsage(*counts(event)), reasoning_tokens=event.reasoning_tokens or 0)
        source = self._sources.get(event.run_id or self._root.agno_id) or self._announced(event)
        call = self._book(source, MAIN, event.model_provider or "", event.model or "", usage)
        if event.time_to_first_token is not None:
            call.time_to_first_token = timedelta(seconds=event.time_to_first_token)
        return call

    def _announced(self, event: Any) -> Source:
        """The run that an event tells of, when none of its calls was seen: that of a member whom nobody could meter."""
        parent = self._sources.get(getattr(event, "parent_run_id", None) or "", self._root)
        names = (getattr(event, key, None) for key in ("agent_name", "team_name", "agent_id", "team_id"))
        name = next((name for name in names if name), parent.agent_name)
        source = Source(event.run_id, _uuid(event.run_id), parent.run_id, name, parent=parent, is_member=True)
        self._sources[source.agno_id] = source
        return source

    def _explaining(self, source: Source, kind: str, model: str) -> list[Call]:
        """Completed calls that may be part of what Agno counted for the source as of that kind: its own first.

        Agno counts an agent inside of another (one that reasons, for example) with the outer one, but not one that a
        tool runs: these never fit in, as the source's own calls leave no room for them. Whatever a team asks for its
        answer, of whichever model, Agno counts as of the main kind.
        """
        able = [
            call
            for call in self._calls
            if call.status is CallStatus.COMPLETED
            and not call.settled
            and call.model == model
            and (call.kind == kind or (kind == MAIN and call.has_run))
            and call.source.works_for(source)
        ]
        return sorted(able, key=lambda call: (call.kind != kind, call.source is not source))

    def _book(self, source: Source, kind: str, provider: str, model: str, usage: TokenUsage) -> Call:
        call = Call(source, kind=kind, provider=provider, model=model, message=None)
        call.usage = usage
        call.counted = (
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens,
        )
        self._calls.append(call)
        self.end(call)
        return call

    def _row(self, call: Call) -> ModelCall:
        status, cost = call.status, call.cost
        if status is None:
            status = CallStatus.INTERRUPTED
            cost = self._pricer.price(call.provider, call.model, call.usage, utcnow())
        return ModelCall(
            id=call.id,
            run_id=call.source.run_id,
            parent_run_id=call.source.parent_run_id,
            agent_name=call.source.agent_name,
            kind=call.kind,
            provider=call.provider,
            model=call.model,
            usage=call.usage,
            cost=cost,
            status=status,
            stop_reason=call.stop_reason,
            start_time=call.start_time,
            duration=call.duration,
            time_to_first_token=call.time_to_first_token,
            attempt=call.attempt,
            failure=call.failure,
        )


def _runs_on(loop: asyncio.AbstractEventLoop) -> bool:
    try:
        return asyncio.get_running_loop() is loop
    except RuntimeError:
        return False


def _names(run: RunOutput | TeamRunOutput) -> tuple[str | None, str | None]:
    """The name and the id of the agent or team whose run it is."""
    if isinstance(run, TeamRunOutput):
        return run.team_name, run.team_id
    return run.agent_name, run.agent_id


def _uuid(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        return ids.new_id()
