"""A paused run as bytes, and back: what it needs to go on in another process, after any number of restarts.

    {"schema": 1, "message": ..., "inputs": ..., "media_kinds": [...],      what the agent's author was told of the run
     "output": {...}, "messages": [...],                                    where Agno stood
     "media": {sha256: ...},                                                what messages refer to, members' included
     "members": [...],                                                      the same of its members' runs
     "begun": [...],                                                        who the members are, and what each has spent
     "results": {run id: [...]}}                                            what leaders are to be told of their members

Agno's own form of a run's output loses parts of messages (see `messages`), so these are written as the store has them, with
their large media apart and once. All messages are kept, those of the system and of the history too: what the model is sent
next begins, byte for byte, with what it was sent before. The last three are there for a team only.

On the way back every resolution is applied to the tool call that waits for it. Agno's requirements come back with copies of
these calls; unless they are linked again, what was confirmed counts as refused. A member's requirement keeps its copy: Agno
itself hands it to the member's run.

While a member waits, its leader's tool has a result that says so, and that Agno replaces when the member is done. Such a
message, and those after it, are not of the conversation yet: `settled` leaves them out.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final, TypeAlias

from agno.models.message import Message
from agno.models.response import ToolExecution
from agno.run.agent import RunOutput
from agno.run.requirement import RunRequirement
from agno.run.team import TeamRunOutput
from google.protobuf import json_format

from dragoman.adapter import messages as rows
from dragoman.adapter.guards import Tools
from dragoman.adapter.values import plain
from dragoman.engine.ports import Continuation, InputMedia, MediaKind, RunOrder
from dragoman.records import Media, TokenUsage, Totals
from dragoman.v1 import event_pb2, run_service_pb2

SCHEMA: Final = 1

WAITING: Final = "requires human input"
"""By these words in a tool's result Agno knows, and so do we, that a member waits."""

RESULTS: Final = "Member results after human-in-the-loop resolution:"

Output: TypeAlias = RunOutput | TeamRunOutput


class NotContinuable(Exception):
    """What was kept of the run cannot be taken up: another version wrote it, or the agent has changed since."""


@dataclass(frozen=True, slots=True)
class Begun:
    """A member whose run has begun."""

    member: event_pb2.Member
    spent: Totals
    """What its own calls have come to by now."""


@dataclass(frozen=True, slots=True)
class Restored:
    """A paused run, ready to go on."""

    order: RunOrder
    """As the run was asked for at first."""
    output: Output
    """Its requirements are resolved. Agno notes in it what it has done since."""
    awaited: frozenset[str]
    """The tool calls that it was paused for, members' included."""
    begun: tuple[Begun, ...] = ()
    """The members whose runs have begun, in order."""
    results: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """What members came to that were done before the pause, by their leaders' runs, which have not been told yet."""
    of_members: tuple[tuple[str, ToolExecution], ...] = ()
    """Those of the tool calls that are members', with their runs."""

    def unanswered(self, tools: Tools, run_id: str | None) -> bool:
        """Whether Agno has yet to deal with one of a run's calls: it passes over a tool that the agent has lost.

        The run itself has to wait for those of its members as well.
        """
        waiting = [tool for of, tool in self.of_members if run_id in (of, self.output.run_id)]
        if run_id == self.output.run_id:
            waiting += self._own()
        return any(tool.is_paused for tool in waiting if tool.tool_call_id not in tools.answers)

    def answers(self, tools: Tools) -> list[Message]:
        """What has come of the run's own calls; what the caller has executed is among it from the beginning."""
        return _answers(self._own(), tools)

    def answers_of(self, member_run_id: str, tools: Tools) -> list[Message]:
        """What has come of a member's calls."""
        return _answers([tool for run_id, tool in self.of_members if run_id == member_run_id], tools)

    def waiting(self) -> Iterator[tuple[str | None, ToolExecution]]:
        """The tool calls that the run was paused for, members' included, with their runs. Their resolutions are applied."""
        for tool in self._own():
            yield self.output.run_id, tool
        yield from self.of_members

    def outputs(self) -> Iterator[Output]:
        """Its own, and those of its members, theirs included."""
        return _outputs(self.output)

    def _own(self) -> list[ToolExecution]:
        return [tool for tool in self.output.tools or () if tool.tool_call_id in self.awaited]


def inform(messages: Sequence[Message], results: Sequence[str]) -> None:
    """Gives a leader the results of its members that have waited. The words are Agno's.

    Agno does so itself, but not for a leader that has also waited for a tool of its own, and of members that are done while
    others wait again it keeps no result.
    """
    last = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=-1)
    for message in messages[last + 1 :]:
        content = message.content if message.role == "tool" and isinstance(message.content, str) else ""
        if WAITING in content.lower() or content.startswith(RESULTS):
            message.content = "\n".join((RESULTS, *results))


def settled(messages: Sequence[Message]) -> list[Message]:
    """The messages of a paused run that stay as they are, in order."""
    last = max((at for at, message in enumerate(messages) if message.role == "assistant"), default=-1)
    for at in range(last + 1, len(messages)):
        content = messages[at].content
        if messages[at].role == "tool" and isinstance(content, str) and WAITING in content.lower():
            return list(messages[:at])
    return list(messages)


