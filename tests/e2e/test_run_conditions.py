"""What a caller asks of a run besides its answer: how much it may spend, and what becomes of it when he leaves."""

import asyncio
import time
from typing import Any

import grpc
import pytest
from agno.agent import Agent
from support.e2e import claude, kinds, stubs

from dragoman.agents import BaseAgent, Limits
from dragoman.testing.anthropic import FakeAnthropic, Outcome, Text, ToolUse, Turn, Usage
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, run_service_pb2

USAGE = Usage(input_tokens=100, output_tokens=60, cache_read_input_tokens=10)
CALL = 170
"""Tokens of one call."""


async def look(what: str) -> str:
    """Looks at something."""
    return f"saw {what}"


class Spender(BaseAgent):
    """Calls its model again and again."""

    name = "spender"
    description = "Spends."

    def __init__(self, fake: FakeAnthropic, limits: Limits | None = None) -> None:
        self.model = claude(fake)
        self.limits = limits

    def build_agent(self) -> Agent:
        return Agent(model=self.model, tools=[look])


def again(number: int) -> Turn:
    return Turn([Text(f"Step {number}. "), ToolUse(f"t{number}", "look", {"what": "it"})], usage=USAGE)


TURNS = [again(1), again(2), again(3), Turn("Done.", usage=USAGE)]

LIMITS: list[tuple[str, int | None, int | None, int | None, int, str]] = [
    # name, the caller's, the agent's, the server's limit of tokens, calls made, how it ends
    ("none", None, None, None, 4, "run_completed"),
    ("far away", 10_000, None, None, 4, "run_completed"),
    ("reached by the last call", 4 * CALL, None, None, 4, "run_completed"),
    ("reached by the second call", 2 * CALL, None, None, 2, "run_cancelled"),
    ("passed inside the third call", 2 * CALL + 1, None, None, 3, "run_cancelled"),
    ("passed inside the first call", 50, None, None, 1, "run_cancelled"),
    ("of the agent", None, 2 * CALL, None, 2, "run_cancelled"),
    ("of the server", None, None, 2 * CALL, 2, "run_cancelled"),
    ("the lowest holds", 3 * CALL, CALL, 2 * CALL, 1, "run_cancelled"),
]


@pytest.mark.parametrize(
    ("caller", "agent", "server", "calls", "end"), [case[1:] for case in LIMITS], ids=[c[0] for c in LIMITS]
)
async def test_a_limit_of_tokens_is_never_passed_by_more_than_one_call(
    caller: int | None, agent: int | None, server: int | None, calls: int, end: str
) -> None:
    settings: dict[str, Any] = {} if server is None else {"max_run_tokens": server}
    async with FakeAnthropic() as fake:
        fake.script(*TURNS)
        limited = Spender(fake, None if agent is None else Limits(max_total_tokens=agent))
        async with serving(limited, **settings) as served, stubs(served.address) as client:
            request = run_service_pb2.RunRequest(agent_name="spender", message="Go.")
            if caller is not None:
                request.limits.max_total_tokens = caller
            events = [event async for event in client.runs.Run(request)]
            assert kinds(events)[-1] == end
            assert len(fake.requests) == calls
            last = getattr(events[-1], end)
            billed = fake.billed
            assert last.usage.input_tokens == billed.input_tokens
            assert last.usage.output_tokens == billed.output_tokens
            if end == "run_cancelled":
                assert last.reason == event_pb2.CANCEL_REASON_MAX_TOKENS
                assert last.model_calls == calls
            fake.respond = lambda _: Turn("Gladly.", usage=Usage(input_tokens=1, output_tokens=1))
            following = await client.run("spender", "Go on.", session_id=events[0].run_started.session_id)
            assert kinds(following)[-1] in (
                "run_completed",
                "run_cancelled",
            )  # limited, it may be, but not refused


