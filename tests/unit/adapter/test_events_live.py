"""Whole runs of real Agno agents and teams with a scripted model, through the mapping."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from agno.agent import Agent
from agno.media import Image
from agno.run.agent import CustomEvent
from agno.team import Team, TeamMode
from agno.tools.function import ToolResult
from pydantic import BaseModel
from support.accounts import accounts

from dragoman.adapter.events import Mapping
from dragoman.records import TokenUsage, Totals
from dragoman.testing.scripted import Reasoning, ScriptedModel, ToolCall
from dragoman.v1 import event_pb2, message_pb2
from dragoman.v1.event_pb2 import RunEvent

ROOT = "0192f0c1-0000-7000-8000-000000000001"
USAGE = TokenUsage(input_tokens=4, output_tokens=2)


@dataclass
class Looked(CustomEvent):
    where: str = ""
    found: int = 0


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def explode(reason: str) -> str:
    """Fails."""
    raise RuntimeError(f"secret of the tool: {reason}")


async def look(where: str) -> AsyncIterator[object]:
    """Looks around and tells of it."""
    yield Looked(where=where, found=3)
    yield "three things"


def paint() -> ToolResult:
    """Makes a picture."""
    return ToolResult(content="painted", images=[Image(content=b"png", mime_type="image/png")])


async def play(thing: Agent | Team) -> list[RunEvent]:
    """All our events of one run."""
    mapping = Mapping(
        root_run_id=ROOT,
        agent_name="lead",
        accounts=accounts(
            lambda event: RunEvent(
                model_request_completed=event_pb2.ModelRequestCompleted(model=event.model)
            ),
            lambda medium: message_pb2.Media(id=(medium.content or b"").decode()),
            Totals(USAGE, currency="ZAR", model_calls=1, unpriced_calls=1),
        ),
    )
    events: list[RunEvent] = []
    stream = thing.arun("Hello", stream=True, stream_events=True, yield_run_output=True, run_id=ROOT)
    async for event in stream:
        events += mapping.map(event)
    assert not mapping.unmapped
    return events


def names(events: list[RunEvent]) -> list[str]:
    """Which events, those of members with the member's name."""
    return [
        f"{e.member.agent_name}:{e.WhichOneof('event')}"
        if e.HasField("member")
        else str(e.WhichOneof("event"))
        for e in events
    ]


def text(events: list[RunEvent]) -> str:
    """What the run's own agent says."""
    return "".join(e.content_delta.text for e in events if not e.HasField("member"))


async def test_text_thinking_and_tools() -> None:
    model = ScriptedModel(
        turns=[
            [
                Reasoning("I will ", signature=None),
                Reasoning("call.", signature="sig"),
                ToolCall("add", {"a": 1, "b": 2}),
                ToolCall("explode", {"reason": "boom"}),
                ToolCall("look", {"where": "attic"}),
                ToolCall("nothing_like_it", {}),
                USAGE,
            ],
            [ToolCall("paint"), USAGE],
            [ToolCall("add", {"a": 3, "b": 4}), USAGE],
            ["All ", "done.", USAGE],
        ]
    )
    events = await play(Agent(model=model, tools=[add, explode, look, paint], telemetry=False))

    assert text(events) == "All done."
    assert "".join(e.reasoning_delta.text for e in events) == "I will call."
    started = [e.tool_call_started.tool_call for e in events if e.HasField("tool_call_started")]
    assert [(call.id, call.name) for call in started] == [
        ("call_1", "add"),
        ("call_2", "explode"),
        ("call_3", "look"),
        ("call_5", "paint"),
        ("call_6", "add"),
    ]
    assert dict(started[0].arguments) == {"a": 1, "b": 2}
    failed = [e.tool_call_failed for e in events if e.HasField("tool_call_failed")]
    assert [(f.tool_call_id, f.tool_name, f.error) for f in failed] == [
        ("call_2", "explode", "the tool raised an error")
    ]
    assert b"secret" not in b"".join(e.SerializeToString() for e in events)
    completed = {e.tool_call_completed.tool_call_id: e.tool_call_completed for e in events}
    assert completed["call_1"].result == "3"
    assert completed["call_1"].HasField("duration")
    assert [medium.id for medium in completed["call_5"].media] == ["png"]
    assert not completed["call_6"].media, "Agno repeats the picture with each later call"
    custom = [e.custom for e in events if e.HasField("custom")]
    assert [(c.name, dict(c.payload), c.tool_call_id) for c in custom] == [
        ("Looked", {"where": "attic", "found": 3}, "call_3")
    ]
    assert names(events).count("model_request_started") == 4
    assert names(events)[-2:] == ["model_request_completed", "content_completed"]


