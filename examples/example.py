"""`example`: an agent with inputs of its own, rules that go beyond them, and a short memory."""

from typing import Annotated, Literal

from agno.agent import Agent
from pydantic import BaseModel, Field

from dragoman.agents import BaseAgent, Caller, Invalid, MediaKind, RunSetup
from examples.models import model

Topic = Annotated[str, Field(min_length=1, max_length=40)]


class Ask(BaseModel):
    """What a run of `example` may be given."""

    tone: Literal["plain", "friendly", "formal"] = "plain"
    max_words: int = Field(100, ge=1, le=500, description="The length of the answer.")
    topics: list[Topic] = Field([], max_length=5, description="What to keep to.")


class Chat(BaseModel):
    """What a session of `example` may be made with."""

    language: Literal["English", "Afrikaans", "isiZulu", "German"] = "English"
    audience: Literal["everyone", "staff"] = "everyone"


class Example(BaseAgent[Ask, Chat]):
    """Answers in the tone, length and language that the caller asks for."""

    name = "example"
    description = "Answers in the tone, length and language that are asked for, and remembers five runs."
    history_runs = 5
    accepted_media: tuple[MediaKind, ...] = ()

    async def validate_create_session(self, inputs: Chat, caller: Caller) -> None:
        """A session for staff is made for somebody in particular."""
        if inputs.audience == "staff" and not caller.user:
            raise Invalid("audience", "a session for staff must be made on behalf of a user")

    async def validate_run(self, run: RunSetup[Ask, Chat]) -> None:
        """Fields may each be right and still not go together."""
        if run.inputs.tone == "formal" and run.inputs.max_words < 20:
            raise Invalid("max_words", "a formal answer needs at least 20 words")
        seen: set[str] = set()
        for index, topic in enumerate(run.inputs.topics):
            if topic.casefold() in seen:
                raise Invalid(f"topics[{index}]", "is a topic twice")
            seen.add(topic.casefold())

    def build_agent(self) -> Agent:
        """The agent as it is before anything is asked of it."""
        return Agent(model=model(), markdown=True)

    def prepare(self, agent: Agent, run: RunSetup[Ask, Chat]) -> None:
        """Turns the inputs into instructions."""
        inputs, session = run.inputs, run.session_inputs
        agent.instructions = [
            f"Answer in {session.language}, in a {inputs.tone} tone, in at most {inputs.max_words} words.",
        ]
        if inputs.topics:
            agent.instructions.append(f"Keep to these topics: {', '.join(inputs.topics)}.")
        if session.audience == "staff":
            agent.instructions.append(f"You are talking to {run.user} of the staff.")
