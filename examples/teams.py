"""`research` and `gallery`: two teams, whose leaders delegate to members with tools of their own."""

from agno.agent import Agent
from agno.team import Team

from dragoman.agents import BaseTeam, Invalid, MediaKind, NoInputs, RunSetup
from examples.models import model
from examples.toolbox import UnitTools, calculate, weather

INHABITANTS = {
    "berlin": "3.7 million",
    "cape town": "4.8 million",
    "johannesburg": "6.1 million",
    "london": "8.9 million",
    "paris": "2.1 million",
    "rome": "2.7 million",
}


def population(city: str) -> str:
    """Tells the population of a city.

    Args:
        city: The name of the city.
    """
    return INHABITANTS.get(city.casefold(), f"the population of {city} is not known")


def research() -> Team:
    """A plain Agno team. It is called once, and every run gets a copy of what it returns."""
    return Team(
        name="research",
        description="Looks up cities and calculates: a leader, a researcher and a calculator.",
        model=model(),
        members=[
            Agent(
                name="Researcher",
                role="Knows the weather and the population of cities",
                model=model(),
                tools=[weather, population],
                instructions="Use the tools. Answer in one sentence.",
            ),
            Agent(
                name="Calculator",
                role="Calculates, and converts units such as celsius to fahrenheit",
                model=model(),
                tools=[calculate, UnitTools()],
                instructions="Use the tools. Answer in one sentence.",
            ),
        ],
        instructions="Delegate everything, and answer in at most three sentences.",
    )


def count_letters(word: str) -> str:
    """Counts the letters of a word.

    Args:
        word: The word.
    """
    return f"{len(word)} letters"


class Gallery(BaseTeam):
    """Reads the word in a picture and says something about it."""

    name = "gallery"
    description = "Reads the word in a picture and counts its letters: a leader, a reader and a speller."
    accepted_media = (MediaKind.IMAGE,)

    async def validate_run(self, run: RunSetup[NoInputs, NoInputs]) -> None:
        """The first message of a conversation must show something; later ones may ask about it."""
        if run.session_id is None and not run.media:
            raise Invalid("media", "the first message must come with a picture")

    def build_team(self) -> Team:
        """The team, all of it new."""
        return Team(
            model=model(),
            members=[
                Agent(
                    name="Reader",
                    role="Reads the word that stands in a picture",
                    model=model(),
                    instructions="Say which word stands in the picture, in one short sentence.",
                ),
                Agent(
                    name="Speller",
                    role="Counts the letters of words",
                    model=model(),
                    tools=[count_letters],
                    instructions="Use the tool. Answer in one short sentence.",
                ),
            ],
            instructions="Delegate everything, one member after the other, and answer in one short sentence.",
        )
