"""The agent that every peer serves: Agno around a model that only says what its prompt asks for.

The model needs no network and does next to nothing itself, so that what is measured is what lies around it. It gives the
event loop a turn after every delta, as a real one does that reads them from a socket, and reports its usage at the end.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, NoReturn

from agno.agent import Agent
from agno.metrics import MessageMetrics
from agno.models.base import Model
from agno.models.message import Message
from agno.models.response import ModelResponse

from bench.workload import Workload, delta
from dragoman.agents import BaseAgent

NAME = "bench"


@dataclass
class ScriptModel(Model):
    """Says the `Workload` of the last message. Streams only."""

    id: str = "claude-haiku-4-5"  # has a price, so that whoever counts costs has something to count
    name: str | None = "Script"
    provider: str | None = "Anthropic"

    async def ainvoke_stream(
        self, messages: list[Message], *_args: Any, **_kwargs: Any
    ) -> AsyncIterator[ModelResponse]:
        """One delta after the other, at its pace; then the usage."""
        work = Workload.of(str(messages[-1].content))
        loop = asyncio.get_running_loop()
        started = loop.time()
        for index in range(work.deltas):
            ahead = started + index / work.rate - loop.time() if work.rate else 0.0
            await asyncio.sleep(max(0.0, ahead))
            yield ModelResponse(content=delta(index))
        usage = MessageMetrics(input_tokens=12, output_tokens=work.deltas, total_tokens=12 + work.deltas)
        yield ModelResponse(content="", response_usage=usage)

    async def ainvoke(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Not needed: everything here streams."""
        raise TypeError("ScriptModel only streams")

    def invoke(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Not needed: everything here is asynchronous."""
        raise TypeError("ScriptModel only streams")

    def invoke_stream(self, *_args: Any, **_kwargs: Any) -> NoReturn:
        """Not needed: everything here is asynchronous."""
        raise TypeError("ScriptModel is asynchronous only")

    def _parse_provider_response(self, response: ModelResponse, **_kwargs: Any) -> ModelResponse:
        return response

    def _parse_provider_response_delta(self, response: ModelResponse) -> ModelResponse:
        return response


MODEL = ScriptModel()


def agno_agent(**options: Any) -> Agent:
    """The agent, for peers that take Agno's own."""
    return Agent(id=NAME, name=NAME, model=MODEL, telemetry=False, **options)


class BenchAgent(BaseAgent):
    """The same agent, as Dragoman takes it."""

    name = NAME
    description = "Says what it is asked to say."

    def build_agent(self) -> Agent:
        """A fresh one around the shared model."""
        return agno_agent()