async def test_a_limit_of_cost_ends_the_run_with_what_it_has() -> None:
    async with FakeAnthropic() as fake:
        fake.script(*TURNS)
        async with serving(Spender(fake)) as served, stubs(served.address) as client:
            request = run_service_pb2.RunRequest(agent_name="spender", message="Go.")
            request.limits.max_cost.currency_code = "ZAR"
            request.limits.max_cost.nanos = 1
            events = [event async for event in client.runs.Run(request)]
            ended = events[-1].run_cancelled
            assert ended.reason == event_pb2.CANCEL_REASON_MAX_COST
            assert len(fake.requests) == ended.model_calls == 1
            assert float(ended.cost.exact_amount) > 0


async def test_a_limit_of_time_ends_a_run_that_hangs() -> None:
    async with FakeAnthropic() as fake:
        fake.script(Turn("one two", hang_after=1, usage=USAGE))
        async with serving(Spender(fake)) as served, stubs(served.address) as client:
            request = run_service_pb2.RunRequest(agent_name="spender", message="Go.")
            request.limits.max_duration.FromMilliseconds(300)
            events = [event async for event in client.runs.Run(request)]
            ended = events[-1].run_cancelled
            assert ended.reason == event_pb2.CANCEL_REASON_MAX_DURATION
            assert ended.content
            assert ended.usage.input_tokens == fake.billed.input_tokens


async def exhaust(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass


@pytest.mark.parametrize("how", ["cancel", "deadline"])
async def test_a_run_goes_with_its_caller(how: str) -> None:
    """The model's request is closed well within 200 ms, unless the machine is very busy: hence the best of five."""
    took: list[float] = []
    async with FakeAnthropic() as fake, serving(Spender(fake)) as served, stubs(served.address) as client:
        for number in range(5):
            fake.script(Turn("one two", hang_after=1, usage=USAGE))
            request = run_service_pb2.RunRequest(
                agent_name="spender",
                message="Go.",
                disconnect_policy=run_service_pb2.DISCONNECT_POLICY_CANCEL,
            )
            call = client.runs.Run(request, timeout=3.0 if how == "deadline" else 60.0)
            first = await call.read()
            assert isinstance(first, event_pb2.RunEvent)
            provider = await fake.request(number + 1)
            await provider.hanging.wait()
            if how == "cancel":
                since = time.monotonic()
                call.cancel()
            else:
                try:
                    await exhaust(call)
                except grpc.aio.AioRpcError as late:
                    assert late.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # noqa: PT017 - or the server was first
                since = time.monotonic()
            async with asyncio.timeout(60):
                await provider.ended.wait()
            assert provider.outcome is Outcome.LEFT
            assert provider.end_time is not None
            took.append(provider.end_time - since)
            get = run_service_pb2.GetRunRequest(run_id=first.run_started.run_id)
            async with asyncio.timeout(60):
                while (run := (await client.runs.GetRun(get)).run).status == (
                    run_service_pb2.RUN_STATUS_RUNNING
                ):
                    await asyncio.sleep(0.02)
            expected = {
                "cancel": event_pb2.CANCEL_REASON_CALLER,
                "deadline": event_pb2.CANCEL_REASON_DEADLINE,
            }
            assert run.cancelled.reason == expected[how]
    assert min(took) < 0.2, took


async def test_a_run_stays_when_its_caller_leaves_unless_he_said_otherwise() -> None:
    async with FakeAnthropic() as fake:
        fake.script(Turn("one two three", delay=0.2, usage=USAGE))
        async with serving(Spender(fake)) as served, stubs(served.address) as client:
            call = client.runs.Run(run_service_pb2.RunRequest(agent_name="spender", message="Go."))
            first = await call.read()
            assert isinstance(first, event_pb2.RunEvent)
            call.cancel()
            attach = run_service_pb2.AttachRunRequest(run_id=first.run_started.run_id)
            events = [event async for event in client.runs.AttachRun(attach)]
            assert events[-1].run_completed.content == "one two three"
            assert events[0].sequence == 1
