"""What a paused run waits for: Agno's requirements as `dragoman.v1.Requirement`.

Only what is still open is named. A tool that needs several things is shown with the most specific one, in Agno's own
order: choices, then execution by the caller, then values for fields, then a yes or a no.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from agno.models.response import ToolExecution
from agno.run.agent import RunPausedEvent
from agno.run.requirement import RunRequirement
from agno.run.team import RunPausedEvent as TeamRunPausedEvent
from agno.tools.function import UserFeedbackQuestion, UserInputField
from pydantic import TypeAdapter

from dragoman.adapter.values import clean, plain, to_struct
from dragoman.v1 import event_pb2, message_pb2

_TYPES_BY_NAME = {"str": str, "int": int, "float": float, "bool": bool, "list": list, "dict": dict}


def requirements(
    event: RunPausedEvent | TeamRunPausedEvent, members: Mapping[str, event_pb2.Member] | None = None
) -> list[event_pb2.Requirement]:
    """What the run waits for, in Agno's order.

    `members` are those seen in the run, by run id: they tell a nested member's parent, which the requirement does
    not say. A member that is not among them is taken for one of the event's own run.
    """
    known = members or {}
    return [
        _requirement(requirement, event.run_id or "", known)
        for requirement in event.requirements or ()
        if not requirement.is_resolved()
    ]


def tool_call(tool: ToolExecution) -> message_pb2.ToolCall:
    """The tool call that an execution is of."""
    return message_pb2.ToolCall(
        id=clean(tool.tool_call_id or ""),
        name=clean(tool.tool_name or ""),
        arguments=to_struct(tool.tool_args or {}),
    )


def _requirement(
    requirement: RunRequirement, run_id: str, known: Mapping[str, event_pb2.Member]
) -> event_pb2.Requirement:
    message = event_pb2.Requirement(id=requirement.id)
    if requirement.tool_execution is not None:
        message.tool_call.CopyFrom(tool_call(requirement.tool_execution))
    if requirement.member_run_id:
        message.member.CopyFrom(
            known.get(requirement.member_run_id)
            or event_pb2.Member(
                agent_name=clean(requirement.member_agent_name or requirement.member_agent_id or ""),
                run_id=requirement.member_run_id,
                parent_run_id=run_id,
            )
        )
    if requirement.needs_user_feedback:
        message.user_feedback.questions.extend(_question(q) for q in requirement.user_feedback_schema or ())
    elif requirement.needs_external_execution:
        message.external_execution.SetInParent()
    elif requirement.needs_user_input:
        message.user_input.schema.CopyFrom(to_struct(input_schema(requirement.user_input_schema or ())))
    else:
        message.confirmation.SetInParent()
    return message


def _question(question: UserFeedbackQuestion) -> event_pb2.UserQuestion:
    return event_pb2.UserQuestion(
        header=clean(question.header or ""),
        question=clean(question.question),
        options=[
            event_pb2.UserQuestionOption(
                label=clean(option.label), description=clean(option.description or "")
            )
            for option in question.options or ()
        ],
        multi_select=question.multi_select,
    )


def input_schema(fields: Sequence[UserInputField]) -> dict[str, Any]:
    """JSON Schema of an object with the fields. One that the model has filled in has that value as its default."""
    properties: dict[str, Any] = {}
    definitions: dict[str, Any] = {}
    for field in fields:
        schema = _schema_of(field.field_type)
        definitions.update(schema.pop("$defs", {}))  # references are from the root: `#/$defs/...`
        if field.description:
            schema["description"] = field.description
        if field.value is not None:
            schema["default"] = plain(field.value)
        properties[field.name] = schema
    whole: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "required": [field.name for field in fields if field.value is None],
        "additionalProperties": False,
    }
    if definitions:
        whole["$defs"] = definitions
    return whole


def _schema_of(annotation: Any) -> dict[str, Any]:
    """The schema of a parameter's annotation; one that has none takes any value."""
    try:
        return TypeAdapter(
            _TYPES_BY_NAME.get(annotation, str) if isinstance(annotation, str) else annotation
        ).json_schema()
    except Exception:  # noqa: BLE001  an annotation may be anything, and Pydantic raises many classes
        return {}
