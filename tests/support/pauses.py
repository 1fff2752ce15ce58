"""Answers to what a paused run waits for, and the way on, as the engine goes it."""

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from agno.tools import tool
from google.protobuf import struct_pb2
from support.bench import OWNER, Bench, Ran

from dragoman.engine.ports import Continuation, RunOrder
from dragoman.v1 import event_pb2
from dragoman.v1 import run_service_pb2 as pb

Resolve = Callable[[event_pb2.Requirement], pb.Resolution]


def yes(wanted: event_pb2.Requirement) -> pb.Resolution:
    """It may be done."""
    return pb.Resolution(requirement_id=wanted.id, confirmation=pb.Confirmation(confirmed=True))


def no(note: str) -> Resolve:
    """It may not be done."""
    return lambda wanted: pb.Resolution(
        requirement_id=wanted.id, confirmation=pb.Confirmation(confirmed=False, note=note)
    )


def result(text: str) -> Resolve:
    """The caller has done it."""
    return lambda wanted: pb.Resolution(
        requirement_id=wanted.id, external_execution=pb.ExternalExecution(result=text)
    )


def values(**given: Any) -> Resolve:
    """The user's values."""

    def resolve(wanted: event_pb2.Requirement) -> pb.Resolution:
        user_input = pb.UserInput(values=struct_pb2.Struct())
        user_input.values.update(given)
        return pb.Resolution(requirement_id=wanted.id, user_input=user_input)

    return resolve


def continued(b: Bench, paused: Ran, *resolves: Resolve) -> Ran:
    """The rest of the run, not yet begun: nothing of the first order but ids, session and labels is there."""
    outcome = paused.outcome
    resolutions = tuple(answer(wanted) for answer, wanted in zip(resolves, outcome.requirements, strict=True))
    after = Continuation(outcome.continuation, resolutions, outcome.content)
    order = RunOrder(paused.run_id, OWNER, b.session, "agent", "", (), {}, {}, after)
    return Ran(b.runner.begin(order, b.meter))


async def resumed(b: Bench, paused: Ran, *resolves: Resolve) -> Ran:
    """The rest of the run, up to its end or its next pause, its messages kept."""
    ran = continued(b, paused, *resolves)
    async with aclosing(ran.run.events()) as events:
        async for event in events:
            ran.events.append(event)
    b.keep(ran.outcome)
    return ran


def pay_tool(paid: list[tuple[str, int]], **settings: Any) -> Any:
    """A tool that pays, and remembers it."""

    @tool(**settings)  # type: ignore[untyped-decorator]  # Agno's
    def pay(to: str, amount: int) -> str:
        """Pays somebody."""
        paid.append((to, amount))
        return f"paid {amount} to {to}"

    return pay
