"""What the fake Messages API bills when a request does not end well, seen by the real anthropic client."""

import asyncio
import time
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageParam, RawMessageStreamEvent

from dragoman.records import TokenUsage
from dragoman.testing.anthropic import ErrorEvent, FakeAnthropic, Outcome, Turn, Usage

HELLO: list[MessageParam] = [{"role": "user", "content": "hello"}]
USAGE = Usage(
    input_tokens=101,
    output_tokens=57,
    cache_read_input_tokens=2048,
    cache_creation_5m_tokens=300,
    cache_creation_1h_tokens=40,
    first_output_tokens=2,
)
TOLD_AT_START = TokenUsage(101, 2, 2048, 340, 40)
TOLD_AT_END = TokenUsage(101, 57, 2048, 340, 40)


async def streamed(client: anthropic.AsyncAnthropic) -> str:
    """The text of a streamed answer."""
    async with client.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream:
        return await stream.get_final_text()


async def whole(client: anthropic.AsyncAnthropic) -> Message:
    return await client.messages.create(model="m", max_tokens=9, messages=HELLO)


async def collect(client: anthropic.AsyncAnthropic, events: list[RawMessageStreamEvent]) -> None:
    """Append the raw events as they come, so that those before a failure are kept."""
    async for event in await client.messages.create(model="m", max_tokens=9, messages=HELLO, stream=True):
        events.append(event)


def told(events: list[RawMessageStreamEvent]) -> TokenUsage:
    """The bill as a client that read `events` knows it."""
    known = TokenUsage()
    for event in events:
        if event.type == "message_start":
            usage = event.message.usage
            creation = usage.cache_creation
            known = TokenUsage(
                usage.input_tokens,
                usage.output_tokens,
                usage.cache_read_input_tokens or 0,
                usage.cache_creation_input_tokens or 0,
                creation.ephemeral_1h_input_tokens if creation else 0,
            )
        elif event.type == "message_delta":
            known = TokenUsage(
                known.input_tokens,
                event.usage.output_tokens,
                known.cache_read_tokens,
                known.cache_write_tokens,
                known.cache_write_1h_tokens,
            )
    return known


@pytest.mark.parametrize(
    ("drop_after", "deltas", "billed"),
    [(0, 0, TOLD_AT_START), (2, 2, TOLD_AT_START), (3, 3, TOLD_AT_START), ("usage", 3, TOLD_AT_END)],
)
async def test_a_dropped_stream_is_billed_as_far_as_it_was_told(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic, drop_after: Any, deltas: int, billed: TokenUsage
) -> None:
    fake.script(Turn("one two three", usage=USAGE, drop_after=drop_after))
    events: list[RawMessageStreamEvent] = []
    with pytest.raises(httpx2.RemoteProtocolError):
        await collect(client, events)
    assert sum(event.type == "content_block_delta" for event in events) == deltas
    assert told(events) == billed
    assert fake.billed == billed
    await fake.requests[0].ended.wait()
    assert fake.requests[0].outcome is Outcome.BROKEN


