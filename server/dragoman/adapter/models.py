"""Models, metered: how the calls of the models that an agent was built with are seen, bounded and kept honest.

An agent's author makes a model once and shares it between all runs. `instrument` finds every model that an agent (or
a team, its members, its managers) may call and gives each object a subclass of its own class, once: the object stays
the author's, with its state and settings, and behaves as before outside of a run. Within a run, which a context
variable tells, every request is a `Call` in the run's ledger, and every tool call that the model asks for is guarded
(`guards.py`).

Anthropic's models learn some manners besides:

    one client for all objects with the same credentials, with our time-out and retries unless the author set his own
    tokens are known from the first byte on, so that a call that is broken off still costs what it cost
    a tool call that the answer's end cut off is never executed: its arguments are half of what the model meant
    ciphertext of redacted thinking is not passed off as reasoning; it stays in the provider's data, for the history
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cache
from types import new_class
from typing import Any, Final, NoReturn

from agno.agent import Agent
from agno.compression.manager import CompressionManager
from agno.memory import MemoryManager
from agno.metrics import MessageMetrics
from agno.models.anthropic import Claude
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse
from agno.session import SessionSummaryManager
from agno.team import Team
from agno.tools.function import FunctionCall
from anthropic import Anthropic, APIStatusError, AsyncAnthropic

from dragoman.adapter import steps, tokens
from dragoman.adapter.call import MAIN, REASONING, Call, mark, under_way
from dragoman.adapter.calls import Ledger
from dragoman.adapter.clients import Clients, counted
from dragoman.adapter.guards import ToolOutcome, Tools

logger = logging.getLogger(__name__)

CUT_OFF: Final = frozenset({"max_tokens", "model_context_window_exceeded", "stop_sequence", "refusal"})
"""Stop reasons with which the last block of an answer may be half of what it was to be."""


_SLOTS: Final = (MAIN, REASONING, "parser_model", "output_model", "followup_model")
"""Attributes of agents and teams that hold models; each is Agno's name for the kind of call, too."""

_MANAGERS: Final[dict[type, str]] = {
    MemoryManager: "memory_model",
    SessionSummaryManager: "session_summary_model",
    CompressionManager: "compression_model",
}
"""What the models of Agno's managers are for."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What a model needs of the run that it is called in."""

    ledger: Ledger
    clients: Clients
    tools: Tools = field(default_factory=Tools)


scope: ContextVar[Scope | None] = ContextVar("dragoman_scope", default=None)
"""The run under way. Set around every step of the run; tasks that a step starts inherit it."""


