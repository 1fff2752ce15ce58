"""Runs of agents with Agno's Claude against the fake Messages API: what callers see, what is kept, what it cost."""

import io
import json
from typing import Any

import pytest
from agno.agent import Agent
from agno.exceptions import StopAgentRun
from agno.models.message import Message
from agno.team import Team
from agno.tools import tool
from PIL import Image as Picture
from pydantic import BaseModel
from support.bench import bench, claude, shown, spent

from dragoman.engine.ports import InputMedia, MediaKind
from dragoman.errors import Internal
from dragoman.records import CallStatus
from dragoman.testing.anthropic import (
    Block,
    FakeAnthropic,
    RedactedThinking,
    Text,
    Thinking,
    ToolUse,
    Turn,
    Usage,
)
from dragoman.testing.scripted import ScriptedModel, ToolCall
from dragoman.v1 import event_pb2, message_pb2

FULL = Usage(
    input_tokens=100,
    output_tokens=40,
    cache_read_input_tokens=300,
    cache_creation_5m_tokens=20,
    cache_creation_1h_tokens=50,
    thinking_tokens=7,
)


def png(width: int = 8, height: int = 8, *, noise: bool = False) -> bytes:
    """A real picture; with noise, one that is kept apart from its message."""
    picture = (
        Picture.effect_noise((width, height), 100) if noise else Picture.new("RGB", (width, height), "red")
    )
    data = io.BytesIO()
    picture.save(data, "PNG")
    return data.getvalue()


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def broken(reason: str) -> str:
    """Fails."""
    raise RuntimeError(f"secret {reason}")


class Weather(BaseModel):
    city: str
    degrees: int


async def test_plain_text(fake: FakeAnthropic) -> None:
    fake.script(Turn("Hello there my friend", usage=FULL))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, name="Greeter")) as b:
        ran = await b.turn("Hi $$ {user_id}")
        outcome = ran.outcome
        assert ran.kinds == [
            "model_request_started",
            *["content_delta"] * 4,
            "model_request_completed",
            "content_completed",
        ]
        assert (outcome.status, outcome.content) == ("completed", "Hello there my friend")
        assert outcome.finish_reason == event_pb2.FINISH_REASON_STOP
        assert fake.requests[0].messages[0]["content"] == [{"type": "text", "text": "Hi $$ {user_id}"}]
        (call,) = outcome.calls
        assert call.usage == fake.billed
        assert call.usage.cache_write_1h_tokens == 50
        assert call.usage.reasoning_tokens == 7
        assert (call.status, call.stop_reason, call.kind, call.agent_name) == (
            CallStatus.COMPLETED,
            "end_turn",
            "model",
            "agent",
        )
        assert call.cost is not None
        assert call.cost.usd > 0
        (done,) = ran.of("model_request_completed")
        assert isinstance(done, event_pb2.ModelRequestCompleted)
        assert done.usage.total_tokens == fake.billed.total_tokens
        assert done.cost.exact_usd == str(call.cost.usd)
        assert done.HasField("time_to_first_token")
        user, answer = shown(b)
        assert (user.role, user.content) == (message_pb2.MESSAGE_ROLE_USER, "Hi $$ {user_id}")
        assert (answer.content, answer.model, answer.provider) == (outcome.content, model.id, "Anthropic")
        assert answer.usage.output_tokens == 40
        assert answer.cost.exact_usd == str(call.cost.usd)


@pytest.mark.parametrize("team", [False, True])
async def test_instructions_are_templates_and_what_callers_say_is_not(
    fake: FakeAnthropic, team: bool
) -> None:
    fake.respond = lambda _: Turn("Fine.")
    model = claude(fake)
    said = "$$ $mood ${mood} {mood} {user_id} {{mood}} $"
    settings: dict[str, Any] = {
        "model": model,
        "instructions": "Be {mood}.",
        "session_state": {"mood": "merry"},
    }

    def build() -> Agent | Team:
        return Team(members=[Agent(name="Member", model=model)], **settings) if team else Agent(**settings)

    async with bench(build) as b:
        await b.turn(said, [InputMedia(MediaKind.IMAGE, "image/png", "", png())])
        await b.turn("And?")
        assert "Be merry." in fake.requests[0].system
        for request in fake.requests:
            assert request.messages[0]["content"][0] == {"type": "text", "text": said}
        assert shown(b)[0].content == said


