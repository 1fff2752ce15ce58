"""How many requests a call took, and that its times and its bill are those of the whole call."""

from datetime import timedelta

import pytest
from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.team import Team
from anthropic import AsyncAnthropic
from support.bench import HAIKU, bench, claude, spent

from dragoman.records import CallStatus, TokenUsage
from dragoman.testing.anthropic import FakeAnthropic, HttpError, ToolUse, Turn, Usage
from dragoman.v1 import event_pb2

SOON = {"retry-after-ms": "40"}
BACKOFF = timedelta(milliseconds=39)  # two clocks may differ a little

REFUSED = HttpError(429, headers=SOON)
OVERLOADED = HttpError(529, headers=SOON)
UNREACHED = Turn(drop_before_first_byte=True)
HELLO = Turn("Hello", usage=Usage(input_tokens=11, output_tokens=7, cache_read_input_tokens=5))

ANSWERED: list[tuple[str, list[Turn | HttpError], int]] = [
    ("at once", [], 1),
    ("after a refusal", [REFUSED], 2),
    ("when it was overloaded", [OVERLOADED], 2),
    ("after a dropped connection", [UNREACHED], 2),
    ("after all of these", [REFUSED, UNREACHED, OVERLOADED], 4),
]


@pytest.mark.parametrize(
    ("before", "attempts"), [case[1:] for case in ANSWERED], ids=[case[0] for case in ANSWERED]
)
@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
async def test_an_answer_after_some_attempts(
    fake: FakeAnthropic, before: list[Turn | HttpError], attempts: int, streamed: bool
) -> None:
    fake.script(*before, HELLO)
    model = claude(fake)
    schema = None if streamed else {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    async with bench(lambda: Agent(model=model, output_schema=schema), retries=4) as b:
        ran = await b.turn("Hi")
        (call,) = ran.outcome.calls
        assert [request.stream for request in fake.requests] == [streamed] * attempts
        assert (call.attempt, call.status, call.stop_reason) == (attempts, CallStatus.COMPLETED, "end_turn")
        assert call.usage == fake.billed == TokenUsage(11, 7, 5)
        (event,) = ran.of("model_request_completed")
        assert isinstance(event, event_pb2.ModelRequestCompleted)
        assert (event.attempt, event.stop_reason) == (attempts, "end_turn")
        assert event.duration.ToTimedelta() == call.duration
        waited = BACKOFF if any(isinstance(turn, HttpError) for turn in before) else timedelta()
        assert call.time_to_first_token is not None
        assert waited < call.time_to_first_token <= call.duration
        assert event.time_to_first_token.ToTimedelta() == call.time_to_first_token


async def test_a_call_that_is_refused_to_the_end(fake: FakeAnthropic) -> None:
    fake.script(REFUSED, OVERLOADED, REFUSED)
    model = claude(fake)
    async with bench(lambda: Agent(model=model), retries=2) as b:
        ran = await b.turn("Hi")
        (call,) = ran.outcome.calls
        assert (ran.outcome.status, len(fake.requests), fake.pending) == ("failed", 3, 0)
        assert (call.attempt, call.status, call.usage) == (3, CallStatus.FAILED, TokenUsage())
        assert (call.time_to_first_token, call.stop_reason) == (None, "")
        assert call.duration > 2 * BACKOFF


async def test_each_call_counts_its_own(fake: FakeAnthropic) -> None:
    """A leader and its member share a client; what one call is refused is not counted on another."""
    delegation = ToolUse("d1", "delegate_task_to_member", {"task": "go", "member_id": "one"})
    fake.script(REFUSED, Turn([delegation]), OVERLOADED, UNREACHED, Turn("done"), Turn("Together"))
    model = claude(fake)

    def build() -> Team:
        return Team(name="Team", model=model, members=[Agent(name="one", id="one", model=model)])

    async with bench(build, retries=3) as b:
        outcome = (await b.turn("Hi")).outcome
        assert outcome.status == "completed", outcome.error
        assert [(call.agent_name, call.attempt) for call in outcome.calls] == [
            ("agent", 2),
            ("one", 3),
            ("agent", 1),
        ]
        assert spent(outcome.calls) == fake.billed


async def test_a_client_that_the_author_made(fake: FakeAnthropic) -> None:
    fake.script(REFUSED, HELLO)
    async with AsyncAnthropic(api_key="own", base_url=fake.url, max_retries=1) as own:
        model = Claude(id=HAIKU, async_client=own)
        async with bench(lambda: Agent(model=model)) as b:
            (call,) = (await b.turn("Hi")).outcome.calls
            assert call.attempt == 2
            assert fake.requests[1].headers["authorization"] == "Bearer own"
        assert not own.is_closed()


async def test_a_client_in_a_thread(fake: FakeAnthropic) -> None:
    """What a tool asks of the agent's model without waiting for the loop."""
    fake.script(Turn([ToolUse("t1", "ask", {})]), REFUSED, HELLO, Turn("Done"))
    model = claude(fake)

    def ask() -> str:
        """Asks an expert."""
        return str(Agent(name="Expert", model=model, telemetry=False).run("?").content)

    async with bench(lambda: Agent(model=model, tools=[ask])) as b:
        outcome = (await b.turn("Hi")).outcome
        assert [(call.agent_name, call.attempt) for call in outcome.calls] == [
            ("agent", 1),
            ("Expert", 2),
            ("agent", 1),
        ], outcome.error
        assert spent(outcome.calls) == fake.billed
    assert model.client is not None
    model.client.close()
