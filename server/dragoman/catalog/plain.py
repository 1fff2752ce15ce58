"""A plain Agno Agent as a BaseAgent: every run gets a copy of it.

Agno's own `deep_copy` also copies the tools, and with a bound method the object behind it, while a run needs them
shared: it makes its own copy of each function anyway. So the copy here is shallow, apart from containers: what a run
adds to or caches in them stays its own, and the session state is copied in depth, for runs change it.
"""

from copy import copy, deepcopy

from agno.agent import Agent

from dragoman.agents import DEFAULT_HISTORY_RUNS, BaseAgent


class PlainAgent(BaseAgent):
    """Serves `template`, which itself never runs."""

    def __init__(self, template: Agent) -> None:
        self.template = template
        self.name = template.name or ""
        self.description = template.description or ""
        self.history_runs = (
            template.num_history_runs if template.add_history_to_context else DEFAULT_HISTORY_RUNS
        )

    def build_agent(self) -> Agent:
        """A copy that shares the model, the tools and whatever else is an object of its own."""
        agent = copy(self.template)
        for attribute, value in vars(agent).items():
            if type(value) in (list, dict, set):
                setattr(agent, attribute, copy(value))
        agent.session_state = deepcopy(agent.session_state)
        return agent
