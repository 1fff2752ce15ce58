"""The agents that the end-to-end tests serve, and the wire's own stubs to talk to them."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc
from agno.agent import Agent
from agno.models.anthropic import Claude

from dragoman.agents import BaseAgent
from dragoman.testing.anthropic import FakeAnthropic
from dragoman.testing.serving import Serving
from dragoman.v1 import (
    agent_service_pb2_grpc,
    event_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    session_service_pb2_grpc,
    usage_service_pb2_grpc,
)

MODEL_ID = "claude-haiku-4-5"
INSTRUCTIONS = "You are a careful assistant."


def claude(fake: FakeAnthropic, **options: Any) -> Claude:
    return Claude(id=MODEL_ID, api_key="test-key", client_params={"base_url": fake.url}, **options)


def weather(city: str) -> str:
    """The weather in a city."""
    return json.dumps({"city": city, "sky": "clear", "celsius": len(city)})


def population(city: str, year: int = 2026) -> str:
    """How many people live in a city."""
    return f"{city} had {len(city) * 100_000} inhabitants in {year}."


def broken(city: str) -> str:
    """A tool that never works."""
    raise RuntimeError(f"secret path /etc/shadow while looking for {city}")


TOOLS: list[Callable[..., str]] = [weather, population, broken]


class ClaudeAgent(BaseAgent):
    """An agent around one Claude model, with the tools above."""

    name = "assistant"
    description = "Talks to the fake Messages API."
    history_runs = None

    def __init__(self, model: Claude, **options: Any) -> None:
        self.model = model
        self.options = options

    def build_agent(self) -> Agent:
        return Agent(
            model=self.model, tools=list(TOOLS), instructions=INSTRUCTIONS, telemetry=False, **self.options
        )


class Stubs:
    """The generated stubs on one channel."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.agents = agent_service_pb2_grpc.AgentServiceStub(channel)
        self.sessions = session_service_pb2_grpc.SessionServiceStub(channel)
        self.runs = run_service_pb2_grpc.RunServiceStub(channel)
        self.usage = usage_service_pb2_grpc.UsageServiceStub(channel)

    async def run(self, agent: str, message: str, **fields: Any) -> list[event_pb2.RunEvent]:
        """All events of a run."""
        request = run_service_pb2.RunRequest(
            agent_name=agent, message=message, detail=run_service_pb2.EVENT_DETAIL_ALL, **fields
        )
        return [event async for event in self.runs.Run(request)]


@asynccontextmanager
async def stubs(address: str) -> AsyncIterator[Stubs]:
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        yield Stubs(channel)


async def all_ended(server: Serving) -> None:
    """Returns when no run is under way any more."""
    async with asyncio.timeout(60):
        while server.server.engine.active_runs:
            await asyncio.sleep(0.01)


def kinds(events: list[event_pb2.RunEvent]) -> list[str]:
    return [event.WhichOneof("event") or "" for event in events]


def text_of(events: list[event_pb2.RunEvent]) -> str:
    return "".join(event.content_delta.text for event in events)


def reason_of(error: grpc.aio.AioRpcError) -> Any:
    """ErrorInfo, BadRequest... of a failed call, as a list of unpacked details."""
    from google.rpc import error_details_pb2, status_pb2

    raw = next(value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin")
    status = status_pb2.Status.FromString(cast("bytes", raw))
    details: dict[str, Any] = {}
    for packed in status.details:
        name = packed.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, name)()
        packed.Unpack(message)
        details[name] = message
    return details
