"""A paused run as bytes, and back: what it needs to go on in another process, after any number of restarts.

    {"schema": 1, "message": ..., "inputs": ..., "media_kinds": [...],      what the agent's author was told of the run
     "output": {...}, "messages": [...], "media": {sha256: ...}}            where Agno stood

Agno's own form of a run's output loses parts of messages (see `messages`), so these are written as the store has them, with
their large media apart and once. All messages are kept, those of the system and of the history too: what the model is sent
next begins, byte for byte, with what it was sent before.

On the way back every resolution is applied to the tool call that waits for it. Agno's requirements come back with copies of
these calls; unless they are linked again, what was confirmed counts as refused.
"""

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from agno.models.message import Message
from agno.models.response import ToolExecution
from agno.run.agent import RunOutput
from agno.run.requirement import RunRequirement
from google.protobuf import json_format

from dragoman.adapter import messages as rows
from dragoman.adapter.values import plain
from dragoman.engine.ports import Continuation, InputMedia, MediaKind, RunOrder
from dragoman.records import Media
from dragoman.v1 import run_service_pb2

SCHEMA: Final = 1


class NotContinuable(Exception):
    """What was kept of the run cannot be taken up: another version wrote it, or the agent has changed since."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A paused run, ready to go on."""

    order: RunOrder
    """As the run was asked for at first."""
    output: RunOutput
    """Its requirements are resolved."""


def freeze(order: RunOrder, output: RunOutput) -> bytes:
    """The run as it stands. Takes as long as encoding all of its messages. Raises Unstorable."""
    media: dict[str, dict[str, str]] = {}
    messages: list[Any] = []
    for message in output.messages or ():
        encoded = rows.encode(message)
        messages.append(json.loads(encoded.parts))
        for medium in encoded.media:
            data = base64.b64encode(medium.data).decode("ascii")
            media[medium.id] = {"mime_type": medium.mime_type, "data": data}
    document = {
        "schema": SCHEMA,
        "message": order.message,
        "inputs": dict(order.inputs),
        "media_kinds": [str(medium.kind) for medium in order.media],
        "output": plain(replace(output, messages=None, images=None, input=None).to_dict()),
        "messages": messages,
        "media": media,
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def thaw(order: RunOrder, continuation: Continuation) -> Restored:
    """The run as it stood, with its resolutions applied. Raises NotContinuable."""
    try:
        document = json.loads(continuation.state)
        if document["schema"] != SCHEMA:
            raise NotContinuable(f"it was paused by another version (schema {document['schema']})")
        media = {
            bytes.fromhex(sha256): Media(
                bytes.fromhex(sha256), kept["mime_type"], base64.b64decode(kept["data"])
            )
            for sha256, kept in document["media"].items()
        }
        output = RunOutput.from_dict(document["output"])
        output.messages = [_message(parts, media) for parts in document["messages"]]
        first = replace(
            order,
            message=document["message"],
            inputs=document["inputs"],
            media=tuple(InputMedia(MediaKind(kind), "", "", b"") for kind in document["media_kinds"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, LookupError) as error:
        raise NotContinuable("what was kept of it cannot be read") from error
    _resolve(output, continuation.resolutions)
    return Restored(first, output)


def _message(parts: Any, media: Mapping[bytes, Media]) -> Message:
    return rows.decode(json.dumps(parts, ensure_ascii=False).encode(), media)


def _resolve(output: RunOutput, resolutions: Sequence[run_service_pb2.Resolution]) -> None:
    """Applies the resolutions. Raises NotContinuable when something is left open."""
    tools = {tool.tool_call_id: tool for tool in output.tools or ()}
    given = {resolution.requirement_id: resolution for resolution in resolutions}
    for requirement in output.requirements or ():
        _link(requirement, tools)
        if requirement.is_resolved():
            continue
        resolution = given.get(requirement.id)
        if resolution is None:
            raise NotContinuable("a requirement is not resolved")
        try:
            _apply(requirement, resolution)
        except (ValueError, TypeError) as error:
            raise NotContinuable("a resolution does not fit its requirement") from error
        if not requirement.is_resolved():
            raise NotContinuable("a resolution leaves its requirement open")


def _link(requirement: RunRequirement, tools: Mapping[str | None, ToolExecution]) -> None:
    """Makes the requirement one of the run's own tool call again, instead of a copy's."""
    if requirement.tool_execution is None:
        return
    tool = tools.get(requirement.tool_execution.tool_call_id)
    if tool is None:
        raise NotContinuable("a tool call that waits is not there")
    requirement.tool_execution = tool


def _apply(requirement: RunRequirement, resolution: run_service_pb2.Resolution) -> None:
    match resolution.WhichOneof("answer"):
        case "confirmation" if resolution.confirmation.confirmed:
            requirement.confirm()  # type: ignore[no-untyped-call]  # Agno's
        case "confirmation":
            requirement.reject(resolution.confirmation.note or None)
        case "user_input":
            requirement.provide_user_input(_values(requirement, resolution.user_input))
        case "external_execution":
            requirement.set_external_execution_result(resolution.external_execution.result)
        case "user_feedback":
            requirement.provide_user_feedback(
                {choice.question: list(choice.labels) for choice in resolution.user_feedback.choices}
            )
        case _:
            raise NotContinuable("a resolution says nothing")


def _values(requirement: RunRequirement, given: run_service_pb2.UserInput) -> dict[str, Any]:
    """The values for the fields. Struct knows only floats: a whole number for an integer becomes one again; a field that
    the model had filled in, and the user has left out, keeps its value."""
    values: dict[str, Any] = json_format.MessageToDict(given.values)
    for field in requirement.user_input_schema or ():
        if field.name not in values:
            values[field.name] = field.value
        elif (
            isinstance(value := values[field.name], float) and value.is_integer() and field.field_type is int
        ):
            values[field.name] = int(value)
    return values
