"""Runs agents: a fresh one per run, around the author's shared models, iterated to its end or until it is stopped.

    build the agent ─► load the history ─► `arun` ──────────► map each event ─► the outcome
                    ─► thaw what it left ─► `acontinue_run` ─►

Whatever goes wrong on this way ends up in the outcome, never in an exception; only cancellation passes through. While
the run is under way, its ledger and Agno's live list of messages hold what it has done, so that the outcome is valid
at any moment: an interrupted run keeps its text, its tool results and its costs.

When the iteration ends, by itself or not, nothing of the run stays behind: model requests are closed, tools and members
that still work are cancelled, and what Agno notes of a run process-wide is deleted.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, Final, TypeAlias
from uuid import UUID

from agno.agent import Agent
from agno.models.message import Message
from agno.run import agent as agent_run
from agno.run import cancel
from agno.run import team as team_run
from agno.run.background import await_background_runs
from agno.run.base import RunContext
from agno.team import Team

from dragoman.adapter import (
    components,
    continuing,
    failures,
    guards,
    history,
    media,
    members,
    models,
    remembering,
    supplied,
    values,
)
from dragoman.adapter.books import MemberBooks
from dragoman.adapter.call import Call, Source
from dragoman.adapter.calls import Ledger
from dragoman.adapter.clients import Clients
from dragoman.adapter.events import Accounts, Mapping, requirements
from dragoman.adapter.ports import Builder, HistorySource
from dragoman.adapter.verbatim import Verbatim
from dragoman.engine.ports import Continuation, Meter, Outcome, Pricer, RunOrder
from dragoman.errors import AgentFailed, DragomanError
from dragoman.records import utcnow
from dragoman.v1 import event_pb2

logger = logging.getLogger(__name__)

CLOSE_GRACE: Final = 5.0
"""Seconds that Agno's own bookkeeping has when the server stops."""

FINISH_REASONS: Final[dict[str, event_pb2.FinishReason.ValueType]] = {
    "end_turn": event_pb2.FINISH_REASON_STOP,
    "pause_turn": event_pb2.FINISH_REASON_STOP,
    "max_tokens": event_pb2.FINISH_REASON_MAX_TOKENS,
    "model_context_window_exceeded": event_pb2.FINISH_REASON_MAX_TOKENS,
    "refusal": event_pb2.FINISH_REASON_REFUSAL,
    "tool_use": event_pb2.FINISH_REASON_TOOL,
    "stop_sequence": event_pb2.FINISH_REASON_STOP_SEQUENCE,
}
"""By the provider's stop reason of the last answer. A run whose last answer asked for a tool was ended by that tool."""

_Output: TypeAlias = agent_run.RunOutput | team_run.TeamRunOutput
_OUTPUTS = (agent_run.RunOutput, team_run.TeamRunOutput)
_CONTENT = (agent_run.RunContentEvent, team_run.RunContentEvent)
_COMPLETED = (agent_run.RunCompletedEvent, team_run.RunCompletedEvent)
_CANCELLED = (agent_run.RunCancelledEvent, team_run.RunCancelledEvent)
_FAILED = (agent_run.RunErrorEvent, team_run.RunErrorEvent)
_PAUSED = (agent_run.RunPausedEvent, team_run.RunPausedEvent)
_REQUESTING = (agent_run.ModelRequestStartedEvent, team_run.ModelRequestStartedEvent)
_REQUESTED = (agent_run.ModelRequestCompletedEvent, team_run.ModelRequestCompletedEvent)


class AgnoRunner:
    """Satisfies `engine.ports.Runner`.

    `model_timeout`: seconds of silence of a provider after which a call fails. `model_retries`: how often a provider's
    client tries again when it was refused or could not connect. A model's own settings win over both.
    """

    def __init__(
        self,
        catalog: Builder,
        history: HistorySource,
        pricer: Pricer,
        *,
        model_timeout: float,
        model_retries: int,
    ) -> None:
        self._catalog = catalog
        self._history = history
        self._pricer = pricer
        self._clients = Clients(timeout=model_timeout, retries=model_retries)

    def begin(self, order: RunOrder, meter: Meter) -> "AgnoRun":
        """Prepares a run. Does no I/O and raises nothing: all that goes wrong is in the outcome."""
        ledger = Ledger(order.run_id, order.agent_name, self._pricer, meter)
        scope = models.Scope(ledger, self._clients)
        return AgnoRun(order, self._catalog, self._history, scope, self._pricer.currency)

    async def close(self) -> None:
        """Closes the model clients, when Agno has done its bookkeeping for runs that were cancelled."""
        await await_background_runs(timeout=CLOSE_GRACE)
        await self._clients.close()


