"""The mapping where Agno, tools or authors do odd things: nothing is lost, told twice or raised."""

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from agno.media import Audio, File, Image
from agno.models.message import Citations
from agno.models.response import ToolExecution
from agno.run import agent, team, workflow
from hypothesis import given
from hypothesis import strategies as st
from support.accounts import accounts

from dragoman.adapter.events import HANDLERS, Mapping
from dragoman.adapter.events.tools import MAX_RESULT
from dragoman.v1 import event_pb2, message_pb2
from dragoman.v1.event_pb2 import RunEvent


def show(medium: Any) -> message_pb2.Media:
    if medium.content == b"broken":
        raise ValueError("cannot be shown")
    return message_pb2.Media(
        id=(medium.content or b"").decode(), transcript=getattr(medium, "transcript", "") or ""
    )


def mapping() -> Mapping:
    return Mapping(root_run_id="root", agent_name="lead", accounts=accounts(lambda _: None, show))


def run(*events: object, mapper: Mapping | None = None) -> list[RunEvent]:
    mapper = mapper or mapping()
    return [made for event in events for made in mapper.map(event)]


def kinds(events: Iterable[RunEvent]) -> list[str]:
    return [str(event.WhichOneof("event")) for event in events]


def tool(**values: Any) -> ToolExecution:
    return ToolExecution(**{"tool_call_id": "c1", "tool_name": "add", "result": "boom", **values})


def completed(**values: Any) -> agent.ToolCallCompletedEvent:
    return agent.ToolCallCompletedEvent(run_id="root", tool=tool(**values))


def failed(**values: Any) -> agent.ToolCallErrorEvent:
    return agent.ToolCallErrorEvent(run_id="root", tool=tool(tool_call_error=True, **values), error="boom")


BAD: dict[str, Any] = {"tool_call_error": True}
SAME = tool(tool_call_id=None, **BAD)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ([completed(**BAD), failed()], ["tool_call_failed"]),
        ([failed(), completed(**BAD)], ["tool_call_failed"]),
        ([failed()], ["tool_call_failed"]),
        ([completed(**BAD)], ["tool_call_failed"]),
        (
            [completed(**BAD), completed(**BAD, tool_call_id="c2"), failed(), failed(tool_call_id="c2")],
            ["tool_call_failed"] * 2,
        ),
        (
            [completed(**BAD), completed(tool_call_id="c2"), failed()],
            ["tool_call_failed", "tool_call_completed"],
        ),
        ([completed(**BAD), failed(), completed(**BAD), failed()], ["tool_call_failed"] * 2),
        (
            [
                agent.ToolCallCompletedEvent(run_id="root", tool=SAME),
                agent.ToolCallErrorEvent(run_id="root", tool=SAME),
            ],
            ["tool_call_failed"],
        ),
        ([completed()], ["tool_call_completed"]),
    ],
)
def test_a_failing_tool_fails_once(events: list[object], expected: list[str]) -> None:
    made = run(*events)

    assert kinds(made) == expected
    assert b"boom" not in b"".join(e.tool_call_failed.SerializeToString() for e in made)


def test_the_same_call_id_in_two_runs_is_two_calls() -> None:
    member = agent.ToolCallErrorEvent(run_id="other", agent_name="m", tool=tool(**BAD))

    made = kinds(run(completed(**BAD), member, failed()))

    assert made == ["tool_call_failed", "member_run_started", "tool_call_failed"]


def test_a_declined_tool_says_so() -> None:
    made = run(failed(confirmed=False))

    assert made[0].tool_call_failed.error == "the tool call was declined"


@pytest.mark.parametrize("letter", ["a", "é", "世", "🙂"])
def test_a_long_result_is_cut_between_characters(letter: str) -> None:
    whole = letter * MAX_RESULT
    cut = run(completed(result=whole))[0].tool_call_completed
    exact = run(completed(result="x" * MAX_RESULT))[0].tool_call_completed

    assert whole.startswith(cut.result)
    assert MAX_RESULT - 3 <= len(cut.result.encode()) <= MAX_RESULT
    assert cut.truncated is (letter != "a")
    assert not exact.truncated


@pytest.mark.parametrize("seconds", [None, float("nan"), float("inf"), -1.0])
def test_a_duration_that_is_none_is_unset(seconds: float | None) -> None:
    execution = tool()
    execution.metrics = SimpleNamespace(duration=seconds)  # type: ignore[assignment]  # as odd as it may get

    made = run(agent.ToolCallCompletedEvent(run_id="root", tool=execution))
    assert kinds(made) == ["tool_call_completed"]
    assert not made[0].tool_call_completed.HasField("duration")


