"""The fake Messages API under Agno's own Claude model, end to end."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from agno.agent import Agent
from agno.media import Image
from agno.models.anthropic import Claude
from agno.run.agent import (
    ModelRequestCompletedEvent,
    RunCompletedEvent,
    RunErrorEvent,
    ToolCallCompletedEvent,
)
from pydantic import BaseModel

from dragoman.records import TokenUsage
from dragoman.testing.anthropic import FakeAnthropic, HttpError, Text, Thinking, ToolUse, Turn, Usage
from dragoman.testing.picture import render_png

# Agno finds a picture's type with a module that Python is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


@pytest.fixture
async def claude(fake: FakeAnthropic) -> AsyncIterator[Claude]:
    model = Claude(id="claude-test", api_key="k", client_params={"base_url": fake.url, "max_retries": 0})
    yield model
    await model.get_async_client().close()


async def events(model: Claude, text: str, images: list[Image] | None = None, **more: Any) -> list[Any]:
    agent = Agent(model=model, telemetry=False, **more)
    return [event async for event in agent.arun(text, images=images, stream=True, stream_events=True)]


async def test_thinking_parallel_tools_and_a_picture(fake: FakeAnthropic, claude: Claude) -> None:
    fake.script(
        Turn(
            [
                Thinking("I add.", signature="c2ln"),
                Text("Let me see."),
                ToolUse("toolu_1", "add", {"a": 1, "b": 2}),
                ToolUse("toolu_2", "add", {"a": 3, "b": 4}),
            ],
            usage=Usage(input_tokens=100, output_tokens=40, cache_read_input_tokens=7),
        ),
        Turn(
            " Three and seven.", usage=Usage(input_tokens=160, output_tokens=9, cache_creation_1h_tokens=11)
        ),
    )
    picture = render_png("Ozymandias")
    found = await events(claude, "add these", [Image(content=picture, mime_type="image/png")], tools=[add])

    results = [
        event.tool.result for event in found if isinstance(event, ToolCallCompletedEvent) and event.tool
    ]
    assert results == ["3", "7"]
    completed = next(event for event in found if isinstance(event, RunCompletedEvent))
    assert completed.content == "Let me see. Three and seven."
    first, second = fake.requests
    assert first.images() == second.images() == [picture]
    assert [tool["name"] for tool in first.tools] == ["add"]
    assistant, results_message = second.messages[1:]
    assert [block["type"] for block in assistant["content"]] == ["thinking", "text", "tool_use", "tool_use"]
    assert assistant["content"][0]["signature"] == "c2ln"
    assert [block["tool_use_id"] for block in results_message["content"]] == ["toolu_1", "toolu_2"]
    requests = [event for event in found if isinstance(event, ModelRequestCompletedEvent)]
    assert [(event.input_tokens, event.output_tokens) for event in requests] == [(100, 40), (160, 9)]
    assert fake.billed == TokenUsage(
        260, 49, cache_read_tokens=7, cache_write_tokens=11, cache_write_1h_tokens=11
    )


class Person(BaseModel):
    name: str
    age: int


async def test_structured_output_is_not_streamed(fake: FakeAnthropic, claude: Claude) -> None:
    fake.script(Turn('{"name": "Ada", "age": 36}'))
    found = await events(claude, "who?", output_schema=Person)
    assert next(event for event in found if isinstance(event, RunCompletedEvent)).content == Person(
        name="Ada", age=36
    )
    assert not fake.requests[0].stream


@pytest.mark.parametrize("turn", [HttpError(529), Turn("half of it", drop_after=1), HttpError(401)])
async def test_a_failure_ends_the_run_with_an_error(
    fake: FakeAnthropic, claude: Claude, turn: Turn | HttpError
) -> None:
    fake.script(turn)
    found = await events(claude, "hello")
    assert isinstance(found[-1], RunErrorEvent)
