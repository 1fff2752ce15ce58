"""A server whose event loop stands still for a while, as one does that a tool blocks: no call is lost for it."""

import asyncio
import time

import pytest
from agno.agent import Agent
from support.e2e import stubs

from dragoman.testing.offline import OfflineModel
from dragoman.testing.serving import serving
from dragoman.v1 import agent_service_pb2

pytestmark = pytest.mark.timeout(120)

STILL = 33.0
"""Seconds. By itself gRPC lets a call wait for 30 to be looked at."""


async def test_calls_wait_for_a_loop_that_stands_still() -> None:
    request = agent_service_pb2.ListAgentsRequest()
    async with (
        serving(Agent(name="agent", model=OfflineModel())) as server,
        stubs(server.address) as client,
    ):
        await client.agents.ListAgents(request)
        calls = [client.agents.ListAgents(request) for _ in range(20)]
        for _ in range(3):  # they are sent, and not yet looked at
            await asyncio.sleep(0)
        time.sleep(STILL)
        answers = [await call for call in calls]
    assert [[each.name for each in answer.agents] for answer in answers] == [["agent"]] * 20
