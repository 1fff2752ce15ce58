"""What a server under attack serves: an agent that says a great deal at once."""

from agno.agent import Agent

from dragoman.agents import BaseAgent
from dragoman.testing.scripted import Request, ScriptedModel, Turn

PIECES, SIZE = 30, 40_000
"""1.2 MB, which nobody needs to read."""


class Talker(BaseAgent):
    """Says 1.2 MB."""

    name = "talker"
    description = "Talks."

    def __init__(self) -> None:
        self.model = ScriptedModel(respond=_talk)

    def build_agent(self) -> Agent:
        self.model.requests.clear()
        return Agent(model=self.model, telemetry=False)


def _talk(_: Request) -> Turn:
    return ["x" * SIZE] * PIECES


agents = [Talker()]