def freeze(
    order: RunOrder,
    output: Output,
    begun: Sequence[Begun] = (),
    results: Mapping[str, Sequence[str]] | None = None,
) -> bytes:
    """The run as it stands. Takes as long as encoding all of its messages."""
    media: dict[str, dict[str, str]] = {}
    document = {
        "schema": SCHEMA,
        "message": order.message,
        "inputs": dict(order.inputs),
        "media_kinds": [str(medium.kind) for medium in order.media],
        **_frozen(output, media),
        "media": media,
    }
    if begun:
        document["begun"] = [_frozen_member(one) for one in begun]
    if results:
        document["results"] = {run_id: list(told) for run_id, told in results.items()}
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
        output = _thawed(document, media)
        begun = tuple(_thawed_member(one) for one in document.get("begun", ()))
        results = {run_id: tuple(told) for run_id, told in document.get("results", {}).items()}
        first = replace(
            order,
            message=document["message"],
            inputs=document["inputs"],
            media=tuple(InputMedia(MediaKind(kind), "", "", b"") for kind in document["media_kinds"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError, LookupError, ArithmeticError) as error:
        raise NotContinuable("what was kept of it cannot be read") from error
    awaited = {tool.tool_call_id for tool in output.tools or () if tool.is_paused}
    of_members = tuple(
        (requirement.member_run_id, requirement.tool_execution)
        for requirement in output.requirements or ()
        if requirement.member_run_id and requirement.tool_execution and not requirement.is_resolved()
    )
    awaited.update(tool.tool_call_id for _, tool in of_members)
    _resolve(output, continuation.resolutions)
    return Restored(first, output, frozenset(map(str, awaited)), begun, results, of_members)


def _frozen(output: Output, media: dict[str, dict[str, str]]) -> dict[str, Any]:
    """A run's output apart from its messages; media are added to `media`."""
    messages: list[Any] = []
    for message in output.messages or ():
        encoded = _encoded(message)
        messages.append(json.loads(encoded.parts))
        for medium in encoded.apart:
            data = base64.b64encode(medium.data).decode("ascii")
            media[medium.id] = {"mime_type": medium.mime_type, "data": data}
    if isinstance(output, RunOutput):
        bare = replace(output, messages=None, images=None, input=None)
        return {"output": bare.to_dict(), "messages": messages}
    leader = replace(output, messages=None, images=None, input=None, member_responses=[])
    members = [_frozen(member, media) for member in output.member_responses]
    return {"output": leader.to_dict(), "messages": messages, "members": members}


def _thawed(form: Mapping[str, Any], media: Mapping[bytes, Media]) -> Output:
    output: Output
    if "members" in form:
        output = TeamRunOutput.from_dict(form["output"])
        output.member_responses = [_thawed(member, media) for member in form["members"]]
    else:
        output = RunOutput.from_dict(form["output"])
    output.messages = [_message(parts, media) for parts in form["messages"]]
    return output


def _frozen_member(begun: Begun) -> dict[str, Any]:
    spent = begun.spent
    return {
        "agent_name": begun.member.agent_name,
        "run_id": begun.member.run_id,
        "parent_run_id": begun.member.parent_run_id,
        "usage": {name: getattr(spent.usage, name) for name in TokenUsage.__slots__},
        "usd": str(spent.usd),
        "amount": str(spent.amount),
        "currency": spent.currency,
        "model_calls": spent.model_calls,
        "unpriced_calls": spent.unpriced_calls,
    }


def _thawed_member(form: Mapping[str, Any]) -> Begun:
    member = event_pb2.Member(
        agent_name=form["agent_name"], run_id=form["run_id"], parent_run_id=form["parent_run_id"]
    )
    usd, amount = Decimal(form["usd"]), Decimal(form["amount"])
    usage = TokenUsage(**form["usage"])
    counted = (form["model_calls"], form["unpriced_calls"])
    return Begun(member, Totals(usage, usd, amount, form["currency"], *counted))


def _outputs(output: Output) -> Iterator[Output]:
    yield output
    if isinstance(output, TeamRunOutput):
        for member in output.member_responses:
            yield from _outputs(member)


def _answers(waiting: Sequence[ToolExecution], tools: Tools) -> list[Message]:
    for tool in waiting:
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
    keys = {str(tool.tool_call_id) for tool in waiting}
    return [message for key, message in tools.answers.items() if key in keys]


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


def _resolve(output: Output, resolutions: Sequence[run_service_pb2.Resolution]) -> None:
    """Applies the resolutions. Raises NotContinuable when something is left open."""
    for one in _outputs(output):
        _keep_last(one)
    tools = {tool.tool_call_id: tool for tool in output.tools or ()}
    given = {resolution.requirement_id: resolution for resolution in resolutions}
    for requirement in output.requirements or ():
        if not requirement.member_run_id:
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


def _keep_last(output: Output) -> None:
    """Of a call with several needs Agno keeps one entry for each, but asks for the last one only."""
    tools = {tool.tool_call_id: tool for tool in output.tools or ()}
    output.tools = [
        tool for tool in output.tools or () if not tool.is_paused or tools[tool.tool_call_id] is tool
    ]


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
    for asked in requirement.user_input_schema or ():
        if asked.name not in values:
            if asked.value is None:
                raise NotContinuable("a field has no value")
            values[asked.name] = asked.value
        elif asked.field_type is not float:
            values[asked.name] = _whole(values[asked.name])
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
