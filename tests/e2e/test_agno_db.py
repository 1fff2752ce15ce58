"""agno_db(): what an agent remembers of a user and of a session, beside the history, and what remembering costs."""

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from agno.agent import Agent
from agno.memory import MemoryManager
from agno.run import RunContext
from agno.team import Team
from agno.tools import tool
from support.e2e import claude

from dragoman.agents import BaseAgent, BaseTeam, agno_db
from dragoman.client import Dragoman, confirm
from dragoman.testing.anthropic import FakeAnthropic, Recorded, Text, ToolUse, Turn, Usage
from dragoman.testing.serving import serving

_ids = itertools.count(1)

TALK = Usage(input_tokens=101, output_tokens=67, cache_read_input_tokens=11)
REMEMBER = Usage(input_tokens=1_003, output_tokens=29)


def pour(run_context: RunContext) -> str:
    """Pours a cup."""
    assert run_context.session_state is not None
    run_context.session_state["cups"] += 1
    return f"cup {run_context.session_state['cups']}"


@tool(requires_confirmation=True)
def spill(run_context: RunContext) -> str:
    """Spills all."""
    assert run_context.session_state is not None
    run_context.session_state["cups"] += 100
    return f"{run_context.session_state['cups']} are gone"


class Waiter(BaseAgent):
    """Remembers its guests by a model of its own, and counts cups."""

    name = "waiter"

    def __init__(self, talking: FakeAnthropic, remembering: FakeAnthropic) -> None:
        self.model = claude(talking)
        self.manager = MemoryManager(model=claude(remembering))

    def build_agent(self) -> Agent:
        return Agent(
            model=self.model,
            db=agno_db(),
            memory_manager=self.manager,
            update_memory_on_run=True,
            add_memories_to_context=True,
            session_state={"cups": 0},
            tools=[pour, spill],
        )


class Bar(BaseTeam):
    """A team whose leader counts cups."""

    name = "bar"

    def __init__(self, talking: FakeAnthropic) -> None:
        self.model = claude(talking)

    def build_team(self) -> Team:
        member = Agent(name="Barista", model=self.model)
        return Team(model=self.model, members=[member], db=agno_db(), session_state={"cups": 0}, tools=[pour])


class House:
    """A server that can be started again, with the model APIs that it talks to."""

    def __init__(self, url: str, talking: FakeAnthropic, remembering: FakeAnthropic) -> None:
        self.url = url
        self.talking = talking
        self.remembering = remembering

    @asynccontextmanager
    async def open(self, *users: str) -> AsyncIterator[list[Dragoman]]:
        """A client for each of the users."""
        agents = Waiter(self.talking, self.remembering), Bar(self.talking)
        async with serving(*agents, database_url=self.url) as server, AsyncExitStack() as stack:
            yield [await stack.enter_async_context(Dragoman(server.address, user=user)) for user in users]

    def heard(self, index: int) -> str:
        """All that the talking model was sent in a request."""
        return str(self.talking.requests[index].json)


@pytest.fixture
async def house(database_url: str) -> AsyncIterator[House]:
    async with FakeAnthropic() as talking, FakeAnthropic() as remembering:
        yield House(database_url, talking, remembering)


def pouring() -> list[Turn]:
    return [Turn([ToolUse(f"t{next(_ids)}", "pour", {})], usage=TALK), Turn("Here you are.", usage=TALK)]


def pour_when_asked(request: Recorded) -> Turn:
    """A tool call for a message, a text for the tool's result."""
    asked, answered = pouring()
    return answered if "tool_result" in str(request.json["messages"][-1]) else asked


def remembering(memory: str) -> list[Turn]:
    return [
        Turn(
            [ToolUse(f"m{next(_ids)}", "add_memory", {"memory": memory, "topics": ["drinks"]})],
            usage=REMEMBER,
        ),
        Turn("Noted.", usage=REMEMBER),
    ]


