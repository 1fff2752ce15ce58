"""What an author of an agent may rely on: which models an agent has, and what it is told of a run."""

from dataclasses import FrozenInstanceError

import pytest
from agno.agent import Agent
from pydantic import BaseModel
from typing_extensions import TypeVar

import dragoman.agents
from dragoman.agents import DEFAULT_HISTORY_RUNS, BaseAgent, Caller, Invalid, MediaKind, NoInputs, RunSetup
from dragoman.testing.scripted import ScriptedModel

MODEL = ScriptedModel()


class Verse(BaseModel):
    lines: int = 4


class Book(BaseModel):
    title: str = ""


class Untyped(BaseAgent):
    name = "untyped"

    def build_agent(self) -> Agent:
        return Agent(model=MODEL)


class OnlyRequest(BaseAgent[Verse]):
    name = "only-request"

    def build_agent(self) -> Agent:
        return Agent(model=MODEL)

    def prepare(self, agent: Agent, run: RunSetup[Verse]) -> None:
        agent.additional_context = f"Write {run.inputs.lines} lines."  # mypy knows `lines`


class Both(BaseAgent[Verse, Book]):
    name = "both"

    def build_agent(self) -> Agent:
        return Agent(model=MODEL)


class Child(Both):
    name = "child"


class ByAttribute(BaseAgent):
    name = "by-attribute"

    class RequestModel(NoInputs):
        lines: int = 4

    CreateSessionModel = NoInputs

    def build_agent(self) -> Agent:
        return Agent(model=MODEL)


class LongVerse(Verse):
    stanzas: int = 1


class AttributeWins(BaseAgent[Verse, Book]):
    name = "attribute-wins"
    RequestModel = LongVerse

    def build_agent(self) -> Agent:
        return Agent(model=MODEL)


class ChildOfAttribute(AttributeWins):
    name = "child-of-attribute"


AnyVerse = TypeVar("AnyVerse", bound=Verse)


class Generic(BaseAgent[AnyVerse, Book]):
    def build_agent(self) -> Agent:
        return Agent(model=MODEL)


@pytest.mark.parametrize(
    ("agent", "request_model", "session_model"),
    [
        (Untyped, NoInputs, NoInputs),
        (OnlyRequest, Verse, NoInputs),
        (Both, Verse, Book),
        (Child, Verse, Book),
        (ByAttribute, ByAttribute.RequestModel, NoInputs),
        (AttributeWins, LongVerse, Book),
        (ChildOfAttribute, LongVerse, Book),
        (Generic, NoInputs, Book),
    ],
)
def test_which_models_an_agent_has(
    agent: type[BaseAgent], request_model: type[BaseModel], session_model: type[BaseModel]
) -> None:
    assert agent.RequestModel is request_model
    assert agent.CreateSessionModel is session_model


def test_defaults_remember_a_conversation_and_take_pictures_and_files() -> None:
    agent = Untyped()
    assert agent.history_runs == DEFAULT_HISTORY_RUNS == 20
    assert set(agent.accepted_media) == {MediaKind.IMAGE, MediaKind.FILE}
    assert agent.description == ""


async def test_hooks_accept_by_default_and_prepare_changes_nothing() -> None:
    agent = Untyped()
    caller = Caller("service", "ann")
    run = RunSetup(caller=caller, message="hi", inputs=NoInputs(), session_inputs=NoInputs())
    await agent.validate_create_session(NoInputs(), caller)
    await agent.validate_run(run)
    built = agent.build_agent()
    before = dict(vars(built))
    agent.prepare(built, run)
    assert vars(built) == before


def test_an_agent_without_build_agent_cannot_be_made() -> None:
    class Unfinished(BaseAgent):
        name = "unfinished"

    with pytest.raises(TypeError, match="build_agent"):
        Unfinished()  # type: ignore[abstract]  # that is the point


def test_prepare_sees_typed_inputs() -> None:
    agent = OnlyRequest()
    built = agent.build_agent()
    agent.prepare(
        built,
        RunSetup(caller=Caller("p"), message="hi", inputs=Verse(lines=7), session_inputs=NoInputs()),
    )
    assert built.additional_context == "Write 7 lines."


def test_a_run_setup_is_read_only_and_tells_who_asks() -> None:
    run = RunSetup(
        caller=Caller("service", "ann"), message="hi", inputs=Verse(), session_inputs=Book(title="t")
    )
    assert (run.principal, run.user) == ("service", "ann")
    assert run.run_id is None
    assert run.session_id is None
    assert run.media == ()
    with pytest.raises(FrozenInstanceError):
        run.message = "other"  # type: ignore[misc]  # that is the point


@pytest.mark.parametrize(
    ("field", "text"), [("topics[0]", "topics[0]: is odd"), ("", "is odd")], ids=["field", "whole"]
)
def test_invalid_says_where_and_what(field: str, text: str) -> None:
    error = Invalid(field, "is odd")
    assert (error.field, error.description, str(error)) == (field, "is odd", text)
    assert isinstance(error, ValueError)


def test_the_public_names() -> None:
    assert sorted(dragoman.agents.__all__) == [
        "BaseAgent",
        "BaseTeam",
        "Caller",
        "DEFAULT_HISTORY_RUNS",
        "Invalid",
        "Limits",
        "MediaKind",
        "NoInputs",
        "RunSetup",
        "agno_db",
    ]
    assert all(hasattr(dragoman.agents, name) for name in dragoman.agents.__all__)
