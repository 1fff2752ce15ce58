"""The fake Messages API, driven by the real anthropic client."""

import asyncio
import base64
import time
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageParam, ToolParam

from dragoman.records import TokenUsage
from dragoman.testing.anthropic import (
    Block,
    FakeAnthropic,
    HttpError,
    Outcome,
    Recorded,
    RedactedThinking,
    Text,
    Thinking,
    ToolUse,
    Turn,
    Usage,
)

HELLO: list[MessageParam] = [{"role": "user", "content": "hello"}]
TOOLS: list[ToolParam] = [
    {
        "name": "add",
        "description": "adds",
        "input_schema": {"type": "object", "properties": {"a": {"type": "integer"}}},
    }
]
USAGE = Usage(
    input_tokens=101,
    output_tokens=57,
    cache_read_input_tokens=2048,
    cache_creation_5m_tokens=300,
    cache_creation_1h_tokens=40,
    first_output_tokens=2,
)
TOLD_AT_END = TokenUsage(101, 57, 2048, 340, 40)


async def streamed(client: anthropic.AsyncAnthropic, **more: Any) -> tuple[Message, list[str]]:
    """The final message and the text deltas."""
    texts: list[str] = []
    call: dict[str, Any] = {"model": "claude-test", "max_tokens": 100, "messages": HELLO, **more}
    async with client.messages.stream(**call) as stream:
        async for event in stream:
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                texts.append(event.delta.text)
        return await stream.get_final_message(), texts


async def whole(client: anthropic.AsyncAnthropic, **more: Any) -> Message:
    call: dict[str, Any] = {"model": "claude-test", "max_tokens": 100, "messages": HELLO, **more}
    message: Message = await client.messages.create(**call)
    return message


@pytest.mark.parametrize("stream", [True, False])
async def test_every_block_arrives_with_usage_and_stop_reason(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic, stream: bool
) -> None:
    blocks: list[Block] = [
        Thinking("First I  think.\n", signature="c2ln"),
        RedactedThinking("c2VjcmV0"),
        Text("Grüße,  an alle \n"),
        ToolUse("toolu_1", "add", {"a": 1, "b": {"c": ["ü", None]}}),
        ToolUse("toolu_2", "add"),
    ]
    fake.script(Turn(blocks, usage=USAGE))
    message = (await streamed(client, tools=TOOLS))[0] if stream else await whole(client, tools=TOOLS)

    thinking, redacted, text, first, second = message.content
    assert thinking.type == "thinking"
    assert (thinking.thinking, thinking.signature) == ("First I  think.\n", "c2ln")
    assert redacted.type == "redacted_thinking"
    assert redacted.data == "c2VjcmV0"
    assert text.type == "text"
    assert text.text == "Grüße,  an alle \n"
    assert first.type == "tool_use"
    assert (first.id, first.name, first.input) == ("toolu_1", "add", {"a": 1, "b": {"c": ["ü", None]}})
    assert second.type == "tool_use"
    assert second.input == {}
    assert message.stop_reason == "tool_use"
    assert message.model == "claude-test"
    usage = message.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (101, 57, 2048)
    assert usage.cache_creation_input_tokens == 340
    assert usage.cache_creation is not None
    assert usage.cache_creation.ephemeral_5m_input_tokens == 300
    assert usage.cache_creation.ephemeral_1h_input_tokens == 40
    assert fake.billed == TOLD_AT_END
    assert fake.requests[0].outcome is Outcome.ANSWERED


