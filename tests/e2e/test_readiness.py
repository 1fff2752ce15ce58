"""A database that goes away and comes back: health follows it, liveness does not, and a run that is under way ends whole."""

import asyncio
from collections.abc import Iterator

import grpc
import pytest
from agno.agent import Agent
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.e2e import Stubs, kinds
from support.mariadb import MariaDBServer

from dragoman.agents import BaseAgent
from dragoman.records import TokenUsage
from dragoman.testing.scripted import ScriptedModel
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, run_service_pb2

STATUS = health_pb2.HealthCheckResponse


@pytest.fixture
def own_server() -> Iterator[MariaDBServer]:
    """One that may be killed."""
    server = MariaDBServer.start()
    yield server
    server.stop()


class Waiter(BaseAgent):
    """Says the rest of its answer when it is let."""

    name = "waiter"
    description = "Waits."

    def __init__(self, gate: asyncio.Event) -> None:
        usage = TokenUsage(input_tokens=10, output_tokens=5)
        self.model = ScriptedModel(respond=lambda _: ["one ", gate, "two", usage])

    def build_agent(self) -> Agent:
        return Agent(model=self.model)


@pytest.mark.mariadb
async def test_an_outage_is_told_to_balancers_and_ends_no_run(
    own_server: MariaDBServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.transport.readiness.PATIENCE", 1.0)
    gate = asyncio.Event()
    async with (
        serving(Waiter(gate), database_url=own_server.fresh_database(), health_interval=0.1) as server,
        grpc.aio.insecure_channel(server.address) as channel,
        asyncio.timeout(90),
    ):
        health = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest())

        async def wait_for(status: int) -> None:
            while (await watch.read()).status != status:
                pass

        async def check(service: str) -> int:
            return int((await health.Check(health_pb2.HealthCheckRequest(service=service))).status)

        await wait_for(STATUS.SERVING)
        events: list[event_pb2.RunEvent] = []
        stream = Stubs(channel).runs.Run(run_service_pb2.RunRequest(agent_name="waiter", message="Say it."))
        async for event in stream:
            events.append(event)
            if event.HasField("content_delta"):
                break
        own_server.kill()
        await wait_for(STATUS.NOT_SERVING)
        assert await check("dragoman.v1.RunService") == STATUS.NOT_SERVING
        assert await check("liveness") == STATUS.SERVING
        await asyncio.to_thread(own_server.restart)
        await wait_for(STATUS.SERVING)
        gate.set()
        events += [event async for event in stream]
        watch.cancel()
    assert kinds(events)[-1] == "run_completed"
    assert events[-1].run_completed.content == "one two"
