"""What a run leaves is gone when it has ended: nothing of it waits for the garbage collector.

That counts objects, and not what they weigh: a run whose objects refer to each other in a circle stays, with its messages and
pictures, until some ten thousand others have come.
"""

import asyncio
import gc
import logging
import uuid
from collections.abc import Coroutine, Iterator

import pytest
import uvloop
from agno.agent import Agent
from agno.models.message import Message
from agno.run.agent import RunOutput
from agno.tools import tool
from support.e2e import ClaudeAgent, all_ended, claude, kinds

from dragoman.adapter import AgnoRun
from dragoman.agents import BaseAgent
from dragoman.client import Dragoman, confirm
from dragoman.engine import LiveRun
from dragoman.process import _settle
from dragoman.testing.anthropic import FakeAnthropic, Text, ToolUse, Turn
from dragoman.testing.scripted import Pause, Request, ScriptedModel, Step, ToolCall
from dragoman.testing.serving import Serving, serving

OURS = (LiveRun, AgnoRun, RunOutput, Message)


class Player(BaseAgent):
    """Does what it is told."""

    name = "player"
    description = "Plays."

    def __init__(self) -> None:
        self.model = ScriptedModel(respond=self._play)

    def build_agent(self) -> Agent:
        return Agent(model=self.model, tools=[look, erase], telemetry=False)

    def _play(self, request: Request) -> list[Step]:
        self.model.requests.clear()
        told = next(str(message.content) for message in request.messages if message.role == "user")
        if request.messages[-1].role == "tool" or told == "talk":
            return ["It is so."]
        steps: dict[str, list[Step]] = {
            "look": ["So ", ToolCall("look", {"where": "up"})],
            "ask": ["So ", ToolCall("erase", {"what": "all"})],
            "fail": ["So ", RuntimeError("no")],
            "hang": ["So ", Pause(60)],
        }
        return steps[told]


@tool
def look(where: str) -> str:
    """Looks."""
    return f"nothing {where}"


@tool(requires_confirmation=True)
def erase(what: str) -> str:
    """Erases."""
    return f"erased {what}"


async def played(client: Dragoman, told: str) -> str:
    """How it ended."""
    async with client.run("player", told) as run:
        async for event in run:
            if told == "hang" and event.HasField("content_delta"):
                await run.cancel()
    if run.paused is None:
        return kinds([event])[0]
    async with client.continue_run(run.run_id, map(confirm, run.paused.requirements)) as run:
        return kinds([event async for event in run])[-1]


def ours() -> list[object]:
    return [thing for thing in gc.get_objects() if isinstance(thing, OURS)]


async def left(server: Serving, before: list[object]) -> list[object]:
    """What is left when the server has nothing more to do, but for what was there before."""
    known = set(map(id, before))
    await all_ended(server)
    for _ in range(20):
        found = [thing for thing in ours() if id(thing) not in known]
        if not found:
            break
        await asyncio.sleep(0.1)
    return found


@pytest.fixture(autouse=True)
def _nothing_is_logged() -> Iterator[None]:
    """pytest keeps log records, and with the error of an agent the frames that it went through."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


def on_the_loop_of_a_server(work: Coroutine[None, None, None]) -> None:
    """uvloop: asyncio's own keeps the contexts of cancelled timers until they are due."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(work)


ENDS = {
    "talk": "run_completed",
    "look": "run_completed",
    "ask": "run_completed",
    "fail": "run_failed",
    "hang": "run_cancelled",
}


@pytest.mark.parametrize("told", ENDS)
def test_a_run_leaves_nothing_for_the_garbage_collector(told: str) -> None:
    async def work() -> None:
        before = ours()
        async with serving(Player()) as server, Dragoman(server.address) as client:
            assert await played(client, told) == ENDS[told]  # fills caches
            assert await left(server, before) == []
            gc.collect()
            gc.disable()
            try:
                assert await played(client, told) == ENDS[told]
                assert await left(server, before) == []
            finally:
                gc.enable()

    on_the_loop_of_a_server(work())


def test_nor_does_one_that_asks_claude() -> None:
    async def work() -> None:
        before = ours()
        async with (
            FakeAnthropic() as fake,
            serving(ClaudeAgent(claude(fake))) as server,
            Dragoman(server.address) as client,
        ):
            for collects in (True, False):
                fake.script(
                    Turn([Text("So"), ToolUse("toolu_1", "weather", {"city": "Oslo"})]),
                    Turn([Text("It is so.")]),
                )
                gc.collect()
                if not collects:
                    gc.disable()
                try:
                    assert await client.run("assistant", str(uuid.uuid4())).text() == "SoIt is so."
                    assert await left(server, before) == []
                finally:
                    gc.enable()

    on_the_loop_of_a_server(work())


def test_the_collector_of_a_server_looks_at_what_has_come_since_it_started() -> None:
    """And not, again and again, while everybody waits, at what modules hold."""
    try:
        _settle()
        assert gc.get_freeze_count() > 50_000
        assert len(gc.get_objects()) < 5_000
    finally:
        gc.unfreeze()
