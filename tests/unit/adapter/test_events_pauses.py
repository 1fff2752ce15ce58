"""What a paused run waits for, from Agno's requirements."""

from enum import Enum
from typing import Any, Literal

import pytest
from agno.models.response import ToolExecution
from agno.run import agent, team
from agno.run.requirement import RunRequirement
from agno.tools.function import UserFeedbackOption, UserFeedbackQuestion, UserInputField
from google.protobuf import json_format
from pydantic import BaseModel

from dragoman.adapter.events import requirements
from dragoman.v1 import event_pb2


class Size(Enum):
    SMALL = "small"
    LARGE = "large"


class Address(BaseModel):
    street: str
    size: Size


def requirement(**values: Any) -> RunRequirement:
    tool = ToolExecution(tool_call_id="call_1", tool_name="send", tool_args={"to": "x@y.z"}, **values)
    return RunRequirement(tool, id="req-1")


def one(wanted: RunRequirement, **more: Any) -> event_pb2.Requirement:
    (message,) = requirements(agent.RunPausedEvent(run_id="root", requirements=[wanted]), **more)
    return message


QUESTIONS = [
    UserFeedbackQuestion(
        question="Which?",
        header="Choice",
        options=[UserFeedbackOption(label="A", description="the first"), UserFeedbackOption(label="B")],
        multi_select=True,
    )
]


@pytest.mark.parametrize(
    ("values", "need"),
    [
        ({"requires_confirmation": True}, "confirmation"),
        ({"external_execution_required": True}, "external_execution"),
        ({"requires_user_input": True, "user_input_schema": [UserInputField("to", str)]}, "user_input"),
        ({"requires_user_input": True, "user_feedback_schema": QUESTIONS}, "user_feedback"),
        ({"external_execution_required": True, "requires_confirmation": True}, "external_execution"),
    ],
)
def test_needs(values: dict[str, Any], need: str) -> None:
    message = one(requirement(**values))

    assert message.WhichOneof("need") == need
    assert message.id == "req-1"
    assert (message.tool_call.id, message.tool_call.name) == ("call_1", "send")
    assert dict(message.tool_call.arguments) == {"to": "x@y.z"}
    assert not message.HasField("member")


def test_questions() -> None:
    (question,) = one(requirement(user_feedback_schema=QUESTIONS)).user_feedback.questions

    assert (question.header, question.question, question.multi_select) == ("Choice", "Which?", True)
    assert [(o.label, o.description) for o in question.options] == [("A", "the first"), ("B", "")]


def test_fields_are_a_json_schema() -> None:
    fields = [
        UserInputField("to", str, "Who gets it"),
        UserInputField("copies", int, value=2),
        UserInputField("tone", Literal["warm", "cool"]),  # type: ignore[arg-type]  # Agno passes annotations on
        UserInputField("note", str | None),  # type: ignore[arg-type]  # likewise
        UserInputField("where", Address),
        UserInputField("stored", "float"),  # type: ignore[arg-type]  # likewise, when it was stored
        UserInputField("odd", object()),  # type: ignore[arg-type]  # likewise
    ]
    message = one(requirement(requires_user_input=True, user_input_schema=fields))

    schema = json_format.MessageToDict(message.user_input.schema)
    assert schema["type"] == "object"
    assert schema["required"] == ["to", "tone", "note", "where", "stored", "odd"]
    assert schema["properties"]["to"] == {"type": "string", "description": "Who gets it"}
    assert schema["properties"]["copies"] == {"type": "integer", "default": 2}
    assert schema["properties"]["tone"]["enum"] == ["warm", "cool"]
    assert schema["properties"]["note"]["anyOf"] == [{"type": "string"}, {"type": "null"}]
    assert schema["properties"]["where"]["properties"]["size"] == {"$ref": "#/$defs/Size"}
    assert schema["$defs"]["Size"]["enum"] == ["small", "large"]
    assert schema["properties"]["stored"] == {"type": "number"}
    assert schema["properties"]["odd"] == {}


def test_only_what_is_open() -> None:
    done, open_ = requirement(requires_confirmation=True), requirement(requires_confirmation=True)
    done.confirm()  # type: ignore[no-untyped-call]  # Agno leaves it without annotations

    assert len(requirements(agent.RunPausedEvent(requirements=[done, open_]))) == 1
    assert requirements(agent.RunPausedEvent(requirements=None)) == []


def test_a_members_requirement_names_it() -> None:
    wanted = requirement(requires_confirmation=True)
    wanted.member_agent_id, wanted.member_agent_name, wanted.member_run_id = "w", "Writer", "writer-run"
    event = team.RunPausedEvent(run_id="root", requirements=[wanted])

    (message,) = requirements(event)
    assert message.member == event_pb2.Member(agent_name="Writer", run_id="writer-run", parent_run_id="root")
    nested = event_pb2.Member(agent_name="Writer", run_id="writer-run", parent_run_id="desk-run")
    (message,) = requirements(event, {"writer-run": nested})
    assert message.member == nested


def test_a_requirement_from_storage_is_the_same() -> None:
    fresh = requirement(requires_user_input=True, user_input_schema=[UserInputField("to", str, "Who")])

    assert one(RunRequirement.from_dict(fresh.to_dict())) == one(fresh)
