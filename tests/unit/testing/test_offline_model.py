"""OfflineModel under a real Agno agent."""

import asyncio
import json
from typing import Any, Literal

import pytest
from agno.agent import Agent
from agno.media import Image
from agno.models.message import Message
from agno.run.agent import (
    ModelRequestCompletedEvent,
    RunCompletedEvent,
    RunContentEvent,
    RunErrorEvent,
    ToolCallCompletedEvent,
    ToolCallErrorEvent,
    ToolCallStartedEvent,
)
from agno.tools.function import ToolResult
from pydantic import BaseModel, Field

from dragoman.testing.offline import OfflineModel, count_tokens
from dragoman.testing.picture import render_png


def get_weather(city: str, days: int = 1) -> str:
    """Tell the weather of a city.

    Args:
        city: the name of the city
        days: how many days to look ahead
    """
    return f"sunny in {city} for {days} day(s)"


def add(a: float, b: float) -> float:
    """Add two numbers."""
    return a + b


def multiply(a: float, b: float) -> float:
    """Multiply two numbers."""
    return a * b


def reverse_text(text: str) -> str:
    """Reverse a text."""
    return text[::-1]


def break_down() -> str:
    """Fail always."""
    raise ValueError("the spring is broken")


def photograph() -> ToolResult:
    """Take a photograph."""
    return ToolResult(content="click", images=[Image(content=render_png("Click"))])


TOOLS = [get_weather, add, multiply, reverse_text, break_down, photograph]

Called = list[tuple[str, dict[str, Any]]]


class Seen:
    """The events of one run, sorted."""

    def __init__(self, events: list[Any]) -> None:
        self.events = events
        self.errors = [event.content for event in events if isinstance(event, RunErrorEvent)]
        self.words = [
            event.content for event in events if isinstance(event, RunContentEvent) and event.content
        ]
        self.thoughts = [
            event.reasoning_content or "" for event in events if isinstance(event, RunContentEvent)
        ]
        self.requests = [event for event in events if isinstance(event, ModelRequestCompletedEvent)]

    @property
    def content(self) -> Any:
        return next(event.content for event in self.events if isinstance(event, RunCompletedEvent))

    @property
    def rounds(self) -> list[Called]:
        """The tool calls, those of one model turn together."""
        rounds: list[Called] = [[]]
        for event in self.events:
            if isinstance(event, ModelRequestCompletedEvent) and rounds[-1]:
                rounds.append([])
            if isinstance(event, ToolCallStartedEvent) and event.tool is not None:
                rounds[-1].append((str(event.tool.tool_name), event.tool.tool_args or {}))
        return [called for called in rounds if called]


async def ask(text: str, model: OfflineModel | None = None, **more: Any) -> Seen:
    settings = {name: more.pop(name) for name in ("tools", "output_schema") if name in more}
    agent = Agent(model=model or OfflineModel(delay=0), telemetry=False, resolve_in_context=False, **settings)
    return Seen([event async for event in agent.arun(text, stream=True, stream_events=True, **more)])


async def test_it_answers_word_by_word_and_always_the_same() -> None:
    first = await ask("Hello there, how are you?")
    assert len(first.words) > 5
    assert "".join(first.words) == first.content
    assert "Hello there, how are you?" in first.content
    assert (await ask("Hello there, how are you?")).words == first.words


async def test_words_take_their_time() -> None:
    loop = asyncio.get_running_loop()
    start = loop.time()
    seen = await ask("Hello", OfflineModel(delay=0.01))
    assert loop.time() - start >= 0.01 * len(seen.words)


