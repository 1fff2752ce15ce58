"""Whether an agent accepts a session or a run: its models, its hooks, and what a caller learns when it does not."""

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Annotated, Any
from uuid import UUID

import pytest
from agno.agent import Agent
from pydantic import AfterValidator, BaseModel, Field, PlainSerializer, TypeAdapter

from dragoman.agents import BaseAgent, Caller, Invalid, MediaKind, RunSetup
from dragoman.catalog import Catalog
from dragoman.catalog.entry import check
from dragoman.engine import ports
from dragoman.engine.ports import InputMedia, RunDraft
from dragoman.errors import AgentFailed, AgentNotFound, InvalidInput, SessionBusy, Violation
from dragoman.records import Owner, Session, utcnow
from dragoman.testing.offline import OfflineModel

MODEL = OfflineModel(delay=0)
OWNER = Owner("service", "ann")
SESSION_ID = UUID(int=1)


def _explode(value: int) -> int:
    if value == 13:
        raise RuntimeError("secret of the author")
    return value


class Verse(BaseModel):
    lines: Annotated[int, AfterValidator(_explode)] = Field(4, ge=1)
    topics: list[str] = []


class Book(BaseModel):
    title: str = "untitled"
    pages: Annotated[int, AfterValidator(_explode)] = 10
    volume: Annotated[int, PlainSerializer(lambda value: 1 // value)] = 1


class Poet(BaseAgent[Verse, Book]):
    """Raises what a test tells it to."""

    name = "poet"
    error: Exception | None = None
    seen: RunSetup[Verse, Book] | None = None
    asked: tuple[Book, Caller] | None = None

    async def validate_create_session(self, inputs: Book, caller: Caller) -> None:
        self.asked = (inputs, caller)
        if self.error:
            raise self.error

    async def validate_run(self, run: RunSetup[Verse, Book]) -> None:
        self.seen = run
        if self.error:
            raise self.error

    def build_agent(self) -> Agent:
        return Agent(model=MODEL)


def _catalog(*agents: BaseAgent[Any, Any]) -> ports.Catalog:
    return Catalog(check(agent, "test", None) for agent in agents)


def _session(agent_name: str = "poet", **inputs: object) -> Session:
    now = utcnow()
    return Session(SESSION_ID, OWNER, agent_name, "", {}, inputs, now, now)


def _draft(
    agent_name: str = "poet",
    session: Session | None = None,
    media: tuple[MediaKind, ...] = (),
    inputs: Mapping[str, object] | None = None,
) -> RunDraft:
    files = tuple(InputMedia(kind, "x/y", "", b"") for kind in media)
    return RunDraft(OWNER, agent_name, session, "hello", files, inputs or {}, {"trace": "7"})


async def test_a_session_gets_its_inputs_with_their_defaults() -> None:
    poet = Poet()
    assert await _catalog(poet).accept_session("poet", {"pages": 3.0}, OWNER) == {
        "title": "untitled",
        "pages": 3,
        "volume": 1,
    }
    assert poet.asked == (Book(pages=3), Caller("service", "ann"))


async def test_a_run_gets_its_inputs_and_the_hook_sees_all_of_it() -> None:
    poet = Poet()
    draft = _draft(
        session=_session(title="Odes"), media=(MediaKind.FILE, MediaKind.IMAGE), inputs={"lines": 2.0}
    )
    assert await _catalog(poet).accept_run(draft) == {"lines": 2, "topics": []}
    assert poet.seen == RunSetup(
        caller=Caller("service", "ann"),
        message="hello",
        inputs=Verse(lines=2),
        session_inputs=Book(title="Odes"),
        session_id=SESSION_ID,
        media=(MediaKind.FILE, MediaKind.IMAGE),
        metadata={"trace": "7"},
    )


async def test_a_run_that_makes_its_session_is_shown_what_that_will_have() -> None:
    poet = Poet()
    catalog = _catalog(poet)
    defaults = await catalog.accept_session("poet", {}, OWNER)
    await catalog.accept_run(replace(_draft(), session_inputs={**defaults, "title": "Odes"}))
    assert poet.seen is not None
    assert (poet.seen.session_id, poet.seen.session_inputs) == (None, Book(title="Odes"))


async def test_a_session_from_before_the_agent_changed_may_not_fit() -> None:
    catalog = _catalog(Poet())
    assert await catalog.accept_run(_draft(session=_session(field_of_old=1, title="Odes")))
    with pytest.raises(InvalidInput) as caught:
        await catalog.accept_run(_draft(session=_session(pages="none")))
    (violation,) = caught.value.violations
    assert violation.field == "session_id"
    assert violation.description.endswith("make a new session")


def _pydantic_error() -> Exception:
    try:
        TypeAdapter(list[int]).validate_python(["a", 1, "b"])
    except ValueError as error:
        return error
    raise AssertionError


REFUSALS = [
    (Invalid("topics[0]", "is odd"), [("inputs.topics[0]", "is odd")]),
    (Invalid("", "is odd"), [("inputs", "is odd")]),
    (Invalid("inputs.topics", "is odd"), [("inputs.topics", "is odd")]),
    (Invalid("[0]", "is odd"), [("inputs[0]", "is odd")]),
    (ValueError("is odd"), [("inputs", "is odd")]),
    (ValueError(), [("inputs", "is refused by the agent")]),
    (InvalidInput([Violation("a", "x"), Violation("b", "y")]), [("a", "x"), ("b", "y")]),
]
BOTH_HOOKS = [(name, error, violations) for name in ("session", "run") for error, violations in REFUSALS]


@pytest.mark.parametrize(
    ("hook", "error", "violations"),
    [
        *BOTH_HOOKS,
        ("run", Invalid("message", "is rude"), [("message", "is rude")]),
        ("run", Invalid("media", "is needed"), [("media", "is needed")]),
        ("run", Invalid("media[1]", "is dark"), [("media[1]", "is dark")]),
        ("run", Invalid("messages", "is odd"), [("inputs.messages", "is odd")]),
        ("session", Invalid("message", "is odd"), [("inputs.message", "is odd")]),
        ("session", Invalid("media", "is odd"), [("inputs.media", "is odd")]),
    ],
)
async def test_a_hook_refuses(hook: str, error: Exception, violations: list[tuple[str, str]]) -> None:
    with pytest.raises(InvalidInput) as caught:
        await _call(hook, error)
    assert [(violation.field, violation.description) for violation in caught.value.violations] == violations


async def test_a_hook_may_validate_with_pydantic_itself() -> None:
    with pytest.raises(InvalidInput) as caught:
        await _call("run", _pydantic_error())
    assert len(caught.value.violations) == 2
    assert all(violation.description.startswith("Input should be") for violation in caught.value.violations)


@pytest.mark.parametrize("hook", ["session", "run"])
@pytest.mark.parametrize("error", [KeyError("secret"), RuntimeError("secret"), OSError("secret")])
async def test_a_fault_of_the_agent_is_logged_and_not_told(
    hook: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AgentFailed) as caught:
        await _call(hook, error)
    assert caught.value.metadata == {"agent_name": "poet"}
    assert "secret" not in str(caught.value)
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert record.exc_info is not None
    assert record.exc_info[1] is error
    assert vars(record)["agent_name"] == "poet"


@pytest.mark.parametrize(
    "call",
    [
        lambda catalog: catalog.accept_session("poet", {"pages": 13}, OWNER),
        lambda catalog: catalog.accept_session("poet", {"volume": 0}, OWNER),
        lambda catalog: catalog.accept_run(_draft(inputs={"lines": 13})),
        lambda catalog: catalog.accept_run(_draft(session=_session(pages=13))),
    ],
    ids=["session", "serializer", "run", "stored session"],
)
async def test_a_model_that_breaks_is_a_fault_of_the_agent(
    call: Callable[[ports.Catalog], Awaitable[object]], caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(AgentFailed):
        await call(_catalog(Poet()))
    assert len(caplog.records) == 1


async def test_other_domain_errors_of_a_hook_pass() -> None:
    with pytest.raises(SessionBusy):
        await _call("run", SessionBusy(1, 2))


async def test_the_hook_is_not_asked_about_inputs_that_the_model_refuses() -> None:
    poet = Poet()
    with pytest.raises(InvalidInput):
        await _catalog(poet).accept_run(_draft(inputs={"lines": 0}))
    with pytest.raises(InvalidInput):
        await _catalog(poet).accept_session("poet", {"lines": 0}, OWNER)
    assert (poet.seen, poet.asked) == (None, None)


async def test_an_unknown_name_is_not_found() -> None:
    catalog = Catalog([])
    for call in (catalog.accept_session("nobody", {}, OWNER), catalog.accept_run(_draft("nobody"))):
        with pytest.raises(AgentNotFound):
            await call
    for ask in (catalog.agent, catalog.history_runs):
        with pytest.raises(AgentNotFound):
            ask("nobody")


async def _call(hook: str, error: Exception) -> None:
    poet = Poet()
    poet.error = error
    if hook == "session":
        await _catalog(poet).accept_session("poet", {}, OWNER)
    else:
        await _catalog(poet).accept_run(_draft(session=_session()))
