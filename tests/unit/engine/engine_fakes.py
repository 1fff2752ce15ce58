"""An agent that plays a script, drafts for it, and what followers see of its runs."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, TypeAlias, cast
from uuid import UUID

from dragoman import ids
from dragoman.engine.engine import FollowedRun
from dragoman.engine.ports import (
    ContinueDraft,
    JsonObject,
    Meter,
    Outcome,
    RunDraft,
    RunOrder,
)
from dragoman.errors import AgentNotFound
from dragoman.records import (
    CallStatus,
    Cost,
    Limits,
    Message,
    ModelCall,
    Owner,
    RequestKey,
    Run,
    Session,
    TokenUsage,
    money,
    utcnow,
)
from dragoman.v1 import agent_service_pb2, event_pb2

OWNER = Owner("local")
ENDS = frozenset({"run_completed", "run_failed", "run_cancelled"})
PATIENCE = 40.0
"""Seconds after which a test that waits for something gives up."""


async def until(condition: Callable[[], bool | Awaitable[bool]]) -> None:
    """Waits for a condition, on the store or in memory."""
    async with asyncio.timeout(PATIENCE):
        while True:
            holds = condition()
            if holds if isinstance(holds, bool) else await holds:
                return
            await asyncio.sleep(0.005)


# What agents do


def text(words: str, member: str = "") -> event_pb2.RunEvent:
    event = event_pb2.RunEvent(content_delta=event_pb2.ContentDelta(text=words))
    if member:
        event.member.run_id = member
    return event


def thought(words: str) -> event_pb2.RunEvent:
    return event_pb2.RunEvent(reasoning_delta=event_pb2.ReasoningDelta(text=words))


def tool(call_id: str) -> event_pb2.RunEvent:
    event = event_pb2.RunEvent()
    event.tool_call_started.tool_call.id = call_id
    return event


def complete(outcome: Outcome) -> None:
    outcome.status = "completed"


def pause(then: str) -> Callable[[Outcome], None]:
    """The end of a segment: the run waits, and plays the script `then` when it is continued."""

    def finish(outcome: Outcome) -> None:
        outcome.status = "paused"
        outcome.requirements = [event_pb2.Requirement(id="r1", confirmation=event_pb2.ConfirmationNeed())]
        outcome.continuation = then.encode()

    return finish


@dataclass(frozen=True)
class Spend:
    """A request to the model. It is asked for first, unless `unasked`; `reports` are tokens known before it ends."""

    tokens: int = 10
    reports: tuple[int, ...] = ()
    hangs: bool = False
    """It never ends."""
    unasked: bool = False
    waits: Callable[[], Awaitable[object]] | None = None
    """What comes between the request and all that is known of it."""


@dataclass(frozen=True)
class Remember:
    """A message that the run will leave."""


Step: TypeAlias = object
"""An event, an exception to raise, something to await (called without arguments), Spend or Remember."""


class Script:
    """What one segment of a run does."""

    def __init__(self, *steps: Step, finish: Callable[[Outcome], None] = complete) -> None:
        self.steps = steps
        self.finish = finish


class ScriptedRun:
    """Plays a script."""

    def __init__(self, script: Script, order: RunOrder, meter: Meter, pricer: "UnitPricer") -> None:
        self.order = order
        self._script = script
        self._meter = meter
        self._pricer = pricer
        before = order.continuation.content if order.continuation is not None else ""
        self._outcome = Outcome(content=before)
        self.refused = False
        self.stopped = False
        self.closed = False

    async def events(self) -> AsyncGenerator[event_pb2.RunEvent, None]:
        try:
            for step in self._script.steps:
                if isinstance(step, event_pb2.RunEvent):
                    copy = event_pb2.RunEvent()
                    copy.CopyFrom(step)
                    if not copy.HasField("member"):
                        self._outcome.content += copy.content_delta.text
                    yield copy
                elif isinstance(step, BaseException):
                    raise step
                elif isinstance(step, Spend):
                    await self._spend(step)
                elif isinstance(step, Remember):
                    self._outcome.messages.append(message(self.order.run_id))
                else:
                    await cast("Callable[[], Awaitable[object]]", step)()
            self._script.finish(self._outcome)
        finally:
            self.closed = True

    async def _spend(self, spend: Spend) -> None:
        if not spend.unasked and not self._meter.may_call():
            self.refused = True
            await asyncio.Event().wait()
        made = call(self.order.run_id)
        self._outcome.calls.append(made)
        if spend.waits is not None:
            await spend.waits()
        for tokens in spend.reports:
            await self._report(made, tokens, CallStatus.INTERRUPTED, under_way=True)
        if spend.hangs:
            await asyncio.Event().wait()
        await self._report(made, spend.tokens, CallStatus.COMPLETED, under_way=False)

    async def _report(self, made: ModelCall, tokens: int, status: CallStatus, *, under_way: bool) -> None:
        usage = TokenUsage(output_tokens=tokens)
        cost = self._pricer.price(made.provider, made.model, usage, utcnow())
        now = replace(made, usage=usage, cost=cost, status=status)
        at = next(place for place, one in enumerate(self._outcome.calls) if one.id == made.id)
        self._outcome.calls[at] = now
        self._meter.note(now, under_way=under_way)
        await asyncio.sleep(0)

    async def stop(self) -> None:
        self.stopped = True

    def outcome(self) -> Outcome:
        return self._outcome


class ScriptedRunner:
    """A runner whose runs play the script that is called like their message (or continuation), else the one given."""

    def __init__(self, *steps: Step, finish: Callable[[Outcome], None] = complete, **named: Script) -> None:
        self.script = Script(*steps, finish=finish)
        self.named = named
        self.pricer = UnitPricer()
        self.begun: list[ScriptedRun] = []
        self.refuses: Exception | None = None

    def begin(self, order: RunOrder, meter: Meter) -> Any:
        if self.refuses is not None:
            raise self.refuses
        going_on = order.continuation
        name = order.message if going_on is None else going_on.state.decode()
        run = ScriptedRun(self.named.get(name, self.script), order, meter, self.pricer)
        self.begun.append(run)
        return run

    def of(self, run_id: UUID) -> list[ScriptedRun]:
        """The segments of a run that were begun here."""
        return [run for run in self.begun if run.order.run_id == run_id]

    async def close(self) -> None:
        return None


class OneAgent:
    """A catalog with one agent."""

    def __init__(self) -> None:
        self.own_limits = Limits()

    def agents(self) -> Sequence[agent_service_pb2.Agent]:
        return [self.agent("echo")]

    def agent(self, name: str) -> agent_service_pb2.Agent:
        if name != "echo":
            raise AgentNotFound(name)
        return agent_service_pb2.Agent(name="echo", model="m-1", provider="p")

    def limits(self, name: str) -> Limits:
        return self.own_limits

    async def accept_session(self, name: str, inputs: JsonObject, owner: Owner) -> JsonObject:
        return inputs

    async def accept_run(self, draft: RunDraft) -> JsonObject:
        return dict(draft.inputs)


class UnitPricer:
    """A token costs `unit`; None: nobody knows."""

    currency = "ZAR"

    def __init__(self, unit: Decimal | None = None) -> None:
        self.unit = unit

    def price(self, provider: str, model: str, usage: TokenUsage, at: datetime) -> Cost | None:
        if self.unit is None:
            return None
        amount = money(self.unit * usage.total_tokens)
        rate = Decimal(1)
        return Cost(amount, amount, self.currency, "test 1", rate, at.date(), {"output_tokens": self.unit})


def draft(session: Session | None = None, message: str = "hello", **more: Any) -> RunDraft:
    return RunDraft(owner=OWNER, agent_name="echo", session=session, message=message, **more)


def going_on(run: Run | FollowedRun, after: int, **more: Any) -> ContinueDraft:
    run_id = run.id if isinstance(run, Run) else run.run_id
    return ContinueDraft(owner=OWNER, run_id=run_id, after_sequence=after, resolutions=(), **more)


def request(name: str, body: bytes = b"a") -> RequestKey:
    return RequestKey(name, body.ljust(32, b"."))


def message(run_id: UUID) -> Message:
    return Message(
        id=ids.new_id(),
        run_id=run_id,
        parent_run_id=None,
        agent_name="echo",
        role="assistant",
        provider="p",
        model="m-1",
        parts=b"{}",
        create_time=datetime.now(UTC),
    )


def call(run_id: UUID) -> ModelCall:
    """A call that has just been made: nothing is known of its tokens."""
    return ModelCall(
        id=ids.new_id(),
        run_id=run_id,
        parent_run_id=None,
        agent_name="echo",
        kind="model",
        provider="p",
        model="m-1",
        usage=TokenUsage(),
        cost=None,
        status=CallStatus.INTERRUPTED,
        stop_reason="",
        start_time=datetime.now(UTC),
        duration=timedelta(seconds=1),
    )


# What followers see


async def watch(live: FollowedRun, after: int = 0) -> list[event_pb2.RunEvent]:
    """The events after the sequence, to the last."""
    async with asyncio.timeout(PATIENCE):
        return [event async for event in live.events(after)]


def kinds(events: Sequence[event_pb2.RunEvent]) -> list[str]:
    return [event.WhichOneof("event") or "" for event in events]


def written(events: Sequence[event_pb2.RunEvent]) -> str:
    return "".join(event.content_delta.text for event in events)


def numbers(events: Sequence[event_pb2.RunEvent]) -> list[int]:
    return [event.sequence for event in events]


def assert_whole(events: Sequence[event_pb2.RunEvent], *, first: str = "run_started") -> None:
    """Contiguous from 1, begun as it should, one end or pause, and that one last."""
    assert numbers(events) == list(range(1, len(events) + 1))
    assert kinds(events)[0] == first
    assert [kind for kind in kinds(events) if kind in ENDS | {"run_paused"}] == [kinds(events)[-1]]
    assert all(event.create_time.seconds > 0 for event in events)
