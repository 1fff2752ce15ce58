"""Server processes whose agents do what no agent should: they exit, hang in a thread, ignore that they are cancelled."""

import asyncio
from pathlib import Path

import pytest

from dragoman.cli._server_process import server_process
from dragoman.client import Dragoman, kind

AGENTS = """\
import asyncio
import sys
import threading

from agno.agent import Agent

from dragoman.testing.scripted import Request, ScriptedModel, Step, ToolCall


def leave() -> str:
    "Leaves."
    sys.exit(3)


async def leave_at_once() -> str:
    "Leaves."
    sys.exit(3)


def hang() -> str:
    "Never returns."
    threading.Event().wait()
    return "never"


# Of the module: what nobody holds is collected, and with it the task that waits for it.
forever = asyncio.Event()


async def ignore() -> str:
    "Ignores that it is cancelled."
    while True:
        try:
            await forever.wait()
        except asyncio.CancelledError:
            continue


def model(*tools: str) -> ScriptedModel:
    def respond(request: Request) -> list[Step]:
        if request.messages[-1].role == "tool":
            return ["Still here."]
        return [ToolCall(tool) for tool in tools]

    return ScriptedModel(respond=respond)


leaver = Agent(name="leaver", model=model("leave", "leave_at_once"), tools=[leave, leave_at_once])
hanger = Agent(name="hanger", model=model("hang"), tools=[hang])
ignorer = Agent(name="ignorer", model=model("ignore"), tools=[ignore])
"""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    agents = tmp_path / "agents.py"
    agents.write_text(AGENTS)
    served = [f"--agents={agents}:{name}" for name in ("leaver", "hanger", "ignorer")]
    database = f"--database-url=sqlite:///{tmp_path / 'faults.db'}"
    return [*served, "--no-entry-points", "--port", "0", database, "--set", "drain_grace=0"]


async def begin(client: Dragoman, agent: str) -> None:
    """Starts a run and leaves it at work in its tool."""
    async for event in client.run(agent, "Go."):
        if kind(event) == "tool_call_started":
            return


async def test_tools_that_hang_and_tools_that_exit_harm_neither_others_nor_the_end(
    arguments: list[str], tmp_path: Path
) -> None:
    with server_process(arguments, tmp_path) as server:
        async with Dragoman(server.address) as client, asyncio.timeout(30):
            await asyncio.gather(*(begin(client, "hanger") for _ in range(32)))
            for _ in range(2):
                kinds = [kind(event) async for event in client.run("leaver", "Go.")]
                assert kinds.count("tool_call_failed") == 2
                assert kinds[-1] == "run_completed"
        log = server.log
    # Leaving the block checked that the process ended when it was told to, and with 0.
    assert "the process ends without them" in log.read_text()


async def test_an_agent_that_ignores_its_cancellation_does_not_keep_the_process(
    arguments: list[str], tmp_path: Path
) -> None:
    with server_process(arguments, tmp_path) as server:
        async with Dragoman(server.address) as client:
            await begin(client, "ignorer")
        log = server.log
    assert "an agent did not stop when it was cancelled" in log.read_text()
    assert "the process ends without them" in log.read_text()