class Metered(Model):
    """Mixed in before the class of any model: opens a call for each request."""

    __slots__ = ()

    async def ainvoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """One request, answered in one piece."""
        now, parent = scope.get(), _author(super())
        if now is None or under_way.get() is not None:
            answer: ModelResponse = await parent.ainvoke(*args, **kwargs)
            return answer
        await now.ledger.admit()
        call = now.ledger.open(self, kwargs)
        token = under_way.set(call)
        try:
            response: ModelResponse = await parent.ainvoke(*args, **kwargs)
        except BaseException as error:
            now.ledger.end(call, error)
            raise
        finally:
            under_way.reset(token)
        self._saw(call, response)
        now.ledger.end(call)
        return response

    async def ainvoke_stream(self, *args: Any, **kwargs: Any) -> AsyncIterator[ModelResponse]:
        """One request, answered piece by piece."""
        now, parent = scope.get(), _author(super())
        stream: AsyncGenerator[ModelResponse, None] = parent.ainvoke_stream(*args, **kwargs)
        if now is None or under_way.get() is not None:
            async with aclosing(stream):
                async for delta in stream:
                    yield delta
            return
        await now.ledger.admit()
        call = now.ledger.open(self, kwargs)
        call.closed = asyncio.Event()
        try:
            async with aclosing(stream):
                while (step := await _step(call, stream)) is not None:
                    self._saw(call, step)
                    yield step
            now.ledger.end(call)
        except BaseException as error:
            now.ledger.end(call, error)
            raise
        finally:
            call.closed.set()

    def invoke(self, *args: Any, **kwargs: Any) -> ModelResponse:
        """The same for callers in a thread."""
        now, parent = scope.get(), _author(super())
        if now is None or under_way.get() is not None:
            answer: ModelResponse = parent.invoke(*args, **kwargs)
            return answer
        now.ledger.admit_in_thread()
        call = now.ledger.open(self, kwargs)
        token = under_way.set(call)
        try:
            response: ModelResponse = parent.invoke(*args, **kwargs)
        except BaseException as error:
            now.ledger.end(call, error)
            raise
        finally:
            under_way.reset(token)
        self._saw(call, response)
        now.ledger.end(call)
        return response

    def invoke_stream(self, *args: Any, **kwargs: Any) -> Iterator[ModelResponse]:
        """The same for callers in a thread, piece by piece."""
        now, parent = scope.get(), _author(super())
        if now is None or under_way.get() is not None:
            yield from parent.invoke_stream(*args, **kwargs)
            return
        now.ledger.admit_in_thread()
        call = now.ledger.open(self, kwargs)
        stream = parent.invoke_stream(*args, **kwargs)
        try:
            while True:
                token = under_way.set(call)
                try:
                    delta = next(stream, None)
                finally:
                    under_way.reset(token)
                if delta is None:
                    break
                self._saw(call, delta)
                yield delta
        except BaseException as error:
            now.ledger.end(call, error)
            raise
        now.ledger.end(call)

    async def arun_function_call(self, function_call: FunctionCall) -> ToolOutcome:
        """One call of a tool, which may do no more harm than fail."""
        now, parent = scope.get(), _author(super())
        if now is None:
            outcome: ToolOutcome = await parent.arun_function_call(function_call)
            return outcome
        return await now.tools.call(parent.arun_function_call, function_call)

    def create_function_call_result(self, *args: Any, **kwargs: Any) -> Message:
        """What a tool call has come to, as a message."""
        message: Message = super().create_function_call_result(*args, **kwargs)
        if (now := scope.get()) is not None:
            now.tools.answered(message)
        return message

    def _saw(self, call: Call, delta: ModelResponse) -> None:
        """Notes what a piece of the answer says."""
        if delta.content or delta.reasoning_content or delta.tool_calls:
            call.first_token()
        if isinstance(delta.content, str):
            call.text.append(delta.content)
        if delta.reasoning_content:
            call.reasoning.append(delta.reasoning_content)
        if delta.response_usage is not None:
            self._count(call, delta)

    def _get_metrics(self, *args: Any, **kwargs: Any) -> MessageMetrics:
        """Agno's reading of a provider's figures. What it leaves out of them is kept until they are counted."""
        figures: MessageMetrics = _author(super())._get_metrics(*args, **kwargs)  # noqa: SLF001 - overridden here
        if (call := under_way.get()) is not None:
            call.told = next(iter((*args, *kwargs.values())), None)
        return figures

    def _count(self, call: Call, delta: ModelResponse) -> None:
        """Adds the tokens that a piece of the answer reports."""
        told = delta.response_usage
        if told is None:
            return
        call.counted = tuple(a + b for a, b in zip(call.counted, tokens.counts(told), strict=True))
        call.usage += tokens.of_metrics(self.__class__, told, call.told)
        call.told = None
        _tell(call)