def test_media_are_given_out_once_per_run_and_broken_ones_left_out(caplog: pytest.LogCaptureFixture) -> None:
    one, two, broken = (
        Image(content=b"one"),
        Image(content=b"two"),
        File(content=b"broken", mime_type="text/plain"),
    )
    images = [one]
    first = agent.ToolCallCompletedEvent(run_id="root", tool=tool(), images=images, files=[broken])
    second = agent.ToolCallCompletedEvent(run_id="root", tool=tool(), images=images, files=[broken])
    mapper = mapping()

    assert [m.id for m in run(first, mapper=mapper)[0].tool_call_completed.media] == ["one"]
    images.append(two)
    assert [m.id for m in run(second, mapper=mapper)[0].tool_call_completed.media] == ["two"]
    assert [r.message for r in caplog.records] == ["a medium cannot be shown"]
    three = Image(content=b"three")
    end = run(agent.RunCompletedEvent(run_id="root", images=[*images, three]), mapper=mapper)
    assert [e.media_output.media.id for e in end] == ["three"]


def test_sound_is_given_out_whole() -> None:
    pieces = [Audio(content=b"a", transcript="Good "), Audio(content=b"b", transcript="day")]
    made = run(
        *(agent.RunContentEvent(run_id="root", response_audio=piece) for piece in pieces),
        agent.RunContentCompletedEvent(run_id="root"),
    )

    assert kinds(made) == ["media_output", "content_completed"]
    assert (made[0].media_output.media.id, made[0].media_output.media.transcript) == ("ab", "Good day")


def test_sound_of_a_team_is_one_object_that_grows() -> None:
    sound = Audio(content=b"a", transcript="Good ")
    mapper = mapping()
    made = run(team.RunContentEvent(run_id="root", response_audio=sound), mapper=mapper)
    sound.content = b"ab"
    made += run(
        team.RunContentEvent(run_id="root", response_audio=sound, content="!"),
        team.RunContentCompletedEvent(run_id="root"),
        mapper=mapper,
    )

    assert kinds(made) == ["content_delta", "media_output", "content_completed"]
    assert made[1].media_output.media.id == "ab"


def test_one_event_may_be_several() -> None:
    event = agent.RunContentEvent(
        run_id="root", reasoning_content="Hm.", content="Yes", image=Image(content=b"one"), content_type="str"
    )

    assert kinds(run(event)) == ["reasoning_delta", "content_delta", "media_output"]


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"content": ""},
        {"content": "", "reasoning_content": ""},
        {"model_provider_data": {"signature": "sig"}},
        {"content": "", "citations": Citations(raw=[], urls=[], documents=[])},
    ],
)
def test_what_says_nothing_is_no_event(values: dict[str, Any]) -> None:
    assert run(agent.RunContentEvent(run_id="root", **values)) == []


@pytest.mark.parametrize(("reasoning", "left"), [("ThoughtCIPHER", ["Thought"]), ("CIPHER", [])])
def test_redacted_reasoning_is_not_shown(reasoning: str, left: list[str]) -> None:
    blocks = [
        {"type": "redacted_thinking", "data": "CIPHER"},
        {"type": "thinking", "thinking": "Thought"},
        "?",
    ]
    event = agent.RunContentEvent(
        run_id="root", reasoning_content=reasoning, model_provider_data={"content_blocks": blocks}
    )

    assert [e.reasoning_delta.text for e in run(event)] == left


def test_a_cancelled_member_does_not_complete() -> None:
    made = run(
        agent.RunCancelledEvent(run_id="m", agent_name="writer"),
        agent.RunCompletedEvent(run_id="m", agent_name="writer", content="Par"),
    )

    assert kinds(made) == ["member_run_started", "member_run_cancelled"]


def test_a_member_begins_before_its_hooks_and_only_once() -> None:
    made = run(
        agent.PreHookStartedEvent(run_id="m", agent_name="writer", pre_hook_name="check"),
        agent.PreHookCompletedEvent(run_id="m", agent_name="writer", pre_hook_name="check"),
        agent.RunStartedEvent(run_id="m", agent_name="writer", model="haiku"),
        agent.RunContentEvent(run_id="m", agent_name="writer", content="Words"),
    )

    assert kinds(made) == ["member_run_started", "pre_hook_started", "pre_hook_completed", "content_delta"]