class Answer(BaseModel):
    value: int
    why: str


async def test_a_structured_answer() -> None:
    model = ScriptedModel(turns=[['{"value": 42, "why": "so"}', USAGE]])
    events = await play(Agent(model=model, output_schema=Answer, telemetry=False))

    answers = [e.structured_content for e in events if e.HasField("structured_content")]
    assert [a.schema_name for a in answers] == ["Answer"]
    assert dict(answers[0].value.struct_value) == {"value": 42, "why": "so"}
    assert text(events) == ""


async def test_a_structured_answer_that_is_no_json_is_text() -> None:
    model = ScriptedModel(turns=[["not JSON", USAGE]])
    events = await play(Agent(model=model, output_schema=Answer, telemetry=False))

    assert "structured_content" not in names(events)
    assert text(events) == "not JSON"


async def test_a_failing_run_gives_no_end_of_its_own() -> None:
    model = ScriptedModel(turns=[["Par", RuntimeError("secret")]])
    events = await play(Agent(model=model, telemetry=False))

    assert names(events) == ["model_request_started", "content_delta"]


def _member(*turns: Any) -> Agent:
    return Agent(id="writer", name="Writer", model=ScriptedModel(turns=turns), telemetry=False)


async def test_a_coordinating_team_tells_its_members_apart() -> None:
    leader = ScriptedModel(
        turns=[
            [ToolCall("delegate_task_to_member", {"member_id": "writer", "task": "Write"}), USAGE],
            ["It is written.", USAGE],
        ]
    )
    events = await play(Team(members=[_member(["A li", "ne.", USAGE])], model=leader, telemetry=False))

    assert text(events) == "It is written."
    of_writer = [e for e in events if e.HasField("member")]
    assert {(e.member.agent_name, e.member.parent_run_id) for e in of_writer} == {("Writer", ROOT)}
    assert len({e.member.run_id for e in of_writer}) == 1
    assert names(of_writer) == [
        f"Writer:{name}"
        for name in (
            "member_run_started",
            "model_request_started",
            "content_delta",
            "content_delta",
            "model_request_completed",
            "content_completed",
            "member_run_completed",
        )
    ]
    assert of_writer[-1].member_run_completed.content == "A line."
    assert of_writer[-1].member_run_completed.usage.total_tokens == USAGE.total_tokens
    assert of_writer[-1].member_run_completed.cost.unpriced_calls == 1


async def test_a_routing_team_says_its_members_words_once() -> None:
    leader = ScriptedModel(
        turns=[[ToolCall("delegate_task_to_member", {"member_id": "writer", "task": "Write"}), USAGE]]
    )
    team = Team(members=[_member(["A li", "ne.", USAGE])], model=leader, mode=TeamMode.route, telemetry=False)
    events = await play(team)

    assert [e.content_delta.text for e in events if e.HasField("content_delta")] == ["A li", "ne."]
    assert text(events) == "A line."


async def test_a_failing_member_is_told_and_the_team_goes_on() -> None:
    leader = ScriptedModel(
        turns=[
            [ToolCall("delegate_task_to_member", {"member_id": "writer", "task": "Write"}), USAGE],
            ["Nobody wrote.", USAGE],
        ]
    )
    events = await play(Team(members=[_member([ValueError("secret")])], model=leader, telemetry=False))

    failed = [e.member_run_failed for e in events if e.HasField("member_run_failed")]
    assert [f.error.message for f in failed] == ["agent 'Writer' failed in its own code"]
    assert b"secret" not in b"".join(f.SerializeToString() for f in failed)
    assert text(events) == "Nobody wrote."


@pytest.mark.parametrize("runs", [2])
async def test_runs_at_once_do_not_mix(runs: int) -> None:
    agents = [Agent(model=ScriptedModel(turns=[[f"run {n}", USAGE]]), telemetry=False) for n in range(runs)]

    assert [text(events) for events in await asyncio.gather(*map(play, agents))] == ["run 0", "run 1"]
