"""Whatever a run was doing when it ended, the next turn is accepted."""

from typing import Any

from agno.models.message import Message
from agno.utils.models.claude import format_messages
from hypothesis import given, settings
from hypothesis import strategies as st

from dragoman.adapter.history import mended
from dragoman.testing._anthropic_rules import broken_rule

TEXTS = st.sampled_from(["", " ", "Hello", "Well\n"])
SIGNATURES = st.sampled_from(["", "c2ln"])


@st.composite
def answers(draw: st.DrawFn, number: int) -> list[Message]:
    """What one request leaves: an assistant message, whole or not, and perhaps results of its tool calls."""
    blocks: list[dict[str, Any]] = []
    text = ""
    calls: list[str] = []
    for at in range(draw(st.integers(0, 4))):
        match draw(st.sampled_from(["text", "thinking", "redacted", "tool"])):
            case "text":
                said = draw(TEXTS)
                text += said
                blocks.append({"type": "text", "text": said})
            case "thinking":
                blocks.append({"type": "thinking", "thinking": "Hm", "signature": draw(SIGNATURES)})
            case "redacted":
                blocks.append({"type": "redacted_thinking", "data": "x"})
            case _:
                calls.append(f"call_{number}_{at}")
                blocks.append({"type": "tool_use", "id": calls[-1], "name": "f", "input": {}})
    told = [call for call in calls if draw(st.integers(0, 5))]
    answered = [call for call in told if draw(st.integers(0, 3))]
    message = Message(
        role="assistant",
        content=text or None,
        tool_calls=[
            {"id": call, "type": "function", "function": {"name": "f", "arguments": "{}"}} for call in told
        ]
        or None,
        reasoning_content=draw(st.sampled_from([None, "Hm"])),
        provider_data=draw(st.sampled_from([{"content_blocks": blocks, "signature": "c2ln"}, None, {}])),
    )
    stray = [f"stray_{number}"] if not draw(st.integers(0, 5)) else []
    results = [Message(role="tool", tool_call_id=call, content="ok") for call in (*answered, *stray)]
    return [message, *results]


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    messages = [Message(role="user", content="Hi")]
    for number in range(draw(st.integers(0, 4))):
        messages += draw(answers(number))
    return messages


@given(conversations())
@settings(deadline=None, max_examples=400)
def test_the_next_turn_is_accepted(conversation: list[Message]) -> None:
    kept = mended(conversation)
    assert accepted([*kept, Message(role="user", content="And?")]) is None


@given(conversations())
@settings(deadline=None, max_examples=400)
def test_mending_twice_changes_nothing_more(conversation: list[Message]) -> None:
    kept = mended(conversation)
    again = mended(kept)
    assert [id(message) for message in again] == [id(message) for message in kept]


@given(conversations())
@settings(deadline=None, max_examples=200)
def test_the_messages_given_are_not_changed(conversation: list[Message]) -> None:
    before = [message.model_dump() for message in conversation]
    mended(conversation)
    assert [message.model_dump() for message in conversation] == before


def test_the_test_can_fail() -> None:
    assert accepted([Message(role="user", content="Hi"), Message(role="user", content="And?")]) is None
    orphan = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    broken = [Message(role="user", content="Hi"), Message(role="assistant", tool_calls=[orphan])]
    assert "tool_result" in str(accepted([*broken, Message(role="user", content="And?")]))


def test_what_is_whole_is_the_same_object() -> None:
    conversation = [
        Message(role="user", content="Hi"),
        Message(
            role="assistant",
            tool_calls=[{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
            provider_data={
                "content_blocks": [
                    {"type": "thinking", "thinking": "Hm", "signature": "s"},
                    {"type": "tool_use", "id": "c", "name": "f", "input": {}},
                ]
            },
        ),
        Message(role="tool", tool_call_id="c", content="ok"),
        Message(role="assistant", content="Yes"),
    ]
    assert all(kept is given for kept, given in zip(mended(conversation), conversation, strict=True))


def accepted(messages: list[Message]) -> str | None:
    """The rule of the Messages API that the conversation breaks."""
    sent: Any = format_messages(messages)[0]
    plain = [{**message, "content": [_dumped(block) for block in message["content"]]} for message in sent]
    for message in plain:
        if message["content"] and message["content"][-1]["type"] in ("thinking", "redacted_thinking"):
            return "the final block in an assistant message cannot be thinking"
    return broken_rule({"model": "m", "max_tokens": 1, "messages": plain})


def _dumped(block: Any) -> dict[str, Any]:
    dumped: dict[str, Any] = block if isinstance(block, dict) else block.model_dump()
    return dumped