class MeteredClaude(Metered, Claude):
    """The same for Claude and all classes derived from it."""

    __slots__ = ()

    def get_async_client(self) -> AsyncAnthropic:
        """The client that all models with the same credentials share in this process."""
        now = scope.get()
        if now is None:
            return super().get_async_client()
        return now.clients.of(self, super().get_async_client)

    def get_client(self) -> Anthropic:
        """The author's own client for threads; within a run it counts its attempts."""
        own: Anthropic = super().get_client()
        return counted(own) if scope.get() is not None else own

    def _parse_provider_response(
        self, response: Any, response_format: Any = None, **kwargs: Any
    ) -> ModelResponse:
        parsed = super()._parse_provider_response(response, response_format=response_format, **kwargs)
        parsed.redacted_reasoning_content = None
        if (call := under_way.get()) is not None:
            call.stop_reason = response.stop_reason or ""
            _report(call, response.usage)
        return parsed

    def _parse_provider_response_delta(self, response: Any, response_format: Any = None) -> ModelResponse:
        parsed = super()._parse_provider_response_delta(response, response_format=response_format)
        parsed.redacted_reasoning_content = None
        if (call := under_way.get()) is None:
            return parsed
        match response.type:
            case "message_start":
                _report(call, response.message.usage)
            case "content_block_start":
                call.first_token()
            case "content_block_stop" if parsed.tool_calls:
                # Whether they are whole is known at the end of the answer only.
                call.held.extend(parsed.tool_calls)
                parsed.tool_calls = []
            case "message_delta":
                call.stop_reason = response.delta.stop_reason or call.stop_reason
                _report(call, response.usage)
            case "message_stop":
                if call.stop_reason not in CUT_OFF:
                    parsed.tool_calls = [*call.held]
                call.held.clear()
        return parsed

    def _count(self, call: Call, delta: ModelResponse) -> None:
        """Nothing: the tokens are known from the provider's own figures, and earlier."""

    def _handle_api_error(self, e: Exception) -> NoReturn:
        if (call := under_way.get()) is not None and isinstance(e, APIStatusError):
            call.http_status = e.status_code
        super()._handle_api_error(e)


def instrument(component: Agent | Team) -> None:
    """Meters every model that the agent or team, its members and its managers may call, and follows who is at work."""
    seen: set[int] = set()
    pending: list[object] = [component]
    while pending:
        item = pending.pop()
        if id(item) in seen:
            continue
        seen.add(id(item))
        if isinstance(item, Model):
            _meter(item)
        elif isinstance(item, list | tuple):
            pending.extend(item)
        elif isinstance(item, Agent | Team):
            pending.extend(vars(item).values())
            _mark(item)
            if item is not component:
                steps.follow(item)
        elif type(item).__module__.startswith("agno.") and hasattr(item, "__dict__"):
            # A manager, a configuration, a toolkit: what it holds itself, and no further.
            _mark(item)
            pending.extend(
                value for value in vars(item).values() if isinstance(value, Model | Agent | Team | list)
            )


def _mark(holder: object) -> None:
    """Notes what the models are for that an agent, a team or one of Agno's managers holds."""
    if isinstance(holder, Agent | Team):
        for kind in _SLOTS:
            _mark_one(getattr(holder, kind, None), kind)
        _mark_one(getattr(holder.reasoning_agent, "model", None), REASONING)
    for manager, kind in _MANAGERS.items():
        if isinstance(holder, manager):
            _mark_one(getattr(holder, "model", None), kind)


def _mark_one(model: object, kind: str) -> None:
    if isinstance(model, Model):
        mark(model, kind)


def _meter(model: Model) -> None:
    if model.retries:
        logger.warning(
            "a model's own retries are switched off: they would repeat what was already streamed",
            extra={"model": model.id, "retries": model.retries},
        )
        model.retries = 0
    if not isinstance(model, Metered):
        model.__class__ = _metered(type(model))


@cache
def _metered(cls: type[Model]) -> type[Model]:
    """The class's metered subclass, which goes by its name."""
    mixin = MeteredClaude if issubclass(cls, Claude) else Metered

    def fill(namespace: dict[str, Any]) -> None:
        namespace.update(__module__=cls.__module__, __qualname__=cls.__qualname__, __doc__=cls.__doc__)

    return new_class(cls.__name__, (mixin, cls), exec_body=fill)


def _author(parent: Any) -> Any:
    """The author's own class as seen from here. Agno declares the methods abstract: to a type checker there is none."""
    return parent


async def _step(call: Call, stream: AsyncGenerator[ModelResponse, None]) -> ModelResponse | None:
    """The next piece; None at the end. Within a step no other code of the task runs, so the variable is the call's."""
    token = under_way.set(call)
    try:
        return await anext(stream, None)
    finally:
        under_way.reset(token)


def _report(call: Call, told: Any) -> None:
    """Takes over Anthropic's figures."""
    now = call.usage = tokens.of_anthropic(told, call.usage)
    call.counted = (now.input_tokens, now.output_tokens, now.cache_read_tokens, now.cache_write_tokens)
    _tell(call)


def _tell(call: Call) -> None:
    """Tells the ledger of the run under way what the call has come to."""
    if (now := scope.get()) is not None:
        now.ledger.note(call)
