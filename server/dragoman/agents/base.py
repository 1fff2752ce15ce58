"""BaseAgent and BaseTeam: an agent, or a team of agents, as its author writes it.

What happens to it, in order:

1. When the server starts, the class is instantiated once, without arguments, and `build_agent` (of a team,
   `build_team`) is called to see that it works and what tools, members and models it has. A fault here stops the
   server and names the author's line.
2. When a session is made, its `inputs` become a `CreateSessionModel`, and `validate_create_session` may refuse them.
3. When a run is asked for, its `inputs` become a `RequestModel`, and `validate_run` may refuse the whole of it.
   Nothing has been stored yet: a refused run leaves no trace.
4. When the run starts, `build_agent` or `build_team` makes a fresh one, `prepare` adapts it to the inputs, and it
   runs once.

The one instance serves all runs at the same time, on one event loop: keep no run's state on it.
"""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, cast, get_args, get_origin
from uuid import UUID

from agno.agent import Agent
from agno.team import Team
from pydantic import BaseModel
from typing_extensions import TypeVar

from dragoman.engine.ports import MediaKind
from dragoman.records import Limits

DEFAULT_HISTORY_RUNS = 20
"""Long enough for most conversations to be remembered whole, short enough that a turn's price stays bounded."""


class NoInputs(BaseModel):
    """Takes no inputs."""


RequestT = TypeVar("RequestT", bound=BaseModel, default=NoInputs)
SessionT = TypeVar("SessionT", bound=BaseModel, default=NoInputs)


class Invalid(ValueError):
    """Raised by a validation hook: what the caller sent breaks a rule of the agent.

    `field` is a path below `inputs` (`topics[2].name`; empty for the inputs as a whole), or, in `validate_run`,
    `message`, `media` or `media[0]`. `description` is a sentence for the caller.
    """

    def __init__(self, field: str, description: str) -> None:
        super().__init__(f"{field}: {description}" if field else description)
        self.field = field
        self.description = description


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks."""

    principal: str
    """The program or person that is authenticated."""
    user: str = ""
    """The user for whom a trusted service acts; empty when the principal acts for itself."""


@dataclass(frozen=True, slots=True)
class RunSetup(Generic[RequestT, SessionT]):
    """What a run is asked to do: all of it, validated."""

    caller: Caller
    message: str
    inputs: RequestT
    session_inputs: SessionT
    session_id: UUID | None = None
    """None in `validate_run` when the run is to make a new session."""
    run_id: UUID | None = None
    """None in `validate_run`: the run does not exist yet."""
    media: tuple[MediaKind, ...] = ()
    """The kinds of the media that come with the message, in order."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    """The caller's own, of the run."""

    @property
    def principal(self) -> str:
        """The caller's."""
        return self.caller.principal

    @property
    def user(self) -> str:
        """The caller's; empty when there is none."""
        return self.caller.user


def _type_argument(cls: type, position: int) -> type | None:
    """The class given in `class cls(BaseAgent[Request, Session])`; None where none is, or a type variable."""
    for base in vars(cls).get("__orig_bases__", ()):
        origin = get_origin(base)
        if isinstance(origin, type) and issubclass(origin, Served):
            arguments = get_args(base)
            if position < len(arguments) and isinstance(arguments[position], type):
                return cast("type", arguments[position])
    return None