@pytest.mark.parametrize(
    ("text", "rounds"),
    [
        ("add 2 and 3", [[("add", {"a": 2, "b": 3})]]),
        ("What is two plus 3?", [[("add", {"a": 2, "b": 3})]]),
        ("What is the weather in Cape Town?", [[("get_weather", {"city": "Cape Town"})]]),
        ("get_weather for Oslo, 3 days", [[("get_weather", {"city": "Oslo", "days": 3})]]),
        (
            "What's the weather in Paris, London and Rome?",
            [[("get_weather", {"city": city}) for city in ("Paris", "London", "Rome")]],
        ),
        (
            "Tell me the weather in Rome and add 7 to 8",
            [[("get_weather", {"city": "Rome"}), ("add", {"a": 7, "b": 8})]],
        ),
        (
            "What is 2 plus 3, and 4 times -5.5?",
            [[("add", {"a": 2, "b": 3}), ("multiply", {"a": 4, "b": -5.5})]],
        ),
        (
            "Add 2 and 3, then multiply the result by 4",
            [[("add", {"a": 2, "b": 3})], [("multiply", {"a": 5.0, "b": 4})]],
        ),
        (
            "add 1 and 2 and then multiply by 10, then reverse it",
            [
                [("add", {"a": 1, "b": 2})],
                [("multiply", {"a": 3.0, "b": 10})],
                [("reverse_text", {"text": "30.0"})],
            ],
        ),
        ('Say hello, then reverse the text "a, b and c"', [[("reverse_text", {"text": "a, b and c"})]]),
        ("reverse_text hello world", [[("reverse_text", {"text": "hello world"})]]),
        ("Reverse the word Ozymandias.", [[("reverse_text", {"text": "Ozymandias"})]]),
        ("multiply", [[("multiply", {"a": 0, "b": 0})]]),
        ("Hello, nice weather today", []),
        ("Good morning!", []),
    ],
)
async def test_tools_are_called_together_and_one_after_the_other(text: str, rounds: list[Called]) -> None:
    seen = await ask(text, tools=TOOLS)
    assert seen.errors == []
    assert seen.rounds == rounds
    assert len(seen.requests) == len(rounds) + 1


async def test_the_answer_is_made_from_the_results() -> None:
    seen = await ask("Add 2 and 3, then multiply the result by 4", tools=TOOLS)
    assert seen.content == "add gave 5.0. multiply gave 20.0."


async def test_a_failing_tool_is_told_and_does_not_end_the_run() -> None:
    seen = await ask("break down and add 1 to 1", tools=TOOLS)
    assert sum(isinstance(event, ToolCallErrorEvent) for event in seen.events) == 1
    assert seen.content == "break_down failed: the spring is broken. add gave 2.0."


async def test_each_call_has_an_id_of_its_own() -> None:
    seen = await ask("weather in Paris and London", tools=TOOLS)
    ids = [
        event.tool.tool_call_id
        for event in seen.events
        if isinstance(event, ToolCallCompletedEvent) and event.tool
    ]
    assert len(set(ids)) == 2


@pytest.mark.parametrize("word", ["Ozymandias", "x", "Shelley"])
async def test_the_word_in_a_picture_is_read_from_its_pixels(word: str) -> None:
    seen = await ask("What does it say?", images=[Image(content=render_png(word, scale=3))])
    assert seen.content == f"The word in the picture is {word}."


async def test_pictures_without_a_word_and_other_files_are_told_apart() -> None:
    blank = render_png("i", ink=0, paper=255, margin=3)
    seen = await ask("And these?", images=[Image(content=blank), Image(content=b"GIF89a...")])
    assert seen.content == "The word in the picture is i. I cannot read the picture: it is not a PNG."


async def test_a_picture_that_a_tool_returns_is_no_new_request() -> None:
    seen = await ask("photograph please", tools=TOOLS)
    assert seen.rounds == [[("photograph", {})]]
    assert seen.content == "photograph gave click."


def history(*said: str) -> list[str | dict[Any, Any] | BaseModel | Message]:
    messages: list[str | dict[Any, Any] | BaseModel | Message] = []
    for text in said:
        messages += [Message(role="user", content=text), Message(role="assistant", content="I see.")]
    return messages


@pytest.mark.parametrize(
    ("said", "question", "answer"),
    [
        (("Good day", "It rains"), "What did I say first?", "First you said: Good day"),
        (("Good day", "It rains"), "What did I say last?", "Before that you said: It rains"),
        (("Good day", "It rains"), "Tell me what I have said so far", "You said: Good day / It rains"),
        ((), "What did I ask first?", "You have not said anything before."),
        (("My name is Ada",), "What is my name?", "Your name is Ada."),
        (("Good day",), "What is my name?", "You have not told me your name."),
        (("Good day",), "Fine.", "I understand: “Fine.”. This is your message number 2."),
    ],
)
async def test_it_remembers_the_conversation_it_is_sent(
    said: tuple[str, ...], question: str, answer: str
) -> None:
    model = OfflineModel(delay=0)
    agent = Agent(model=model, telemetry=False, additional_input=history(*said))
    events = [event async for event in agent.arun(question, stream=True, stream_events=True)]
    assert Seen(events).content == answer


