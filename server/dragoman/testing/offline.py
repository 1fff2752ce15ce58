"""OfflineModel: an Agno model that behaves like a real one and needs no network.

It streams its words one by one, thinks if asked to, calls the agent's tools (several at once, or one after the
other), leads a team in each of its modes, reads the word in a picture from its pixels, remembers the conversation it
is sent, fills structured output, and reports its tokens. What it says follows fixed rules (see `_responder` and
`_leader`): the same conversation always gets the same answer. It is for demonstrations, examples and tests.

    agent = Agent(model=OfflineModel(), tools=[add, weather], telemetry=False)

Tokens are counted, not estimated by a vocabulary: four bytes of UTF-8 are one token, rounded up over each of all
messages, tools and schemas sent; a picture is one token per 750 bytes.
"""

import asyncio
import contextlib
import json
import re
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from agno.media import Image
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from pydantic import BaseModel, ValidationError

from dragoman.records import TokenUsage
from dragoman.testing._fill import fill
from dragoman.testing._leader import lead, read_roster
from dragoman.testing._responder import LOOKED_AT, Conversation, Reply, Result, Tool, reply
from dragoman.testing._usage import metrics

__all__ = ["OfflineModel", "count_tokens"]

_BYTES_PER_TOKEN = 4
_PICTURE_BYTES_PER_TOKEN = 750


