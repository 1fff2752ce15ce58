"""`vision`: says which word stands in a picture."""

from agno.agent import Agent

from dragoman.agents import BaseAgent, Invalid, MediaKind, NoInputs, RunSetup
from examples.models import model


class Vision(BaseAgent):
    """Reads the word in each picture that comes with a message."""

    name = "vision"
    description = "Says which word stands in a picture."
    accepted_media = (MediaKind.IMAGE,)

    async def validate_run(self, run: RunSetup[NoInputs, NoInputs]) -> None:
        """The first message of a conversation must show something; later ones may ask about it."""
        if run.session_id is None and not run.media:
            raise Invalid("media", "the first message must come with a picture")

    def build_agent(self) -> Agent:
        """The agent."""
        return Agent(
            model=model(), instructions="Say which word stands in the picture, in one short sentence."
        )
