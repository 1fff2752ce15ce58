"""ScriptedModel under a real Agno agent."""

import asyncio
import copy
from typing import Any

import pytest
from agno.agent import Agent
from agno.exceptions import ModelProviderError
from agno.run.agent import (
    ModelRequestCompletedEvent,
    RunCompletedEvent,
    RunContentEvent,
    RunErrorEvent,
    ToolCallCompletedEvent,
)
from pydantic import BaseModel

from dragoman.records import TokenUsage
from dragoman.testing.scripted import Pause, Reasoning, Request, ScriptedModel, Step, ToolCall


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


async def events(model: ScriptedModel, text: str = "go", **more: Any) -> list[Any]:
    agent = Agent(model=model, telemetry=False, **more)
    return [event async for event in agent.arun(text, stream=True, stream_events=True)]


def only(found: list[Any], kind: type[Any]) -> list[Any]:
    return [event for event in found if isinstance(event, kind)]


async def test_turns_are_played_in_order_with_tools_and_usage() -> None:
    model = ScriptedModel(
        turns=[
            ["Let me see.", ToolCall("add", {"a": 1, "b": 2}), ToolCall("add", {"a": 3, "b": 4}, id="mine")],
            [Reasoning("hm", signature="sig"), "It is ", "3 and 7.", TokenUsage(40, 6, cache_read_tokens=5)],
        ]
    )
    found = await events(model, tools=[add])
    calls = [(event.tool.tool_call_id, event.tool.result) for event in only(found, ToolCallCompletedEvent)]
    assert calls == [("call_1", "3"), ("mine", "7")]
    assert only(found, RunCompletedEvent)[0].content == "Let me see.It is 3 and 7."
    usage = only(found, ModelRequestCompletedEvent)[1]
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens) == (40, 6, 5)
    assert [event.reasoning_content for event in only(found, RunContentEvent) if event.reasoning_content] == [
        "hm"
    ]
    first, second = model.requests
    assert [message.role for message in second.messages] == ["user", "assistant", "tool", "tool"]
    assert len(first.messages) == 1
    assert first.tools[0]["function"]["name"] == "add"
    assert first.streamed


async def test_a_gate_holds_the_stream_until_it_is_opened() -> None:
    gate = asyncio.Event()
    model = ScriptedModel(turns=[["before", gate, Pause(0.001), "after"]])
    stream = Agent(model=model, telemetry=False).arun("go", stream=True)
    texts: list[str] = []
    async for event in stream:
        texts.append(str(event.content))
        assert gate.is_set() == (texts[-1] == "after")
        gate.set()
    assert texts == ["before", "after"]


async def test_an_exception_fails_the_run_where_it_stands() -> None:
    model = ScriptedModel(turns=[["half ", ModelProviderError("boom", status_code=529)]])
    found = await events(model)
    assert [event.content for event in only(found, RunContentEvent)] == ["half "]
    assert only(found, RunErrorEvent)[0].content == "boom"


class Person(BaseModel):
    name: str


async def test_structured_output_is_asked_for_in_one_piece() -> None:
    parts: list[Step] = [Reasoning("who?"), '{"name": ', '"Ada"}', TokenUsage(7, 3)]
    model = ScriptedModel(turns=[parts])
    found = await events(model, output_schema=Person)
    assert only(found, RunCompletedEvent)[0].content == Person(name="Ada")
    assert only(found, ModelRequestCompletedEvent)[0].output_tokens == 3
    assert model.requests[0].response_format is Person
    assert not model.requests[0].streamed


async def test_a_responder_follows_the_script_and_copies_share_it() -> None:
    def answer(request: Request) -> list[Step]:
        return [f"you said {request.messages[-1].content}"]

    model = ScriptedModel(turns=[["scripted"]], respond=answer)
    contents = [
        only(await events(copy.deepcopy(model), text), RunCompletedEvent)[0].content for text in ("a", "b")
    ]
    assert contents == ["scripted", "you said b"]
    assert len(model.requests) == 2


async def test_an_exhausted_script_says_so() -> None:
    found = await events(ScriptedModel())
    assert only(found, RunErrorEvent)[0].content == "request 1 came, but the script has only 0 turns"


def test_it_refuses_to_run_without_an_event_loop() -> None:
    with pytest.raises(TypeError, match="asynchronous only"):
        ScriptedModel().invoke(messages=[])
    with pytest.raises(TypeError, match="asynchronous only"):
        ScriptedModel().invoke_stream(messages=[])
