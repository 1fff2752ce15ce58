"""Where costs are limited, every model that a run may call has a price: a team's members' models, too."""

from datetime import datetime
from decimal import Decimal
from typing import cast
from uuid import UUID

import pytest

from dragoman.engine.plans import Planner
from dragoman.engine.ports import Catalog, Pricer, RunDraft
from dragoman.errors import InvalidInput
from dragoman.records import Limits, Owner, TokenUsage
from dragoman.v1 import agent_service_pb2

Agent = agent_service_pb2.Agent
PRICED = Agent(name="a", model="priced")
UNPRICED = Agent(name="b", model="secret-1")


class OneAgent:
    """A catalog of one."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def agent(self, name: str) -> Agent:
        return self._agent

    def limits(self, name: str) -> Limits:
        return Limits()


class SomePrices:
    currency = "ZAR"

    def price(self, provider: str, model: str, usage: TokenUsage, at: datetime) -> object:
        return object() if model == "priced" else None


def team(*members: Agent) -> Agent:
    return Agent(name="team", model="priced", members=members)


@pytest.mark.parametrize(
    ("agent", "fit"),
    [
        (PRICED, True),
        (UNPRICED, False),
        (team(PRICED), True),
        (team(PRICED, UNPRICED), False),
        (team(PRICED, team(UNPRICED)), False),
    ],
    ids=["agent", "agent without", "team", "member without", "deep member without"],
)
@pytest.mark.parametrize("budget", [False, True], ids=["limit", "budget"])
def test_costs_are_limited_only_where_all_are_known(agent: Agent, fit: bool, budget: bool) -> None:
    catalog, pricer = cast("Catalog", OneAgent(agent)), cast("Pricer", SomePrices())
    planner = Planner(catalog, pricer, UUID(int=1), Limits())
    limits = Limits() if budget else Limits(max_cost=Decimal(1))
    draft = RunDraft(owner=Owner("p"), agent_name="team", session=None, message="hi", limits=limits)
    if fit:
        assert planner.plan(draft, budget=budget)[0].agent_name == "team"
        return
    with pytest.raises(InvalidInput, match="model 'secret-1' has no known price"):
        planner.plan(draft, budget=budget)
    assert planner.plan(RunDraft(owner=Owner("p"), agent_name="team", session=None, message="hi"))