async def test_thinking_is_told_and_ciphertext_is_not(fake: FakeAnthropic) -> None:
    fake.script(
        Turn([Thinking("Let me see", signature="c2ln"), RedactedThinking("CIPHER"), Text("Yes.")]),
        Turn("No."),
    )
    model = claude(fake, thinking={"type": "enabled", "budget_tokens": 1024})
    async with bench(lambda: Agent(model=model)) as b:
        ran = await b.turn("Well?")
        told = "".join(event.reasoning_delta.text for event in ran.events)
        assert told == "Let me see"
        assert ran.outcome.content == "Yes."
        assert shown(b)[1].reasoning == "Let me see"
        await b.turn("And?")
        assert fake.requests[1].messages[1]["content"] == [
            {"type": "thinking", "thinking": "Let me see", "signature": "c2ln"},
            {"type": "redacted_thinking", "data": "CIPHER"},
            {"type": "text", "text": "Yes."},
        ]


async def test_parallel_failing_and_unknown_tools(fake: FakeAnthropic) -> None:
    fake.script(
        Turn(
            [
                Text("Let me calculate."),
                ToolUse("t1", "add", {"a": 1, "b": 2}),
                ToolUse("t2", "broken", {"reason": "x"}),
                ToolUse("t3", "nowhere", {}),
            ],
            usage=FULL,
        ),
        Turn("It is 3."),
    )
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[add, broken])) as b:
        ran = await b.turn("1 + 2?")
        outcome = ran.outcome
        assert outcome.content == "Let me calculate.It is 3."
        assert spent(outcome.calls) == fake.billed
        assert [call.stop_reason for call in outcome.calls] == ["tool_use", "end_turn"]
        messages = {message.tool_call_id: message for message in shown(b) if message.tool_call_id}
        assert messages["t1"].content == "3"
        assert messages["t2"].tool_failed
        assert messages["t2"].content == "the tool call failed"
        assert set(messages) == {"t1", "t2", "t3"}
        asked = shown(b)[1].tool_calls
        assert [(call.id, call.name) for call in asked] == [
            ("t1", "add"),
            ("t2", "broken"),
            ("t3", "nowhere"),
        ]
        assert dict(asked[0].arguments) == {"a": 1, "b": 2}
        assert [message.role for message in b.messages].count("tool") == 3


async def test_structured_output(fake: FakeAnthropic) -> None:
    fake.script(Turn(json.dumps({"city": "Oslo", "degrees": 7}), usage=FULL), Turn("fine"))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, output_schema=Weather)) as b:
        ran = await b.turn("Weather?")
        assert ran.outcome.structured == {"city": "Oslo", "degrees": 7}
        assert spent(ran.outcome.calls) == fake.billed
        assert not fake.requests[0].stream
        assert "structured_content" in ran.kinds
        broken_answer = await b.turn("And now?")
        assert broken_answer.outcome.structured is None
        assert broken_answer.outcome.status == "completed"


async def test_pictures_small_and_large_reach_the_model_now_and_later(fake: FakeAnthropic) -> None:
    small, large = png(), png(300, 300, noise=True)
    fake.script(Turn("A square."), Turn("Still."))
    model = claude(fake)
    media = [
        InputMedia(MediaKind.IMAGE, "image/png", name, data) for name, data in (("s", small), ("l", large))
    ]
    async with bench(lambda: Agent(model=model)) as b:
        ran = await b.turn("What is it?", media)
        assert fake.requests[0].images() == [small, large]
        assert [medium.data for medium in ran.outcome.media] == [small, large]
        assert b.messages[0].media == tuple(medium.sha256 for medium in ran.outcome.media)
        assert len(b.messages[0].parts) < 16_000
        first, second = shown(b)[0].media
        assert (first.name, first.data, first.size_bytes) == ("s", small, len(small))
        assert (second.name, second.data, second.id) == ("l", b"", ran.outcome.media[1].id)
        await b.turn("Sure?")
        assert fake.requests[1].images() == [small, large]


@pytest.mark.parametrize(
    ("stop_reason", "expected"),
    [
        ("end_turn", event_pb2.FINISH_REASON_STOP),
        ("max_tokens", event_pb2.FINISH_REASON_MAX_TOKENS),
        ("refusal", event_pb2.FINISH_REASON_REFUSAL),
        ("stop_sequence", event_pb2.FINISH_REASON_STOP_SEQUENCE),
    ],
)
async def test_finish_reasons(
    fake: FakeAnthropic, stop_reason: str, expected: event_pb2.FinishReason.ValueType
) -> None:
    fake.script(Turn("So much", stop_reason=stop_reason))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        outcome = (await b.turn("Hi")).outcome
        assert outcome.finish_reason == expected
        assert outcome.calls[0].stop_reason == stop_reason