async def test_a_dropped_unstreamed_answer_is_not_billed(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(Turn("one two three", usage=USAGE, drop_after=1))
    with pytest.raises(anthropic.APIConnectionError):
        await whole(client)
    assert fake.billed == TokenUsage()


async def test_output_tokens_told_in_the_middle_are_billed_when_the_rest_is_lost(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(Turn("one two three", usage=USAGE, progress={2: 19}, drop_after=3))
    events: list[RawMessageStreamEvent] = []
    with pytest.raises(httpx2.RemoteProtocolError):
        await collect(client, events)
    assert fake.billed == told(events) == TokenUsage(101, 19, 2048, 340, 40)


@pytest.mark.parametrize(("after", "billed"), [(1, TOLD_AT_START), ("usage", TOLD_AT_END)])
async def test_an_error_event_breaks_the_stream(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic, after: Any, billed: TokenUsage
) -> None:
    fake.script(Turn("one two", usage=USAGE, error_after=ErrorEvent(after)))
    with pytest.raises(anthropic.APIStatusError, match="overloaded_error"):
        await streamed(client)
    assert fake.billed == billed
    await fake.requests[0].ended.wait()
    assert fake.requests[0].outcome is Outcome.BROKEN


async def test_an_error_event_is_a_status_when_nothing_is_streamed(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(Turn("one two", error_after=ErrorEvent(1)))
    with pytest.raises(anthropic.APIStatusError) as caught:
        await whole(client)
    assert caught.value.status_code == 529


async def test_a_hang_ends_in_the_clients_timeout(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic
) -> None:
    fake.script(Turn("one two three", usage=USAGE, hang_after=1))
    impatient = client.with_options(timeout=0.2)
    started = time.monotonic()
    with pytest.raises(httpx2.ReadTimeout):
        await streamed(impatient)
    recorded = fake.requests[0]
    await recorded.ended.wait()
    assert (recorded.outcome, recorded.deltas, recorded.billed) == (Outcome.LEFT, 1, TOLD_AT_START)
    assert recorded.disconnect_time is not None
    assert 0.19 <= recorded.disconnect_time - started < 2


@pytest.mark.parametrize("stream", [True, False])
async def test_a_hang_before_the_first_byte_is_a_timeout_and_free(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic, stream: bool
) -> None:
    fake.script(Turn("late", hang_before_first_byte=True))
    impatient = client.with_options(timeout=0.2)
    with pytest.raises(anthropic.APITimeoutError):
        await (streamed(impatient) if stream else whole(impatient))
    await fake.requests[0].ended.wait()
    assert fake.requests[0].outcome is Outcome.LEFT
    assert fake.billed == TokenUsage()


async def test_a_hang_can_be_ended(fake: FakeAnthropic, client: anthropic.AsyncAnthropic) -> None:
    resume = asyncio.Event()
    fake.script(Turn("one two three", usage=USAGE, hang_after=2, resume=resume))
    call = asyncio.create_task(streamed(client))
    request = await fake.request(1)
    await request.hanging.wait()
    assert (request.deltas, request.billed, request.outcome) == (2, TOLD_AT_START, None)
    resume.set()
    assert await call == "one two three"
    assert fake.billed == TOLD_AT_END


@pytest.mark.parametrize("leave", ["cancel", "close"])
async def test_a_client_that_leaves_is_noticed_at_once_and_billed_for_what_it_was_told(
    fake: FakeAnthropic, client: anthropic.AsyncAnthropic, leave: str
) -> None:
    fake.script(Turn("word " * 5000, usage=USAGE, delay=0.001))
    read = asyncio.Event()

    async def follow() -> None:
        async with client.messages.stream(model="m", max_tokens=9, messages=HELLO) as stream:
            async for event in stream:
                if event.type == "text" and event.snapshot.startswith("word word word"):
                    read.set()
                    if leave == "close":
                        return

    call = asyncio.create_task(follow())
    await read.wait()
    left = time.monotonic()
    if leave == "cancel":
        call.cancel()
    await asyncio.wait([call])
    request = fake.requests[0]
    await request.ended.wait()
    assert request.outcome is Outcome.LEFT
    assert request.disconnect_time is not None
    assert request.disconnect_time - left < 0.5
    assert 3 <= request.deltas < 5000
    assert request.billed == TOLD_AT_START


async def test_closing_the_fake_ends_a_hanging_request(client: anthropic.AsyncAnthropic) -> None:
    async with (
        FakeAnthropic() as own,
        anthropic.AsyncAnthropic(base_url=own.url, api_key="k", max_retries=0) as hanging,
    ):
        own.script(Turn("never", hang_before_first_byte=True))
        call = asyncio.create_task(whole(hanging))
        request = await own.request(1)
        await request.hanging.wait()
        await own.__aexit__(None, None, None)
        with pytest.raises(anthropic.APIConnectionError):
            await call
    assert request.outcome is Outcome.STOPPED
