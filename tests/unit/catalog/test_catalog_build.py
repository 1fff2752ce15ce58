"""A fresh agent for each run: what is its own, what it shares, and how it is prepared."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from agno.agent import Agent
from agno.run import RunContext
from pydantic import BaseModel

from dragoman.agents import BaseAgent, Caller, MediaKind, RunSetup
from dragoman.catalog import Catalog
from dragoman.catalog.entry import check
from dragoman.catalog.plain import PlainAgent
from dragoman.engine.ports import InputMedia, RunOrder
from dragoman.errors import AgentFailed, AgentNotFound
from dragoman.ids import new_id
from dragoman.records import Owner, Session, utcnow
from dragoman.testing.offline import OfflineModel

MODEL = OfflineModel(delay=0)
OWNER = Owner("service", "ann")
RUN_ID = UUID(int=7)


class Verse(BaseModel):
    lines: int = 4


class Book(BaseModel):
    title: str = "untitled"


class Poet(BaseAgent[Verse, Book]):
    name = "poet"
    prepared: RunSetup[Verse, Book] | None = None

    def build_agent(self) -> Agent:
        return Agent(model=MODEL)

    def prepare(self, agent: Agent, run: RunSetup[Verse, Book]) -> None:
        self.prepared = run
        agent.instructions = [f"{run.inputs.lines} lines for {run.session_inputs.title}"]
        if run.inputs.lines == 13:
            raise RuntimeError("secret of the author")


class Service:
    """An object with a tool, such as one that holds a connection."""

    def __init__(self) -> None:
        self.calls = 0

    def count(self, number: int) -> str:
        """Counts a number."""
        self.calls += 1
        return f"counted {number}"


def _catalog(*agents: BaseAgent[Any, Any]) -> Catalog:
    return Catalog(check(agent, "test", None) for agent in agents)


def _order(name: str = "poet", **inputs: object) -> RunOrder:
    now = utcnow()
    session = Session(UUID(int=1), OWNER, name, "", {}, {"title": "Odes"}, now, now)
    media = (InputMedia(MediaKind.IMAGE, "image/png", "", b""),)
    return RunOrder(RUN_ID, OWNER, session, name, "hello", media, inputs, {"trace": "7"})


def _plain(**settings: Any) -> PlainAgent:
    return PlainAgent(Agent(name="plain", model=MODEL, **settings))


def test_every_run_gets_an_agent_of_its_own_around_the_shared_model() -> None:
    catalog = _catalog(Poet(), _plain())
    built = [catalog.build(name, _order(name)) for name in ("poet", "plain") for _ in range(20)]
    assert len({id(agent) for agent in built}) == 40
    assert {id(agent.model) for agent in built} == {id(MODEL)}
    assert {agent.name for agent in built} == {"poet", "plain"}


def test_prepare_is_told_all_of_the_run() -> None:
    poet = Poet()
    agent = _catalog(poet).build("poet", _order(lines=7))
    assert agent.instructions == ["7 lines for Odes"]
    assert poet.prepared == RunSetup(
        caller=Caller("service", "ann"),
        message="hello",
        inputs=Verse(lines=7),
        session_inputs=Book(title="Odes"),
        session_id=UUID(int=1),
        run_id=RUN_ID,
        media=(MediaKind.IMAGE,),
        metadata={"trace": "7"},
    )


def test_a_name_that_the_author_gave_the_agno_agent_stays() -> None:
    class Titled(Poet):
        name = "titled"

        def build_agent(self) -> Agent:
            return Agent(name="The Poet", model=MODEL)

    assert _catalog(Titled()).build("titled", _order("titled")).name == "The Poet"


def test_a_fault_while_building_is_logged_and_not_told(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AgentFailed) as caught:
        _catalog(Poet()).build("poet", _order(lines=13))
    assert "secret" not in str(caught.value)
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)


def test_inputs_that_do_not_fit_are_logged_without_their_values(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(AgentFailed):
        _catalog(Poet()).build("poet", _order(lines="a-secret"))
    (record,) = caplog.records
    assert vars(record)["violations"][0].startswith("inputs.lines: Input should be a valid integer")
    assert "a-secret" not in caplog.text + str(vars(record))


def test_an_unknown_name_is_not_found() -> None:
    with pytest.raises(AgentNotFound):
        _catalog().build("poet", _order())


def test_a_copy_of_a_plain_agent_shares_tools_and_keeps_its_own_state() -> None:
    count = Service().count
    state: dict[str, Any] = {"seen": []}
    plain = _plain(tools=[count], session_state=state, metadata={"a": "b"})
    first, second = plain.build_agent(), plain.build_agent()
    assert isinstance(first.tools, list)
    assert first.tools[0] is count
    for agent in (first, plain.template):
        assert agent.tools is not second.tools
        assert agent.metadata is not second.metadata
        assert agent.session_state is not second.session_state
    assert first.session_state is not None
    first.session_state["seen"].append("x")
    assert second.session_state == state == {"seen": []}


def test_a_copy_keeps_every_setting_of_a_plain_agent() -> None:
    template = Agent(
        name="plain",
        model=MODEL,
        tools=[Service().count],
        instructions=["a", "b"],
        output_schema=Verse,
        tool_call_limit=3,
        markdown=True,
        session_state={"a": 1},
        pre_hooks=[print],
    )
    assert vars(PlainAgent(template).build_agent()) == vars(template)


def test_a_subclass_with_a_constructor_of_its_own_is_copied_too() -> None:
    class Own(Agent):
        def __init__(self, colour: str) -> None:
            super().__init__(name="own", model=MODEL, instructions=colour)
            self.colour = colour

    built = PlainAgent(Own("green")).build_agent()
    assert isinstance(built, Own)
    assert (built.colour, built.instructions, built.name) == ("green", "green", "own")


@pytest.mark.parametrize(
    ("settings", "runs"),
    [
        ({}, 20),
        ({"num_history_runs": 7}, 20),
        ({"add_history_to_context": True}, 3),
        ({"add_history_to_context": True, "num_history_runs": 7}, 7),
    ],
)
def test_how_much_a_plain_agent_remembers(settings: dict[str, Any], runs: int) -> None:
    assert _catalog(_plain(**settings)).history_runs("plain") == runs


@pytest.mark.parametrize("runs", [0, 5, None])
def test_how_much_an_agent_remembers(runs: int | None) -> None:
    poet = Poet()
    poet.history_runs = runs
    assert _catalog(poet).history_runs("poet") == runs


async def test_a_hundred_runs_at_once_do_not_touch_each_other() -> None:
    """Every run calls a tool, changes its session state and has instructions of its own."""
    service = Service()

    def note(run_context: RunContext, number: int) -> str:
        """Notes a number."""
        assert run_context.session_state is not None
        run_context.session_state["noted"] = number
        return f"noted {number}"

    catalog = _catalog(_plain(tools=[service.count, note], session_state={"noted": None}, telemetry=False))

    async def run(number: int) -> tuple[str, Any]:
        agent = catalog.build("plain", _order("plain"))
        output = await agent.arun(f"count {number} and note {number}", session_id=str(new_id()))
        return str(output.content), output.session_state

    outputs = await asyncio.gather(*(run(number) for number in range(100)))
    for number, (content, state) in enumerate(outputs):
        assert content == f"count gave counted {number}. note gave noted {number}."
        assert state["noted"] == number
    assert service.calls == 100
