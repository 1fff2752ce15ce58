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
from dragoman.adapter.guards import Tools
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
    """Its requirements are resolved. Agno notes in it what it has done since."""
    awaited: frozenset[str]
    """The tool calls that it was paused for."""

    def unanswered(self, tools: Tools) -> bool:
        """Whether Agno has yet to deal with one of them: it passes over a tool that the agent has lost."""
        return any(tool.is_paused for tool in self._awaited() if tool.tool_call_id not in tools.answers)

    def answers(self, tools: Tools) -> list[Message]:
        """What has come of them; what the caller has executed is among it from the beginning."""
        for tool in self._awaited():
            key = str(tool.tool_call_id)
            executed = tool.external_execution_required is not None and tool.result is not None
            if executed and key not in tools.answers:
                tools.answers[key] = Message(
                    role="tool",
                    content=tool.result,
                    tool_call_id=tool.tool_call_id,
                    tool_name=tool.tool_name,
                    tool_args=tool.tool_args,
                )
        return list(tools.answers.values())

    def _awaited(self) -> list[ToolExecution]:
        return [tool for tool in self.output.tools or () if tool.tool_call_id in self.awaited]


def freeze(order: RunOrder, output: RunOutput) -> bytes:
    """The run as it stands. Takes as long as encoding all of its messages."""
    media: dict[str, dict[str, str]] = {}
    messages: list[Any] = []
    for message in output.messages or ():
        encoded = _encoded(message)
        messages.append(json.loads(encoded.parts))
        for medium in encoded.media:
            data = base64.b64encode(medium.data).decode("ascii")
            media[medium.id] = {"mime_type": medium.mime_type, "data": data}
    document = {
        "schema": SCHEMA,
        "message": order.message,
        "inputs": dict(order.inputs),
        "media_kinds": [str(medium.kind) for medium in order.media],
        "output": replace(output, messages=None, images=None, input=None).to_dict(),
        "messages": messages,
        "media": media,
    }
    return _dumps(document)


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
    awaited = frozenset(str(tool.tool_call_id) for tool in output.tools or () if tool.is_paused)
    _resolve(output, continuation.resolutions)
    return Restored(first, output, awaited)


def _dumps(document: object) -> bytes:
    """JSON that only `thaw` reads: nothing is cut or rounded, and half characters are kept as they are."""
    try:
        text = json.dumps(document, ensure_ascii=False, separators=(",", ":"), default=_foreign)
    except (TypeError, ValueError, RecursionError):  # keys that are no texts, cycles
        text = json.dumps(_foreign(document), ensure_ascii=False, separators=(",", ":"))
    return text.encode("utf-8", "surrogatepass")


def _foreign(value: object) -> object:
    return plain(value, max_bytes=rows.MAX_PLAIN_BYTES)


def _encoded(message: Message) -> rows.Encoded:
    """As the message is stored."""
    try:
        return rows.encode(message)
    except rows.Unstorable:
        return rows.encode(message, strict=False)


def _message(parts: Any, media: Mapping[bytes, Media]) -> Message:
    return rows.decode(json.dumps(parts, ensure_ascii=False).encode(), media)


def _resolve(output: RunOutput, resolutions: Sequence[run_service_pb2.Resolution]) -> None:
    """Applies the resolutions. Raises NotContinuable when something is left open."""
    tools = {tool.tool_call_id: tool for tool in output.tools or ()}
    # Of a call with several needs Agno keeps one entry for each, but asks for the last one only.
    output.tools = [
        tool for tool in output.tools or () if not tool.is_paused or tools[tool.tool_call_id] is tool
    ]
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
    answer = resolution.WhichOneof("answer")
    match answer:
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
    if answer != "confirmation" and (tool := requirement.tool_execution) is not None:
        tool.answered = True  # also by a null that its schema allows, which Agno takes for no answer


def _values(requirement: RunRequirement, given: run_service_pb2.UserInput) -> dict[str, Any]:
    """The values for the fields. One that the model had filled in, and the user has left out, keeps its value."""
    values: dict[str, Any] = json_format.MessageToDict(given.values)
    for field in requirement.user_input_schema or ():
        if field.name not in values:
            if field.value is None:
                raise NotContinuable("a field has no value")
            values[field.name] = field.value
        elif field.field_type is not float:
            values[field.name] = _whole(values[field.name])
    return values


def _whole(value: Any) -> Any:
    """The value with its whole numbers as such: Struct knows only floats."""
    match value:
        case float() if value.is_integer():
            return int(value)
        case list():
            return [_whole(item) for item in value]
        case dict():
            return {key: _whole(item) for key, item in value.items()}
        case _:
            return value
