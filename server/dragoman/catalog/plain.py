"""A plain Agno Agent or Team as one of ours: every run gets a copy of it.

Agno's own `deep_copy` also copies the tools, and with a bound method the object behind it, while a run needs them
shared: it makes its own copy of each function anyway. So the copy here is shallow, apart from containers: what a run
adds to or caches in them stays its own, and the session state is copied in depth, for runs change it. The members of a
team are copied with it.
"""

from copy import copy, deepcopy
from typing import Any

from agno.agent import Agent
from agno.team import Team

from dragoman.agents import DEFAULT_HISTORY_RUNS, BaseAgent, BaseTeam


class PlainAgent(BaseAgent):
    """Serves `template`, which itself never runs."""

    def __init__(self, template: Agent) -> None:
        self.template = template
        self.name = template.name or ""
        self.description = template.description or ""
        self.history_runs = _history_runs(template)

    def build_agent(self) -> Agent:
        """A copy that shares the model, the tools and whatever else is an object of its own."""
        agent: Agent = _copy(self.template)
        return agent


class PlainTeam(BaseTeam):
    """Serves `template`, which itself never runs; nor do its members."""

    def __init__(self, template: Team) -> None:
        self.template = template
        self.name = template.name or ""
        self.description = template.description or ""
        self.history_runs = _history_runs(template)

    def build_team(self) -> Team:
        """A copy with copies of its members, which share their models, tools and whatever else is an object of its own."""
        team: Team = _copy(self.template)
        return team


def _history_runs(template: Agent | Team) -> int | None:
    return template.num_history_runs if template.add_history_to_context else DEFAULT_HISTORY_RUNS


def _copy(template: Any) -> Any:
    made: Agent | Team = copy(template)
    for attribute, value in vars(made).items():
        if type(value) in (list, dict, set):
            setattr(made, attribute, copy(value))
    made.session_state = deepcopy(made.session_state)
    if isinstance(made, Team):
        members: object = made.members
        if isinstance(members, list):
            made.members = [_copy(member) for member in members]
    return made