async def say(client: Dragoman, message: str, *, session: str = "", agent: str = "waiter") -> str:
    """Runs to the end; the session's id."""
    run = client.run(agent, message, session=session or None)
    await run.text()
    return run.session_id


async def test_a_user_is_remembered_and_nobody_else(house: House) -> None:
    house.remembering.script(*remembering("The guest likes tea"), *[Turn("Nothing.", usage=REMEMBER)] * 4)
    house.talking.script(*[Turn("Fine.", usage=TALK)] * 5)
    async with house.open("ann", "Ann", "bob", "") as (ann, other_ann, bob, nobody):
        for client in (ann, ann, other_ann, bob, nobody):
            await say(client, "A tea, please")
        rows = [row for client in (ann, other_ann, bob, nobody) async for row in client.query_usage()]
    remembers = ["The guest likes tea" in house.heard(index) for index in range(5)]
    assert remembers == [False, True, False, False, False]
    billed = [house.talking.billed, house.remembering.billed]
    assert [row.model_calls for row in rows] == [2 + 3, 2, 2, 2]
    assert sum(row.usage.input_tokens for row in rows) == sum(each.input_tokens for each in billed)
    assert sum(row.usage.output_tokens for row in rows) == sum(each.output_tokens for each in billed)


@pytest.mark.parametrize("agent", ["waiter", "bar"])
async def test_session_state_outlives_the_server_and_the_history_is_sent_once(
    house: House, agent: str
) -> None:
    async with house.open("ann") as (ann,):
        house.talking.script(*pouring())
        session = await say(ann, "The first", agent=agent)
    async with house.open("ann") as (ann,):
        house.talking.script(*pouring(), *pouring())
        await say(ann, "The second", session=session, agent=agent)
        await say(ann, "In another session", agent=agent)
    assert ["cup 1" in house.heard(1), "cup 2" in house.heard(3), "cup 1" in house.heard(5)] == [True] * 3
    assert house.heard(3).count("The first") == 1
    assert "cup 2" not in house.heard(5)


async def test_session_state_travels_with_a_run_that_waits_for_a_person(house: House) -> None:
    async with house.open("ann") as (ann,):
        first = Turn([Text("One."), ToolUse("t1", "pour", {})])
        house.talking.script(first, Turn([ToolUse("t2", "spill", {})]))
        run = ann.run("waiter", "Pour and spill")
        async for _ in run:
            pass
        assert run.paused is not None, run.result
        needed, session, run_id = run.paused.requirements, run.session_id, run.run_id
    async with house.open("ann") as (ann,):
        house.talking.script(Turn("Gone."), *pouring())
        assert await ann.continue_run(run_id, [confirm(needed[0])]).text() == "One.Gone."
        await say(ann, "Another", session=session)
    assert "101 are gone" in house.heard(2)
    assert "cup 102" in house.heard(4)


async def test_many_runs_at_once_keep_their_own(house: House) -> None:
    """They share a MemoryManager, on which Agno notes the database of a run."""
    house.remembering.respond = lambda request: (
        Turn("Noted.")
        if "tool_result" in str(request.json["messages"][-1])
        else remembering(f"The guest is {'user ' + str(request.json['messages']).split('I am ')[1][0]}")[0]
    )
    house.talking.respond = pour_when_asked
    users = [f"user {number}" for number in range(6)]
    async with house.open(*users) as clients:
        greet = [say(client, f"I am {number}") for number, client in enumerate(clients)]
        sessions = await asyncio.gather(*greet)
        before = len(house.talking.requests)
        again = [
            say(client, f"I am {number}", session=session)
            for number, (client, session) in enumerate(zip(clients, sessions, strict=True))
        ]
        await asyncio.gather(*again)
    later = [request.json for request in house.talking.requests[before:]]
    assert len(later) == 12
    for request in later:
        own = str(request["messages"]).split("I am ")[1][0]
        told = str(request["system"])
        assert [user for user in users if f"The guest is {user}" in told] == [f"user {own}"]
        assert "cup 3" not in str(request["messages"])