class AgnoRun:
    """Satisfies `engine.ports.AgentRun`."""

    def __init__(
        self, order: RunOrder, catalog: Builder, source: HistorySource, scope: models.Scope, currency: str
    ) -> None:
        self._order = order
        self._id = str(order.run_id)
        self._catalog = catalog
        self._source = source
        self._scope = scope
        self._ledger = scope.ledger
        self._recorder = history.Recorder(scope.ledger, utcnow())
        self._context = RunContext(
            run_id=self._id, session_id=str(order.session.id), user_id=order.owner.user or None
        )
        self._books = MemberBooks(scope.ledger, currency)
        self._results: dict[str, list[str]] = {}
        self._mapping = self._map_for(order.agent_name)
        self._outcome = Outcome()
        continuation = order.continuation
        self._text: list[str] = [continuation.content] if continuation and continuation.content else []
        self._output: _Output | None = None
        self._taken_up: continuing.Restored | None = None
        self._supplied: supplied.Supplied | None = None
        self._task: asyncio.Task[Any] | None = None
        self._stopped = False
        self._cancelled = False
        self._ended = False

    def _map_for(
        self, name: str, begun: Sequence[continuing.Begun] = (), component: Agent | Team | None = None
    ) -> Mapping:
        accounts = Accounts(self._ledger.finish, media.show, self._books.spent, self._books.why_failed)
        return Mapping(
            root_run_id=self._id,
            agent_name=name,
            accounts=accounts,
            members=[one.member for one in begun],
            silent_teams=components.silent_teams(component),
        )

    async def events(self) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """What happens, as it happens, without sequence and time."""
        self._task = asyncio.current_task()
        try:
            if self._stopped:
                return
            with guards.contained():
                async with aclosing(await self._start()) as stream:
                    while (event := await self._step(stream)) is not None:
                        for made in self._take(event):
                            yield made
            self._check_cancellation()
            if self._outcome.status == "paused":
                await self._freeze()
        except guards.Strayed as stray:
            self._fail(None, str(stray), stray.__cause__)
        except Exception as error:  # noqa: BLE001 - the outcome tells what it was
            self._fail(None, None, error)
        finally:
            self._ended = True
            await self._clean_up()
            self._task = None  # one that is cancelled holds the frames that hold us

    async def stop(self) -> None:
        """Asks the agent and its members to stop at the next occasion. Returns at once; harmless when it has ended."""
        self._stopped = True
        self._ledger.stop()
        if self._task is not None and not self._ended:
            for run_id in await _with_members(self._id):
                await cancel.acancel_run(run_id)

    def outcome(self) -> Outcome:
        """What came of it so far. Where its messages cannot be recorded it has failed, and keeps its text and its bill."""
        outcome = replace(self._outcome, content="".join(self._text), calls=self._ledger.rows())
        try:
            outcome.messages, outcome.media = self._recorder.record(
                self._conversation(), whole=outcome.status == "paused"
            )
        except Exception as error:  # noqa: BLE001 - what they hold is the agent's and its model's
            outcome.status, outcome.error = "failed", self._classified(None, None, error)
        return outcome

    async def _start(self) -> AsyncGenerator[Any, None]:
        """The agent's stream of events. Raises what building the agent and reading the history raise."""
        order = self._order
        if order.continuation is not None:
            return await self._continue(order, order.continuation)
        component = self._catalog.build(order.agent_name, order)
        earlier = await history.load(self._source, order, self._catalog.history_runs(order.agent_name))
        self._take_charge(component)
        component.additional_input = [*(component.additional_input or ()), *earlier]
        self._recorder.earlier.update(message.id for message in earlier)
        await self._remind(component)
        run: Any = component.arun  # its overloads do not know a union of agents and teams
        stream: AsyncGenerator[Any, None] = run(
            Verbatim(order.message),
            **media.for_agno(order.media),
            stream=True,
            stream_events=True,
            yield_run_output=True,
            run_id=self._id,
            session_id=self._context.session_id,
            user_id=self._context.user_id,
            run_context=self._context,
        )
        return stream

    async def _continue(self, order: RunOrder, continuation: Continuation) -> AsyncGenerator[Any, None]:
        """The stream of events from where the run was paused. Raises what building the agent raises, AgentFailed."""
        try:
            restored = await asyncio.to_thread(continuing.thaw, order, continuation)
            self._order, output = restored.order, restored.output
            component = self._catalog.build(order.agent_name, self._order)
            if isinstance(component, Agent) is not isinstance(output, agent_run.RunOutput):
                raise continuing.NotContinuable("an agent's run and a team's cannot take each other's place")  # noqa: TRY301
        except continuing.NotContinuable as error:
            logger.exception("a paused run cannot be continued", extra={"run_id": self._id})
            raise AgentFailed(order.agent_name) from error
        self._take_charge(component, restored.begun)
        self._take_up(restored)
        await self._remind(component)
        self._context.session_state = output.session_state
        run: Any = component.acontinue_run
        stream: AsyncGenerator[Any, None] = run(
            run_response=output,
            requirements=output.requirements,
            stream=True,
            stream_events=True,
            yield_run_output=True,
            user_id=self._context.user_id,
            run_context=self._context,
        )
        return stream

    def _take_charge(self, component: Agent | Team, begun: Sequence[continuing.Begun] = ()) -> None:
        """Makes the author's agent or team ours for this run."""
        self._mapping = self._map_for(self._order.agent_name, begun, component)
        models.instrument(component)
        self._recorder.earlier.update(message.id for message in components.take_over(component))

    async def _remind(self, component: Agent | Team) -> None:
        """Lets a team remember what those of its members that keep their history have said in earlier runs."""
        if isinstance(component, Team):
            await remembering.remind(component, self._source, self._order)

    def _take_up(self, restored: continuing.Restored) -> None:
        """Tells all who keep books what there was before the pause."""
        self._taken_up = restored
        self._supplied = supplied.Supplied(restored)
        self._scope.tools.awaited = restored.awaited
        self._results = {run_id: list(told) for run_id, told in restored.results.items()}
        self._books.spent_before = {one.member.run_id: one.spent for one in restored.begun}
        open_calls: set[str] = set()
        for output in restored.outputs():
            before = continuing.settled(output.messages or ())
            self._recorder.earlier.update(message.id for message in before)
            open_calls.update(str(call.get("id")) for message in before for call in message.tool_calls or ())
            self._ledger.begin_after(output.metrics, output.run_id)
        self._recorder.open_calls = frozenset(open_calls)
        sources = {self._id: self._ledger.root}
        for one in restored.begun:
            run_id = one.member.run_id
            parent = sources.get(one.member.parent_run_id, self._ledger.root)
            source = Source(
                run_id,
                UUID(run_id),
                parent.run_id,
                one.member.agent_name,
                parent=parent,
                is_member=True,
            )
            sources[run_id] = source
            self._ledger.resume(source)
            answers = partial(restored.answers_of, run_id, self._scope.tools)
            self._recorder.resumed.append(history.Resumed(source, answers))

    async def _freeze(self) -> None:
        """Makes of the paused run what another process can continue. It is paused when that is done."""
        self._outcome.status = "running"
        if self._output is None:
            logger.error("a run was paused without a result to continue", extra={"run_id": self._id})
            raise AgentFailed(self._order.agent_name)
        begun = [
            continuing.Begun(member, self._books.spent(run_id))
            for run_id, member in self._mapping.members().items()
        ]
        self._outcome.continuation = await asyncio.to_thread(
            continuing.freeze, self._order, self._output, begun, self._results
        )
        self._outcome.status = "paused"

    async def _step(self, stream: AsyncGenerator[Any, None]) -> Any:
        """The agent's next event; None at the end. All that it starts in this step knows its run."""
        token = models.scope.set(self._scope)
        try:
            return await anext(stream, None)
        finally:
            models.scope.reset(token)

    def _take(self, event: Any) -> list[event_pb2.RunEvent]:
        event = members.carried(event)
        if isinstance(event, _OUTPUTS):
            self._output = event
            return []
        of_member = getattr(event, "run_id", None) not in (self._id, None)
        if of_member and isinstance(event, _COMPLETED):
            self._ledger.settle(event.run_id, event.metrics)
        made = self._mapping.map(event)
        if self._supplied is not None:
            for owed in self._supplied.after(event):
                made += self._mapping.map(owed)
        if self._taken_up is not None:
            self._pass_on(event, self._taken_up)
        if of_member:
            if isinstance(event, _REQUESTED):
                self._recorder.note(self._ledger.messages_of(event.run_id or self._id))
        elif isinstance(event, _CONTENT):
            self._text.extend(one.content_delta.text for one in made if one.HasField("content_delta"))
        else:
            self._note(event)
        return made

    def _pass_on(self, event: Any, restored: continuing.Restored) -> None:
        """After a pause: sees that a leader is told what came of its members before it asks its model."""
        if isinstance(event, (*_COMPLETED, *_FAILED)) and event.parent_run_id:
            failed = isinstance(event, _FAILED)
            result = members.FAILED if failed else event.content or "Task completed"
            self._results.setdefault(event.parent_run_id, []).append(f"[{_name(event)}]: {result}")
        elif isinstance(event, _REQUESTING):
            if restored.unanswered(self._scope.tools, event.run_id):
                raise continuing.NotContinuable("a tool call has no result")
            results = self._results.pop(event.run_id or "", [])
            leader = next((one for one in restored.outputs() if one.run_id == event.run_id), None)
            if leader is not None and results:
                continuing.inform(leader.messages or (), results)

    def _note(self, event: Any) -> None:
        """Takes over what an event of the run's own agent says of its state."""
        match event:
            case _ if isinstance(event, _REQUESTED):
                self._recorder.note(self._live())
            case _ if isinstance(event, _CANCELLED):
                self._cancelled = True  # Agno says "completed" next: it is not
            case _ if isinstance(event, _COMPLETED) and not self._cancelled:
                self._complete(event)
            case _ if isinstance(event, _PAUSED):
                self._outcome.status = "paused"
                self._outcome.requirements = requirements(event, self._mapping.members())
            case _ if isinstance(event, _FAILED):
                self._fail(event.error_type, event.content, None)

    def _complete(self, event: agent_run.RunCompletedEvent | team_run.RunCompletedEvent) -> None:
        self._ledger.settle(self._id, event.metrics)
        self._outcome.status = "completed"
        if event.content is not None and not isinstance(event.content, str):
            self._outcome.structured = values.plain(event.content)
        last = self._ledger.last()
        if last is not None:
            self._outcome.finish_reason = FINISH_REASONS.get(
                last.stop_reason, event_pb2.FINISH_REASON_UNSPECIFIED
            )

    def _fail(self, error_type: str | None, message: str | None, error: BaseException | None) -> None:
        if self._outcome.status != "running":
            return
        # A model's exception is on its call, with the HTTP status.
        call = None if error is not None else self._ledger.failed_with(message)
        if call is not None:
            error = call.error
        self._outcome.status = "failed"
        if isinstance(error, continuing.NotContinuable) or (call is None and self._unanswered()):
            # The agent cannot do what it was paused for: a tool may have gone.
            logger.warning("a paused run cannot be continued", extra={"run_id": self._id})
            self._outcome.error = AgentFailed(self._order.agent_name)
        else:
            self._outcome.error = self._classified(error_type, message, error, call)

    def _classified(
        self,
        error_type: str | None,
        message: str | None,
        error: BaseException | None,
        call: Call | None = None,
    ) -> DragomanError:
        return failures.classify(
            error_type,
            message,
            error,
            status=call.http_status if call else None,
            provider=call.provider if call else "",
            agent_name=self._order.agent_name,
        )

    def _check_cancellation(self) -> None:
        """A run that says it was cancelled, and was not, has failed by the agent's own code."""
        if self._cancelled and not self._stopped and self._outcome.status == "running":
            logger.warning("the agent's own code cancelled the run", extra={"run_id": self._id})
            self._outcome.status, self._outcome.error = "failed", AgentFailed(self._order.agent_name)

    def _unanswered(self) -> bool:
        return self._taken_up is not None and self._taken_up.unanswered(self._scope.tools, self._id)

    def _conversation(self) -> Sequence[Message]:
        if self._output is not None and self._output.messages and not self._cancelled:
            return self._output.messages
        return self._live()

    def _live(self) -> Sequence[Message]:
        return self._context.messages or self._ledger.root.messages or self._first_answers()

    def _first_answers(self) -> Sequence[Message]:
        if self._taken_up is None:
            return ()
        return [*(self._taken_up.output.messages or ()), *self._taken_up.answers(self._scope.tools)]

    async def _clean_up(self) -> None:
        """Nothing of the run stays behind in Agno or on the loop."""
        self._ledger.stop()
        run_ids = await _with_members(self._id)
        await self._scope.tools.close(self._task)
        await self._ledger.close(self._task)
        for run_id in {*run_ids, *self._ledger.agno_ids}:
            await cancel.acleanup_run(run_id)
            await cancel.acleanup_member_runs(run_id)


def _name(event: Any) -> str:
    """The name of the agent or team whose event it is."""
    return str(getattr(event, "agent_name", "") or getattr(event, "team_name", ""))


async def _with_members(run_id: str) -> list[str]:
    """The runs of the members, theirs before them, then the run itself: in the order in which to stop them."""
    found: list[str] = []
    for member in await cancel.aget_member_run_ids(run_id):
        found.extend(await _with_members(member))
    return [*found, run_id]