def test_a_member_that_had_begun_before_a_pause_does_not_begin_again() -> None:
    member = event_pb2.Member(agent_name="writer", run_id="m", parent_run_id="root")
    mapper = Mapping(
        root_run_id="root",
        agent_name="lead",
        accounts=accounts(lambda _: None, show),
        members=[member],
    )
    made = run(agent.RunContinuedEvent(run_id="m", agent_name="writer"), mapper=mapper)

    assert kinds(made) == ["member_run_continued"]
    assert made[0].member == member


def test_a_team_that_keeps_its_members_to_itself_tells_only_that_they_run() -> None:
    mapper = Mapping(
        root_run_id="root",
        agent_name="lead",
        accounts=accounts(lambda _: None, show),
        silent_teams=["desk"],
    )
    nested: dict[str, Any] = {"run_id": "d", "parent_run_id": "root", "team_id": "desk", "team_name": "Desk"}
    writer: dict[str, Any] = {"run_id": "m", "parent_run_id": "d", "agent_name": "writer"}
    made = run(
        team.RunStartedEvent(**nested),
        team.RunContentEvent(**nested, content="To all: "),
        agent.RunStartedEvent(**writer),
        agent.RunContentEvent(**writer, content="a secret"),
        agent.ToolCallStartedEvent(**writer, tool=tool()),
        agent.RunCompletedEvent(**writer, content="a secret"),
        team.RunCompletedEvent(**nested, content="To all: "),
        mapper=mapper,
    )

    assert [(e.member.agent_name, kind) for e, kind in zip(made, kinds(made), strict=True)] == [
        ("Desk", "member_run_started"),
        ("Desk", "content_delta"),
        ("writer", "member_run_started"),
        ("writer", "member_run_completed"),
        ("Desk", "member_run_completed"),
    ]
    assert b"secret" not in b"".join(event.SerializeToString() for event in made)


def test_members_are_remembered_with_their_parents() -> None:
    mapper = mapping()
    run(
        team.RunStartedEvent(run_id="desk-run", team_name="desk", parent_run_id="root"),
        agent.RunStartedEvent(run_id="writer-run", agent_id="writer", parent_run_id="desk-run"),
        agent.RunContentEvent(run_id="writer-run", agent_id="writer", content="x"),
        mapper=mapper,
    )

    members = mapper.members()
    assert {run_id: (m.agent_name, m.parent_run_id) for run_id, m in members.items()} == {
        "desk-run": ("desk", "root"),
        "writer-run": ("writer", "desk-run"),
    }


class Plain(agent.CustomEvent):
    city = "Paarl"

    def shout(self) -> str:
        """A method is no attribute."""
        return self.city.upper()


@dataclass
class Named(team.CustomEvent):
    name: str = "weather.changed"
    degrees: float = 20.5
    content: Any = None


def custom(kind: Any, **values: Any) -> object:
    return kind(**values)


@pytest.mark.parametrize(
    ("event", "name", "payload"),
    [
        (custom(Plain, run_id="root", wind={"speed": 3}), "Plain", {"city": "Paarl", "wind": {"speed": 3}}),
        (Named(), "weather.changed", {"name": "weather.changed", "degrees": 20.5}),
        (custom(agent.CustomEvent, event="Thing", content="x", run_id=""), "Thing", {"content": "x"}),
        (custom(agent.CustomEvent, event=agent.RunEvent.custom_event, a=1), "CustomEvent", {"a": 1}),
        (custom(Plain, event="own.kind"), "Plain", {"city": "Paarl"}),
        (custom(workflow.CustomEvent, a=[1]), "CustomEvent", {"a": [1]}),
        (custom(team.CustomEvent, big=2**60, _hidden=1), "CustomEvent", {"big": str(2**60)}),
    ],
)
def test_custom_events(event: object, name: str, payload: dict[str, Any]) -> None:
    made = run(event)

    assert kinds(made) == ["custom"]
    assert made[0].custom.name == name
    assert made[0].custom.payload == _struct(payload)
    assert not made[0].HasField("member")


def _struct(payload: dict[str, Any]) -> Any:
    from google.protobuf.struct_pb2 import Struct

    message = Struct()
    message.update(payload)
    return message


@dataclass
class Novel:
    event: str = "SomethingNew"
    run_id: str = "root"
    detail: Any = None
    error: str = "secret"


