"""ScriptedModel: an Agno model that plays exactly the turns it is given, with no network and no HTTP.

    gate = asyncio.Event()
    model = ScriptedModel(turns=[
        [ToolCall("add", {"a": 1, "b": 2})],
        ["The sum ", gate, "is 3.", TokenUsage(input_tokens=40, output_tokens=6)],
    ])
    agent = Agent(model=model, tools=[add], telemetry=False)

A turn is a list of steps, played in order, one turn per request: text and reasoning deltas, tool calls, the usage
that is reported, a pause, an event to wait for, an exception to raise. When no turn is left the model raises
AssertionError. What it was sent is kept in `requests`. It is asynchronous only.
"""

import asyncio
import copy
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse

from dragoman.records import TokenUsage
from dragoman.testing._usage import metrics

__all__ = ["Pause", "Reasoning", "Request", "ScriptedModel", "Step", "ToolCall", "Turn"]


@dataclass(frozen=True, slots=True)
class Reasoning:
    """One delta of reasoning."""

    text: str
    signature: str | None = None
    """Given as provider data in a delta of its own, after the text."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call of a tool."""

    name: str
    arguments: Mapping[str, object] | str = field(default_factory=dict)
    """An object, or raw text that need not be JSON."""
    id: str = ""
    """Empty: `call_1`, `call_2`, ... over the model's life."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Waiting for `seconds`."""

    seconds: float


Step = str | Reasoning | ToolCall | TokenUsage | Pause | asyncio.Event | Exception
"""A `str` is one delta of text; an `asyncio.Event` is waited for; an exception is raised."""

Turn = Sequence[Step]


@dataclass(frozen=True, slots=True)
class Request:
    """What the model was sent: copies, as things were then."""

    messages: tuple[Message, ...]
    tools: tuple[Mapping[str, Any], ...]
    response_format: Any
    """A Pydantic class, a dict or None."""
    streamed: bool


@dataclass
class ScriptedModel(Model):
    """Plays `turns`, one per request, then asks `respond` for more. Deep copies play from the same script."""

    id: str = "scripted-1"
    name: str | None = "Scripted"
    provider: str | None = "scripted"
    supports_native_structured_outputs: bool = True
    turns: Sequence[Turn] = ()
    respond: Callable[[Request], Turn] | None = None
    """Called when all of `turns` are played."""
    requests: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]  # Agno leaves it without annotations
        self._left: deque[Turn] = deque(self.turns)
        self._calls = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self

    async def ainvoke(self, **kwargs: Any) -> ModelResponse:
        """The next turn in one piece."""
        whole = ModelResponse(role="assistant")
        async for delta in self._play(self._next(kwargs, streamed=False)):
            whole.content = _joined(whole.content, delta.content)
            whole.reasoning_content = _joined(whole.reasoning_content, delta.reasoning_content)
            whole.provider_data = delta.provider_data or whole.provider_data
            whole.tool_calls.extend(delta.tool_calls)
            whole.response_usage = delta.response_usage or whole.response_usage
        return whole

    async def ainvoke_stream(self, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        """The next turn, step by step."""
        async for delta in self._play(self._next(kwargs, streamed=True)):
            yield delta

    def invoke(self, **kwargs: Any) -> NoReturn:
        """Not possible: gates and pauses need an event loop."""
        raise TypeError("ScriptedModel is asynchronous only: use arun()")

    def invoke_stream(self, **kwargs: Any) -> Iterator[ModelResponse]:
        """Not possible: gates and pauses need an event loop."""
        raise TypeError("ScriptedModel is asynchronous only: use arun()")

    def _parse_provider_response(self, response: ModelResponse, **kwargs: Any) -> ModelResponse:
        return response

    def _parse_provider_response_delta(self, response: ModelResponse) -> ModelResponse:
        return response

    def _next(self, kwargs: Mapping[str, Any], *, streamed: bool) -> Turn:
        request = Request(
            messages=tuple(message.model_copy() for message in kwargs["messages"]),
            tools=tuple(copy.deepcopy(tool) for tool in kwargs.get("tools") or ()),
            response_format=kwargs.get("response_format"),
            streamed=streamed,
        )
        self.requests.append(request)
        if self._left:
            return self._left.popleft()
        if self.respond is not None:
            return self.respond(request)
        raise AssertionError(
            f"request {len(self.requests)} came, but the script has only {len(self.turns)} turns"
        )

    async def _play(self, turn: Turn) -> AsyncIterator[ModelResponse]:
        for step in turn:
            match step:
                case str():
                    yield ModelResponse(content=step)
                case Reasoning():
                    yield ModelResponse(reasoning_content=step.text)
                    if step.signature is not None:
                        yield ModelResponse(provider_data={"signature": step.signature})
                case ToolCall():
                    yield ModelResponse(tool_calls=[self._call(step)])
                case TokenUsage():
                    yield ModelResponse(content="", response_usage=metrics(step))
                case Pause():
                    await asyncio.sleep(step.seconds)
                case asyncio.Event():
                    await step.wait()
                case Exception():
                    raise step

    def _call(self, call: ToolCall) -> dict[str, Any]:
        self._calls += 1
        raw = call.arguments if isinstance(call.arguments, str) else json.dumps(call.arguments)
        function = {"name": call.name, "arguments": raw}
        return {"id": call.id or f"call_{self._calls}", "type": "function", "function": function}


def _joined(before: Any, more: str | None) -> Any:
    return before if more is None else (before or "") + more