class Served(ABC, Generic[RequestT, SessionT]):
    """What an agent and a team have in common: settings, and hooks that may refuse what callers send.

    Settings are class attributes; a subclass or an instance may change them.
    """

    name: str
    """How callers name it: 1 to 128 letters, digits, `-`, `_` or `.`. Required."""
    description: str = ""
    """What it is for, in a sentence or two, for callers. The model does not see it."""
    RequestModel: type[RequestT]
    """What `inputs` of a run must be. Numbers arrive as JSON numbers, whole ones as int; undeclared fields are refused
    at every level, and a model's `strict` is honoured as for JSON."""
    CreateSessionModel: type[SessionT]
    """What `inputs` of a new session must be; likewise."""
    history_runs: int | None = DEFAULT_HISTORY_RUNS
    """How many earlier runs of the session the model sees; 0 for none, None for all."""
    accepted_media: Collection[MediaKind] = (MediaKind.IMAGE, MediaKind.FILE)
    """The kinds of media that a message may carry; empty for text only."""
    limits: Limits | None = None
    """What one run may spend at most: cost (in the server's currency), tokens, time. A caller may set lower ones."""

    _parameters: ClassVar[Mapping[str, int]] = {"RequestModel": 0, "CreateSessionModel": 1}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Fills the input models from the type parameters, unless the class sets them itself."""
        super().__init_subclass__(**kwargs)
        for attribute, position in cls._parameters.items():
            given = _type_argument(cls, position)
            if attribute not in vars(cls) and (given is not None or not hasattr(cls, attribute)):
                setattr(cls, attribute, given or NoInputs)

    async def validate_create_session(self, inputs: SessionT, caller: Caller) -> None:
        """May refuse a new session, for what the model alone cannot tell.

        Raise `Invalid`, or a ValueError whose text is for the caller, to refuse it. Anything else that is raised is
        a fault of the agent: it is logged, and the caller learns only that there was one.
        """

    async def validate_run(self, run: RunSetup[RequestT, SessionT]) -> None:
        """May refuse a run, before anything of it is stored. Raises as `validate_create_session`."""

    @abstractmethod
    def build(self) -> Agent | Team:
        """A fresh one, by `build_agent` or `build_team`, which authors define."""

    @abstractmethod
    def build_for(self, run: RunSetup[RequestT, SessionT]) -> Agent | Team:
        """A fresh one, prepared for the run."""


class BaseAgent(Served[RequestT, SessionT]):
    """Base of agents. The type parameters are the two input models; a direct subclass need not name them again.

    class Poet(BaseAgent[Verse]):
        name = "poet"
        description = "Writes a verse."

        def build_agent(self) -> Agent:
            return Agent(model=MODEL, instructions="You are a poet.")

        def prepare(self, agent: Agent, run: RunSetup[Verse]) -> None:
            agent.additional_context = f"Write {run.inputs.lines} lines."
    """

    @abstractmethod
    def build_agent(self) -> Agent:
        """A fresh Agno agent: a new object at every call, around a model object that is made once and shared.

        Called once per run, on the event loop: quick, and without I/O. Models hold connections, which is why making
        one per run is refused; tools may be shared or made anew. Its history and database settings are the server's.
        """

    def prepare(self, agent: Agent, run: RunSetup[RequestT, SessionT]) -> None:
        """Adapts the fresh agent to one run. Set attributes of the agent; leave alone what it shares, such as its model."""

    def build(self) -> Agent:
        """`build_agent`."""
        return self.build_agent()

    def build_for(self, run: RunSetup[RequestT, SessionT]) -> Agent:
        """`build_agent` and `prepare`."""
        agent = self.build_agent()
        self.prepare(agent, run)
        return agent


class BaseTeam(Served[RequestT, SessionT]):
    """Base of teams: as BaseAgent, with a leader and members.

    class Newsroom(BaseTeam):
        name = "newsroom"

        def build_team(self) -> Team:
            return Team(model=MODEL, members=[Agent(name="Reporter", model=MODEL), Agent(name="Editor", model=MODEL)])
    """

    @abstractmethod
    def build_team(self) -> Team:
        """A fresh Agno team with fresh members: new objects at every call, around models that are made once and shared.

        Called once per run, on the event loop: quick, and without I/O. Every member has a name of its own; one without a
        model works with the team's. An agent belongs to the team that it was made for, and to no other.
        """

    def prepare(self, team: Team, run: RunSetup[RequestT, SessionT]) -> None:
        """Adapts the fresh team, and its members, to one run. Leave alone what they share, such as their models."""

    def build(self) -> Team:
        """`build_team`."""
        return self.build_team()

    def build_for(self, run: RunSetup[RequestT, SessionT]) -> Team:
        """`build_team` and `prepare`."""
        team = self.build_team()
        self.prepare(team, run)
        return team