def test_an_unknown_event_is_kept_counted_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    mapper = mapping()
    made = run(Novel(detail={"a": 1}), Novel(), Novel(run_id="m"), object(), None, mapper=mapper)

    assert kinds(made) == ["unmapped", "unmapped", "member_run_started", "unmapped", "unmapped", "unmapped"]
    assert made[0].unmapped.type == "SomethingNew"
    assert json.loads(made[0].unmapped.json) == {
        "event": "SomethingNew",
        "run_id": "root",
        "detail": {"a": 1},
    }
    assert made[2].member.run_id == "m"
    assert mapper.unmapped == {"SomethingNew": 3, "object": 1, "NoneType": 1}
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 3


def test_an_unknown_event_is_bounded_and_stays_json() -> None:
    made = run(Novel(detail="\n" * 1_000_000), Novel(detail=["x" * 1000] * 1000))

    for event in made:
        assert len(event.unmapped.json.encode()) <= 64 * 1024
        json.loads(event.unmapped.json)


def test_an_event_that_cannot_be_mapped_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    mapper = mapping()
    made = run(agent.ToolCallStartedEvent(run_id="root", tool=None), mapper=mapper)

    assert kinds(made) == ["unmapped"]
    assert mapper.unmapped == {"ToolCallStarted": 1}
    assert caplog.records[0].exc_info


def test_an_event_whose_kind_raises_is_kept() -> None:
    class Trap:
        @property
        def event(self) -> str:
            raise OSError("no kind")

    assert run(Trap())[0].unmapped.type == "Trap"


def test_a_failing_bookkeeper_does_not_end_the_run() -> None:
    def fail(_: object) -> RunEvent:
        raise KeyError("no such call")

    mapper = Mapping(root_run_id="root", agent_name="lead", accounts=accounts(fail, show))
    assert kinds(mapper.map(agent.ModelRequestCompletedEvent(run_id="root", model="m"))) == ["unmapped"]


def test_a_bookkeeper_may_keep_silent() -> None:
    assert run(agent.ModelRequestCompletedEvent(run_id="root", model="m")) == []


def test_the_output_of_the_run_is_no_event() -> None:
    assert run(agent.RunOutput(run_id="root"), team.TeamRunOutput(run_id="root")) == []


def test_a_lone_surrogate_does_not_stop_the_text() -> None:
    made = run(agent.RunContentEvent(run_id="root", content="a\ud800b"))

    assert made[0].content_delta.text == "a\ufffdb"


@given(st.text(min_size=1), st.integers(1, 3))
def test_a_character_that_comes_in_halves_is_whole(text: str, size: int) -> None:
    units = [*text.encode("utf-16-le", "surrogatepass")]
    halves = "".join(chr(low | high << 8) for low, high in zip(units[::2], units[1::2], strict=True))
    pieces = [halves[at : at + size] for at in range(0, len(halves), size)]

    made = run(*(agent.RunContentEvent(run_id="root", content=piece) for piece in pieces))

    assert "".join(event.content_delta.text for event in made) == text
    assert all(event.content_delta.text for event in made)


def test_half_a_character_waits_for_its_own_run() -> None:
    made = run(
        agent.RunContentEvent(run_id="root", content="a\ud83d"),
        agent.RunContentEvent(run_id="member", parent_run_id="root", content="b"),
        agent.RunContentEvent(run_id="root", content="\ude00\ud83d"),
        agent.RunContentEvent(run_id="root", content="c"),
    )

    texts = [event.content_delta.text for event in made if event.HasField("content_delta")]
    assert texts == ["a", "b", "\U0001f600", "\ufffdc"]


ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(),
    st.binary(max_size=20),
    st.lists(st.integers(), max_size=3),
    st.dictionaries(st.text(max_size=3), st.text(max_size=3), max_size=3),
    st.builds(object),
)
CLASSES = sorted(
    {*agent.RUN_EVENT_TYPE_REGISTRY.values(), *team.TEAM_RUN_EVENT_TYPE_REGISTRY.values()},
    key=lambda c: str(c),
)


@given(
    st.sampled_from(CLASSES),
    st.dictionaries(st.sampled_from(sorted({*vars(completed()), "detail", "metrics"})), ODD),
)
def test_whatever_an_event_carries_nothing_raises(kind: type, values: dict[str, Any]) -> None:
    event = kind(run_id="root")
    for key, value in values.items():
        setattr(event, key, value)

    for made in mapping().map(event):
        assert RunEvent.FromString(made.SerializeToString()) == made
        assert made.WhichOneof("event")


@given(st.sampled_from(sorted(HANDLERS)), ODD)
def test_whatever_claims_to_be_an_event_nothing_raises(kind: str, run_id: Any) -> None:
    mapping().map(SimpleNamespace(event=kind, run_id=run_id))
    mapping().map(SimpleNamespace(event=run_id, run_id="root"))