async def test_tools_of_earlier_turns_are_not_taken_for_this_ones() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "add", "arguments": '{"a": 9, "b": 9}'}}
    earlier: list[str | dict[Any, Any] | BaseModel | Message] = [
        Message(role="user", content="add 9 and 9"),
        Message(role="assistant", tool_calls=[call]),
        Message(role="tool", tool_call_id="c", tool_name="add", content="18"),
        Message(role="assistant", content="add gave 18."),
    ]
    agent = Agent(model=OfflineModel(delay=0), telemetry=False, tools=[add], additional_input=earlier)
    seen = Seen([event async for event in agent.arun("add 1 and 2", stream=True, stream_events=True)])
    assert seen.rounds == [[("add", {"a": 1, "b": 2})]]
    assert seen.content == "add gave 3.0."


class Town(BaseModel):
    name: str
    population: int = Field(ge=1)
    mood: Literal["good", "bad"]
    coastal: bool
    twins: list[str]
    note: str = Field(max_length=20)
    area: float | None = None


async def test_structured_output_is_filled_from_the_text() -> None:
    seen = await ask(
        "The coastal town Rapallo has population 28000, a good mood, 33.5 area", output_schema=Town
    )
    assert isinstance(seen.content, Town)
    town = seen.content
    assert (town.name, town.population, town.mood, town.coastal) == ("Rapallo", 28000, "good", True)
    assert town.area == 33.5
    assert len(town.note) <= 20


async def test_structured_output_is_valid_when_the_text_tells_nothing() -> None:
    seen = await ask("hm", output_schema=Town)
    assert seen.content == Town(name="hm", population=1, mood="good", coastal=False, twins=[], note="hm")


async def test_structured_output_may_come_from_tools_and_be_described_by_a_schema() -> None:
    schema = {"type": "object", "properties": {"outcome": {"type": "string"}}, "required": ["outcome"]}
    seen = await ask("add 20 to 22", tools=[add], output_schema=schema)
    assert seen.rounds == [[("add", {"a": 20, "b": 22})]]
    assert "42" in seen.content["outcome"]


class Code(BaseModel):
    code: str = Field(pattern=r"^[A-Z]{3}-\d$")


async def test_a_pattern_is_beyond_it_and_the_text_stays_text() -> None:
    seen = await ask("hm", output_schema=Code)
    assert seen.errors == []
    assert json.loads(seen.content) == {"code": ""}


async def test_usage_counts_all_that_was_sent_and_said() -> None:
    seen = await ask("Hello")
    assert len(seen.requests) == 1
    assert seen.requests[0].input_tokens == count_tokens("Hello") == 2
    assert seen.requests[0].output_tokens == count_tokens(seen.content)
    assert not seen.requests[0].reasoning_tokens


async def test_usage_grows_with_tools_results_and_pictures() -> None:
    plain = (await ask("add 1 and 2")).requests[0].input_tokens or 0
    picture = render_png("Ozymandias", scale=12)
    shown = (await ask("add 1 and 2", images=[Image(content=picture)])).requests[0].input_tokens
    assert shown == plain + -(-len(picture) // 750)
    first, second = (await ask("add 1 and 2", tools=[add])).requests
    assert (first.input_tokens or 0) > plain
    call = json.dumps({"name": "add", "arguments": '{"a": 1, "b": 2}'})
    assert first.output_tokens == count_tokens(call)
    assert second.input_tokens == (first.input_tokens or 0) + count_tokens(call) + count_tokens("3.0")


async def test_thinking_is_streamed_and_reported_as_reasoning() -> None:
    seen = await ask("add 1 and 2", OfflineModel(delay=0, think=True), tools=[add])
    thought = "Step 1 of what was asked needs add.All results are there."
    assert "".join(seen.thoughts) == thought
    assert [event.reasoning_tokens for event in seen.requests] == [9, 6]
    assert seen.requests[1].output_tokens == 6 + count_tokens("add gave 3.0.")


def test_it_works_without_an_event_loop() -> None:
    agent = Agent(model=OfflineModel(delay=0), telemetry=False, tools=[add])
    assert agent.run("add 2 and 2").content == "add gave 4.0."
    contents = [
        event.content for event in agent.run("add 2 and 2", stream=True) if isinstance(event, RunContentEvent)
    ]
    assert "".join(str(content or "") for content in contents) == "add gave 4.0."


async def test_one_object_serves_concurrent_runs() -> None:
    model = OfflineModel(delay=0.001)
    runs = [ask(f"add {number} and {number}", model, tools=[add]) for number in range(20)]
    contents = [seen.content for seen in await asyncio.gather(*runs)]
    assert contents == [f"add gave {2.0 * number}." for number in range(20)]