async def test_text_is_streamed_word_by_word_or_in_pieces(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(Turn(" one two\n three "), Turn([Text("abcdefg", size=3)]), Turn("  "))
    assert (await streamed(client))[1] == [" one", " two", "\n three "]
    assert (await streamed(client))[1] == ["abc", "def", "g"]
    assert (await streamed(client))[1] == ["  "]


async def test_thinking_tokens_are_told_at_the_end(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(Turn("yes", usage=Usage(output_tokens=50, thinking_tokens=44)))
    message, _ = await streamed(client)
    assert message.usage.output_tokens_details is not None
    assert message.usage.output_tokens_details.thinking_tokens == 44
    assert fake.billed == TokenUsage(input_tokens=25, output_tokens=50, reasoning_tokens=44)


async def test_a_tool_call_cut_off_by_max_tokens_has_partial_input(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    cut = [ToolUse("toolu_1", "add", '{"a": 12, "b": "hal')]
    fake.script(Turn(cut, stop_reason="max_tokens"), Turn(cut, stop_reason="max_tokens"))
    message, _ = await streamed(client, tools=TOOLS)
    assert message.stop_reason == "max_tokens"
    assert message.content[0].type == "tool_use"
    assert message.content[0].input["a"] == 12
    unstreamed = await whole(client, tools=TOOLS)
    assert unstreamed.content[0].type == "tool_use"
    assert unstreamed.content[0].input == {}


async def test_a_request_is_recorded_byte_for_byte(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    sent: list[bytes] = []

    async def keep(request: httpx2.Request) -> None:
        sent.append(await request.aread())

    picture = base64.b64encode(b"\x89PNG first").decode()
    inner = base64.b64encode(b"\x89PNG second").decode()

    def image(data: str) -> dict[str, Any]:
        return {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": data}}

    messages: list[Any] = [
        {"role": "user", "content": [{"type": "text", "text": "look"}, image(picture)]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "add", "input": {}}]},
        {
            "role": "user",
            "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [image(inner)]}],
        },
    ]
    fake.respond = lambda request: Turn(f"{request.model} saw {len(request.images())} pictures")
    async with (
        httpx2.AsyncClient(event_hooks={"request": [keep]}) as http,
        anthropic.AsyncAnthropic(base_url=fake.url, api_key="secret", http_client=http) as hooked,
    ):
        before = time.monotonic()
        _, texts = await streamed(
            hooked, messages=messages, tools=TOOLS, system=[{"type": "text", "text": "Be kind."}]
        )
    assert "".join(texts) == "claude-test saw 2 pictures"
    recorded = fake.requests[0]
    assert recorded.raw == sent[0]
    assert recorded.headers["authorization"] == "Bearer secret"
    assert before <= recorded.start_time <= time.monotonic()
    assert recorded.system == "Be kind."
    assert recorded.messages == messages
    assert recorded.tools == TOOLS
    assert recorded.images() == [b"\x89PNG first", b"\x89PNG second"]
    assert recorded.stream
    assert recorded.disconnect_time is None


async def test_plain_system_and_absent_tools_can_be_asked_for(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(Turn("a"), Turn("b"))
    await whole(client, system="Short.")
    await whole(client)
    first, second = fake.requests
    assert (first.system, first.stream, first.tools) == ("Short.", False, [])
    assert second.system == ""


@pytest.mark.parametrize(
    ("status", "error", "kind"),
    [
        (400, anthropic.BadRequestError, "invalid_request_error"),
        (401, anthropic.AuthenticationError, "authentication_error"),
        (404, anthropic.NotFoundError, "not_found_error"),
        (429, anthropic.RateLimitError, "rate_limit_error"),
        (500, anthropic.InternalServerError, "api_error"),
        (529, anthropic.APIStatusError, "overloaded_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
async def test_a_refusal_is_the_clients_typed_error_and_costs_nothing(
    fake: FakeAnthropic,
    client: anthropic.AsyncAnthropic,
    status: int,
    error: type[anthropic.APIStatusError],
    kind: str,
    stream: bool,
) -> None:
    fake.script(HttpError(status, message="no such luck"))
    with pytest.raises(error) as caught:
        await (streamed(client) if stream else whole(client))
    assert caught.value.status_code == status
    assert caught.value.body == {
        "type": "error",
        "error": {"type": kind, "message": "no such luck"},
        "request_id": "req_000001",
    }
    assert fake.billed == TokenUsage()
    assert fake.requests[0].outcome is Outcome.REFUSED


async def test_the_client_retries_after_429_and_529_when_told_to(fake: FakeAnthropic) -> None:
    soon = {"retry-after-ms": "1"}
    fake.script(
        HttpError(429, headers=soon), HttpError(529, "custom_error", headers=soon), Turn("third time lucky")
    )
    async with anthropic.AsyncAnthropic(base_url=fake.url, api_key="k", max_retries=2) as client:
        _, texts = await streamed(client)
    assert "".join(texts) == "third time lucky"
    assert [request.outcome for request in fake.requests] == [
        Outcome.REFUSED,
        Outcome.REFUSED,
        Outcome.ANSWERED,
    ]
    assert fake.requests[2].headers["x-stainless-retry-count"] == "2"
    assert fake.pending == 0


async def test_retry_after_in_seconds_is_passed_on(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(HttpError(429, headers={"retry-after": "7"}))
    with pytest.raises(anthropic.RateLimitError) as caught:
        await whole(client)
    assert caught.value.response.headers["retry-after"] == "7"


CALL = {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "add", "input": {}}]}
RESULT = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "1"}]}
ASK = {"role": "user", "content": "hello"}


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([], "at least one message"),
        ([{"role": "assistant", "content": "hi"}], "first message must use the user role"),
        ([ASK, {"role": "tool", "content": "hi"}], r"messages.1.role"),
        ([ASK, {"role": "user", "content": []}], "non-empty content"),
        (
            [ASK, {"role": "assistant", "content": [{"type": "text", "text": ""}]}],
            r"messages.1.content.0: text",
        ),
        ([ASK, {"role": "assistant", "content": [{"type": "thinking", "thinking": "x"}]}], "signature"),
        ([ASK, {"role": "assistant", "content": [{"text": "x"}]}], r"content.0.type"),
        ([ASK, CALL], "without tool_result blocks: t1"),
        ([ASK, CALL, ASK], "without tool_result blocks immediately after: t1"),
        ([ASK, RESULT], "unexpected tool_use_id"),
    ],
)
async def test_a_conversation_that_the_real_api_refuses_is_refused(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic, messages: list[Any], complaint: str
) -> None:
    fake.script(Turn("unused"))
    with pytest.raises(anthropic.BadRequestError, match=complaint):
        await whole(client, messages=messages)
    assert fake.pending == 1
    assert fake.billed == TokenUsage()


async def test_a_whole_tool_conversation_is_accepted(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(Turn("fine"))
    await whole(client, messages=[ASK, CALL, RESULT])
    assert fake.requests[0].outcome is Outcome.ANSWERED


async def test_without_a_turn_the_client_is_told_so_and_does_not_retry(fake: FakeAnthropic) -> None:
    async with anthropic.AsyncAnthropic(base_url=fake.url, api_key="k") as client:
        with pytest.raises(anthropic.BadRequestError, match="no turn left"):
            await whole(client)
    assert len(fake.requests) == 1


async def test_a_responder_that_raises_is_a_server_error(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    def fail(request: Recorded) -> Turn:
        raise ValueError(request.model)

    fake.respond = fail
    with pytest.raises(anthropic.InternalServerError):
        await whole(client)
    await fake.requests[0].ended.wait()
    assert fake.requests[0].outcome is Outcome.REFUSED


async def test_the_bill_is_the_sum_over_concurrent_requests(fake: FakeAnthropic) -> None:
    def answer(request: Recorded) -> Turn:
        number = int(request.messages[0]["content"])
        return Turn("w " * number, usage=Usage(input_tokens=number, output_tokens=2 * number), delay=0.001)

    fake.respond = answer
    async with anthropic.AsyncAnthropic(base_url=fake.url, api_key="k") as client:
        calls = [streamed(client, messages=[{"role": "user", "content": str(n)}]) for n in range(1, 21)]
        results = await asyncio.gather(*calls)
    assert [message.usage.output_tokens for message, _ in results] == [2 * n for n in range(1, 21)]
    assert fake.billed == TokenUsage(input_tokens=210, output_tokens=420)