async def test_a_tool_that_stops_the_run(fake: FakeAnthropic) -> None:
    def halt() -> str:
        """Stops."""
        raise StopAgentRun("that is all")

    fake.script(Turn([ToolUse("t1", "halt", {})]), Turn("Again."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[halt])) as b:
        ran = await b.turn("Halt!")
        assert ran.outcome.status == "completed"
        assert ran.outcome.finish_reason == event_pb2.FINISH_REASON_TOOL
        assert (await b.turn("Go on")).outcome.status == "completed"


@pytest.mark.parametrize("text", ["", "Let me see"])
async def test_a_tool_call_cut_off_by_max_tokens_is_not_executed(fake: FakeAnthropic, text: str) -> None:
    called = []

    def transfer(amount: int = 0, to: str = "") -> str:
        """Moves money."""
        called.append((amount, to))
        return "done"

    blocks: list[Block] = [
        *([Text(text)] if text else []),
        ToolUse("t1", "transfer", '{"amount": 1000, "to": "Al'),
    ]
    fake.script(Turn(blocks, stop_reason="max_tokens"), Turn("Fine."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[transfer])) as b:
        ran = await b.turn("Send it")
        assert ran.outcome.status == "completed"
        assert ran.outcome.finish_reason == event_pb2.FINISH_REASON_MAX_TOKENS
        assert called == []
        assert (await b.turn("Go on")).outcome.status == "completed"
        assert called == []


async def test_thinking_cut_off_by_max_tokens_leaves_a_history_that_is_accepted(fake: FakeAnthropic) -> None:
    fake.script(Turn([Thinking("Hm, so", signature="")], stop_reason="max_tokens"), Turn("Fine."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        await b.turn("Think")
        assert (await b.turn("Go on")).outcome.content == "Fine."


async def test_a_paused_run_tells_what_it_waits_for_and_the_session_goes_on(fake: FakeAnthropic) -> None:
    @tool(requires_confirmation=True)
    def delete(name: str) -> str:
        """Deletes."""
        return f"deleted {name}"

    fake.script(
        Turn([Text("Shall I?"), ToolUse("t1", "delete", {"name": "all"})], usage=FULL), Turn("Never mind.")
    )
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[delete])) as b:
        outcome = (await b.turn("Delete all")).outcome
        assert outcome.status == "paused"
        (requirement,) = outcome.requirements
        assert requirement.HasField("confirmation")
        assert (requirement.tool_call.name, dict(requirement.tool_call.arguments)) == (
            "delete",
            {"name": "all"},
        )
        assert spent(outcome.calls) == fake.billed
        assert (await b.turn("No")).outcome.content == "Never mind."


async def test_only_so_many_runs_are_remembered(fake: FakeAnthropic) -> None:
    fake.respond = lambda _: Turn("Yes.")
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        for runs, expected in ((None, [1, 3]), (1, [3, 3]), (0, [1, 1])):
            b.messages, b.runs, before = [], runs, len(fake.requests)
            for _ in range(2 if runs is None else 3):
                await b.turn("Hi")
            assert [len(request.messages) for request in fake.requests[before:]][-2:] == expected


async def test_a_medium_that_is_gone_fails_the_run_instead_of_changing_its_history(
    fake: FakeAnthropic,
) -> None:
    fake.script(Turn("A square."))
    model = claude(fake)
    media = [InputMedia(MediaKind.IMAGE, "image/png", "", png(300, 300, noise=True))]
    async with bench(lambda: Agent(model=model)) as b:
        await b.turn("What is it?", media)
        b.media.clear()
        outcome = (await b.turn("Sure?")).outcome
        assert outcome.status == "failed"
        assert isinstance(outcome.error, Internal)
        assert len(fake.requests) == 1


async def test_what_cannot_be_stored_is_stored_in_sight() -> None:
    def odd() -> str:
        """Says something odd."""
        return "odd \ud800 text"

    model = ScriptedModel(turns=[[ToolCall("odd")], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[odd])) as b:
        assert (await b.turn("Hi")).outcome.status == "completed"
        assert [message.content for message in shown(b) if message.tool_name] == ["odd \ufffd text"]


async def test_the_authors_examples_are_sent_but_not_stored(fake: FakeAnthropic) -> None:
    fake.respond = lambda _: Turn("Blue.")
    model = claude(fake)
    examples: list[Any] = [{"role": "user", "content": "Sky?"}, Message(role="assistant", content="Blue.")]
    async with bench(lambda: Agent(model=model, additional_input=examples)) as b:
        await b.turn("Sea?")
        await b.turn("Lake?")
        assert [message.content for message in shown(b)] == ["Sea?", "Blue.", "Lake?", "Blue."]
        assert [message["role"] for message in fake.requests[1].messages] == ["user", "assistant"] * 2 + [
            "user"
        ]
