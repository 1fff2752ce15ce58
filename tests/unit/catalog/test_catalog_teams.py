"""Teams: what is fit to be served, how it is shown, and a fresh one for each run."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import pytest
from agno.agent import Agent
from agno.team import Team
from agno.team.mode import TeamMode
from pydantic import BaseModel

from dragoman.agents import BaseTeam, RunSetup
from dragoman.agents.base import Served
from dragoman.catalog import Catalog
from dragoman.catalog.entry import check
from dragoman.catalog.loader import Found, found
from dragoman.catalog.plain import PlainTeam
from dragoman.catalog.problems import Rejected
from dragoman.engine.ports import RunOrder
from dragoman.records import Owner, Session, utcnow
from dragoman.testing.offline import OfflineModel
from dragoman.v1 import agent_service_pb2

MODEL, OTHER = OfflineModel(delay=0), OfflineModel(id="other", delay=0)


def add(a: int, b: int) -> int:
    """Adds two numbers."""
    return a + b


class Story(BaseModel):
    words: int = 100


class Newsroom(BaseTeam[Story]):
    """A team within a team."""

    name = "newsroom"
    description = "Writes news."

    def build_team(self) -> Team:
        desk = Team(name="Desk", role="Checks", members=[Agent(name="Checker", model=OTHER)], model=MODEL)
        reporter = Agent(name="Reporter", role="Reports", tools=[add])
        return Team(model=MODEL, members=[reporter, desk], mode=TeamMode.coordinate)

    def prepare(self, team: Team, run: RunSetup[Story]) -> None:
        team.instructions = [f"At most {run.inputs.words} words."]


def order(name: str, **inputs: object) -> RunOrder:
    now, owner = utcnow(), Owner("service")
    session = Session(UUID(int=1), owner, name, "", {}, {}, now, now)
    return RunOrder(UUID(int=7), owner, session, name, "hello", (), inputs, {})


def tree(component: Agent | Team) -> Iterator[Agent | Team]:
    yield component
    for member in getattr(component, "members", ()):
        yield from tree(member)


def entry_of(spec: Served[Any, Any]) -> agent_service_pb2.Agent:
    return check(spec, "test", None).proto


def test_how_a_team_is_shown() -> None:
    shown = entry_of(Newsroom())
    assert (shown.name, shown.kind, shown.description) == (
        "newsroom",
        agent_service_pb2.AGENT_KIND_TEAM,
        "Writes news.",
    )
    reporter, desk = shown.members
    assert (reporter.name, reporter.kind, reporter.description) == ("Reporter", 1, "Reports")
    assert [tool.name for tool in reporter.tools] == ["add"]
    # A member without a model works with its team's.
    assert (reporter.model, desk.members[0].model) == (MODEL.id, "other")
    assert (desk.kind, desk.members[0].name) == (agent_service_pb2.AGENT_KIND_TEAM, "Checker")
    assert "words" in shown.run_inputs_schema["properties"]  # type: ignore[operator]  # a Struct


def test_every_run_gets_a_team_of_its_own_around_the_shared_models() -> None:
    plain = Team(
        name="plain", model=MODEL, members=[Agent(name="a", model=OTHER), Agent(name="b", tools=[add])]
    )
    catalog = Catalog(check(spec, "test", None) for spec in (Newsroom(), PlainTeam(plain)))
    for name, size in (("newsroom", 4), ("plain", 3)):
        built = [each for _ in range(5) for each in tree(catalog.build(name, order(name)))]
        assert len({id(each) for each in built}) == 5 * size
        assert {id(each.model) for each in built if each.model} == {id(MODEL), id(OTHER)}
    assert not {id(each) for each in tree(plain)} & {id(each) for each in built}
    assert all(each.tools is not plain.members[1].tools for each in built)  # type: ignore[index]
    assert all(each.tools[0] is add for each in built if isinstance(each.tools, list) and each.tools)


def test_a_team_is_prepared_and_named() -> None:
    team = Catalog([check(Newsroom(), "test", None)]).build("newsroom", order("newsroom", words=7))
    assert team.instructions == ["At most 7 words."]
    assert team.name == "newsroom"


def test_a_team_that_makes_its_members_when_it_runs() -> None:
    team = Team(name="late", model=MODEL, members=lambda: [Agent(name="a", model=MODEL)])
    assert not entry_of(PlainTeam(team)).members
    assert PlainTeam(team).build_team().members is team.members


@pytest.mark.parametrize(("settings", "runs"), [({}, 20), ({"add_history_to_context": True}, 3)])
def test_how_much_a_plain_team_remembers(settings: dict[str, Any], runs: int) -> None:
    team = PlainTeam(Team(name="t", model=MODEL, members=[Agent(name="a")], **settings))
    assert Catalog([check(team, "test", None)]).history_runs("t") == runs


def test_what_may_be_named() -> None:
    team = Team(name="plain", model=MODEL, members=[Agent(name="a")])
    agent = Agent(name="solo", model=MODEL)
    assert [type(each) for each in found([team, Newsroom, Newsroom(), agent], "x")] == [Found] * 4
    assert [type(each) for each in found(lambda: team, "x")] == [Found]


ONE = Agent(name="one", model=MODEL)


def team_of(*members: Agent | Team, **settings: Any) -> Team:
    return Team(**{"name": "t", "model": MODEL, "members": list(members), **settings})


FAULTS: dict[str, tuple[Callable[[], Any], str]] = {
    "no members": (lambda: team_of(), "team broken has no members"),
    "no model": (lambda: team_of(Agent(name="a"), model=None), "team broken has no model"),
    "an agent": (lambda: Agent(name="a", model=MODEL), "returned a value of type Agent, not an Agno Team"),
    "a nameless member": (lambda: team_of(Agent(model=MODEL)), "a member of team broken has no name"),
    "two of a name": (
        lambda: team_of(Agent(name="The Poet"), Agent(name="the-poet")),
        "two members whose names cannot be told apart: 'The Poet' and 'the-poet'",
    ),
    "a member that is shared": (lambda: team_of(ONE), "must make its members anew at every call: broken/one"),
    "a member twice": (
        lambda: (lambda agent: team_of(agent, Team(name="inner", model=MODEL, members=[agent])))(
            Agent(name="a")
        ),
        "broken/inner/a is the same object as broken/a",
    ),
    "a member's new model": (
        lambda: team_of(Agent(name="a", model=OfflineModel())),
        "makes a new model at every call for broken/a",
    ),
    "the leader's new model": (
        lambda: team_of(Agent(name="a"), model=OfflineModel()),
        "makes a new model at every call: make the model once",
    ),
    "a fault": (lambda: 1 / 0, "division by zero"),
}


@pytest.mark.parametrize(("build", "told"), FAULTS.values(), ids=FAULTS)
def test_what_is_not_served(build: Callable[[], Any], told: str) -> None:
    class Broken(BaseTeam):
        name = "broken"

        def build_team(self) -> Team:
            made: Team = build()
            return made

    with pytest.raises(Rejected) as refused:
        check(Broken(), "test", None)
    assert told in refused.value.message
