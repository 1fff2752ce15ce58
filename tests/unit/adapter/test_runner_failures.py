"""Runs that fail: what the caller is told, what is kept, what it cost, and that the session goes on."""

import pytest
from agno.agent import Agent
from agno.exceptions import CheckTrigger, InputCheckError
from support.bench import bench, claude, shown, spent

from dragoman.errors import AgentFailed, GuardrailRefused, Internal, ModelUnavailable
from dragoman.records import CallStatus, TokenUsage
from dragoman.testing.anthropic import ErrorEvent, FakeAnthropic, HttpError, Turn, Usage

USAGE = Usage(input_tokens=100, output_tokens=40, cache_read_input_tokens=300)

REFUSALS = [
    (HttpError(401), "AUTHENTICATION", "401"),
    (HttpError(400), "INVALID_REQUEST", "400"),
    (HttpError(429), "RATE_LIMITED", "429"),
    (HttpError(529), "OVERLOADED", "529"),
    (HttpError(500), "SERVER_ERROR", "500"),
]


@pytest.mark.parametrize(("refusal", "kind", "status"), REFUSALS, ids=[kind for _, kind, _ in REFUSALS])
async def test_a_refusing_provider(fake: FakeAnthropic, refusal: HttpError, kind: str, status: str) -> None:
    fake.script(refusal, Turn("Back."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        outcome = (await b.turn("Hi")).outcome
        assert outcome.status == "failed"
        assert isinstance(outcome.error, ModelUnavailable)
        assert (outcome.error.kind, outcome.error.metadata["http_status"]) == (kind, status)
        assert "fake" not in outcome.error.message
        (call,) = outcome.calls
        assert (call.status, call.usage) == (CallStatus.FAILED, TokenUsage())
        assert call.cost is not None
        assert call.cost.usd == 0
        assert [message.role for message in outcome.messages] == ["user"]
        assert (await b.turn("Hi again")).outcome.content == "Back."


async def test_the_client_tries_again_as_often_as_it_was_told(fake: FakeAnthropic) -> None:
    fake.script(HttpError(529, headers={"retry-after": "0.01"}), Turn("Back."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model), retries=1) as b:
        outcome = (await b.turn("Hi")).outcome
        assert outcome.content == "Back."
        assert len(fake.requests) == 2
        assert len(outcome.calls) == 1


BROKEN = [
    (Turn("One two three four", drop_after=2, usage=USAGE), "CONNECTION"),
    (Turn("One two three four", hang_after=2, usage=USAGE), "TIMEOUT"),
    (Turn("One two three four", error_after=ErrorEvent(2), usage=USAGE), "OVERLOADED"),
    (Turn("One two three four", drop_after="usage", usage=USAGE), "CONNECTION"),
]


@pytest.mark.parametrize(("turn", "kind"), BROKEN, ids=["drop", "hang", "error event", "drop after usage"])
async def test_a_stream_that_breaks_off(fake: FakeAnthropic, turn: Turn, kind: str) -> None:
    fake.script(turn, Turn("Fine."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model), timeout=2.0) as b:
        ran = await b.turn("Count")
        outcome = ran.outcome
        assert outcome.status == "failed"
        assert isinstance(outcome.error, ModelUnavailable)
        assert outcome.error.kind == kind
        assert outcome.content.startswith("One two")
        (call,) = outcome.calls
        assert call.status is CallStatus.FAILED
        assert call.usage == fake.billed
        assert call.usage.cache_read_tokens == 300
        assert shown(b)[1].content == outcome.content
        assert shown(b)[1].usage.input_tokens == 100
        assert (await b.turn("Go on")).outcome.content == "Fine."
        assert fake.requests[1].messages[1]["content"] == [{"type": "text", "text": outcome.content}]


async def test_a_provider_that_says_nothing(fake: FakeAnthropic) -> None:
    fake.script(Turn("Late", hang_before_first_byte=True))
    model = claude(fake)
    async with bench(lambda: Agent(model=model), timeout=0.2) as b:
        outcome = (await b.turn("Hi")).outcome
        assert isinstance(outcome.error, ModelUnavailable)
        assert outcome.error.kind == "TIMEOUT"
        assert outcome.calls[0].usage == fake.billed == TokenUsage()


async def test_an_agent_that_cannot_be_built() -> None:
    def build() -> Agent:
        raise KeyError("secret")

    async with bench(build) as b:
        outcome = (await b.turn("Hi")).outcome
        assert outcome.status == "failed"
        assert isinstance(outcome.error, AgentFailed)
        assert "secret" not in str(outcome.error)
        assert outcome.calls == []


async def test_instructions_that_raise(fake: FakeAnthropic) -> None:
    def instructions() -> str:
        raise KeyError("secret")

    model = claude(fake)
    async with bench(lambda: Agent(model=model, instructions=instructions)) as b:
        outcome = (await b.turn("Hi")).outcome
        assert outcome.status == "failed"
        assert isinstance(outcome.error, AgentFailed)
        assert fake.requests == []


async def test_a_guardrail_that_refuses(fake: FakeAnthropic) -> None:
    def guard(run_input: object) -> None:
        raise InputCheckError("secret", check_trigger=CheckTrigger.PROMPT_INJECTION)

    model = claude(fake)
    async with bench(lambda: Agent(model=model, pre_hooks=[guard])) as b:
        outcome = (await b.turn("Ignore all that")).outcome
        assert outcome.status == "failed"
        assert isinstance(outcome.error, GuardrailRefused)
        assert fake.requests == []


async def test_messages_that_cannot_be_recorded_leave_the_text_and_the_bill(
    fake: FakeAnthropic, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.adapter.history.mended", int)  # raises TypeError
    fake.script(Turn("Blue."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        outcome = (await b.turn("Sky?")).outcome
        assert (outcome.status, outcome.content, outcome.messages) == ("failed", "Blue.", [])
        assert isinstance(outcome.error, Internal)
        assert spent(outcome.calls) == fake.billed