@dataclass
class OfflineModel(Model):
    """A model without a network. Stateless: one object serves any number of concurrent runs."""

    id: str = "offline-1"
    name: str | None = "Offline"
    provider: str | None = "offline"
    supports_native_structured_outputs: bool = True
    delay: float = 0.01
    """Seconds before each word."""
    think: bool = False
    """Stream a thought before the answer; its tokens are reported as reasoning."""

    async def ainvoke(self, **kwargs: Any) -> ModelResponse:
        """The answer in one piece."""
        answer = await self._answer(kwargs)
        await asyncio.sleep(self.delay * len(_words(answer.text)))
        return answer.whole()

    async def ainvoke_stream(self, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        """The answer word by word, its tool calls, and at the end the usage."""
        answer = await self._answer(kwargs)
        for delta in answer.deltas():
            await asyncio.sleep(self.delay)
            yield delta

    def invoke(self, **kwargs: Any) -> ModelResponse:
        """As `ainvoke`, for callers without an event loop."""
        answer = _answer(kwargs, think=self.think)
        time.sleep(self.delay * len(_words(answer.text)))
        return answer.whole()

    def invoke_stream(self, **kwargs: Any) -> Iterator[ModelResponse]:
        """As `ainvoke_stream`, for callers without an event loop."""
        for delta in _answer(kwargs, think=self.think).deltas():
            time.sleep(self.delay)
            yield delta

    async def _answer(self, kwargs: Mapping[str, Any]) -> "_Answer":
        if any(message.images for message in kwargs["messages"]):
            return await asyncio.to_thread(
                _answer, kwargs, think=self.think
            )  # decoding pictures takes a while
        return _answer(kwargs, think=self.think)

    def _parse_provider_response(self, response: ModelResponse, **kwargs: Any) -> ModelResponse:
        return response

    def _parse_provider_response_delta(self, response: ModelResponse) -> ModelResponse:
        return response


def count_tokens(text: str) -> int:
    """The tokens of `text`: its UTF-8 bytes by four, rounded up."""
    return -(-len(text.encode()) // _BYTES_PER_TOKEN)


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer, ready to be given whole or in deltas."""

    thought: str
    text: str
    calls: Sequence[Mapping[str, Any]]
    parsed: BaseModel | None
    usage: TokenUsage

    def whole(self) -> ModelResponse:
        return ModelResponse(
            role="assistant",
            content=self.text or None,
            reasoning_content=self.thought or None,
            tool_calls=[dict(call) for call in self.calls],
            parsed=self.parsed,
            response_usage=metrics(self.usage),
        )

    def deltas(self) -> Iterator[ModelResponse]:
        for word in _words(self.thought):
            yield ModelResponse(reasoning_content=word)
        for word in _words(self.text):
            yield ModelResponse(content=word)
        for call in self.calls:
            yield ModelResponse(tool_calls=[dict(call)])
        yield ModelResponse(content="", response_usage=metrics(self.usage))


def _answer(kwargs: Mapping[str, Any], *, think: bool) -> _Answer:
    messages: Sequence[Message] = kwargs["messages"]
    offered: Sequence[Mapping[str, Any]] = kwargs.get("tools") or ()
    asked = kwargs.get("response_format")
    conversation = _conversation(messages)
    turn = (lead if conversation.members else reply)(conversation, _tools(offered))
    calls = [_wire(call.name, call.arguments) for call in turn.calls]
    text, parsed = turn.text, None
    if asked is not None and not calls:
        text, parsed = _structured(asked, conversation, turn)
    thought = turn.thought if think else ""
    reasoning = count_tokens(thought)
    usage = TokenUsage(
        input_tokens=_input_tokens(messages, offered, asked),
        output_tokens=reasoning
        + count_tokens(text)
        + sum(count_tokens(json.dumps(call["function"])) for call in calls),
        reasoning_tokens=reasoning,
    )
    return _Answer(thought, text, calls, parsed, usage)


def _wire(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": f"call_{uuid4().hex}", "type": "function", "function": function}


def _conversation(messages: Sequence[Message]) -> Conversation:
    spoken = [at for at, message in enumerate(messages) if _is_users_own(messages, at)]
    since = messages[spoken[-1] :] if spoken else messages
    asked = {call["id"]: call for message in since for call in message.tool_calls or ()}
    results = tuple(
        Result(
            message.tool_name or "the tool",
            message.get_content_string(),
            bool(message.tool_call_error),
            _arguments(asked.get(message.tool_call_id)),
        )
        for message in since
        if message.role == "tool"
    )
    system = "\n".join(message.get_content_string() for message in messages if message.role == "system")
    members, routes = read_roster(system)
    return Conversation(
        said=tuple(messages[at].get_content_string() for at in spoken),
        pictures=tuple(image.content for message in since for image in message.images or ()),
        rounds=sum(message.role == "assistant" and bool(message.tool_calls) for message in since),
        results=results,
        members=members,
        routes=routes,
    )


def _arguments(call: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """What a tool was called with; nothing when the call is not there or was no JSON object."""
    try:
        found = json.loads(call["function"]["arguments"]) if call else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _is_users_own(messages: Sequence[Message], at: int) -> bool:
    """True for what the user said; in the user's name Agno also sends pictures that tools returned, and a team's tasks."""
    message = messages[at]
    if message.role != "user" or message.get_content_string().startswith("<current_task_state>"):
        return False
    return at == 0 or messages[at - 1].role != "tool"


def _tools(offered: Sequence[Mapping[str, Any]]) -> list[Tool]:
    functions = [tool["function"] for tool in offered if tool.get("type") == "function"]
    return [
        Tool(function["name"], function.get("description") or "", function.get("parameters") or {})
        for function in functions
    ]


def _structured(asked: Any, conversation: Conversation, turn: Reply) -> tuple[str, BaseModel | None]:
    """JSON for what was asked for, filled from the user's words and what the tools and pictures gave.

    A rule that the schema cannot tell, or that is a pattern, may be broken: then there is JSON, but no object.
    """
    said = conversation.said[-1][:LOOKED_AT] if conversation.said else ""
    known = f"{said} {turn.text}" if conversation.results or conversation.pictures else said
    values = fill(_schema(asked), known, rest=known).values
    text = json.dumps(values, ensure_ascii=False)
    if isinstance(asked, type) and issubclass(asked, BaseModel):
        with contextlib.suppress(ValidationError):
            return text, asked.model_validate(values)
    return text, None


def _schema(asked: Any) -> Mapping[str, Any]:
    """The JSON schema of a response format: a Pydantic class, a schema, or a provider's wrapping of one."""
    if isinstance(asked, type) and issubclass(asked, BaseModel):
        return asked.model_json_schema()
    inner: Mapping[str, Any] = asked.get("json_schema", asked)
    schema: Mapping[str, Any] = inner.get("schema", inner)
    return schema


def _input_tokens(messages: Sequence[Message], offered: Sequence[Mapping[str, Any]], asked: Any) -> int:
    tokens = 0
    for message in messages:
        tokens += count_tokens(message.get_content_string())
        tokens += sum(count_tokens(json.dumps(call["function"])) for call in message.tool_calls or ())
        tokens += sum(_picture_tokens(image) for image in message.images or ())
    tokens += sum(count_tokens(json.dumps(tool, sort_keys=True)) for tool in offered)
    if asked is not None:
        tokens += count_tokens(json.dumps(_schema(asked), sort_keys=True))
    return tokens


def _picture_tokens(image: Image) -> int:
    return -(-len(image.content or b"") // _PICTURE_BYTES_PER_TOKEN)


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+(?:\s+\Z)?", text)
