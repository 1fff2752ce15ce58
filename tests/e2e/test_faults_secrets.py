"""What nobody may read: exceptions' texts in what callers get; what was said, and keys, in the log."""

import json
import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from agno.agent import Agent
from agno.models.anthropic import Claude
from support.e2e import MODEL_ID, Stubs, kinds, stubs

from dragoman.agents import BaseAgent
from dragoman.telemetry import configure_logging
from dragoman.testing.anthropic import ErrorEvent, FakeAnthropic, HttpError, Text, ToolUse, Turn
from dragoman.testing.serving import serving
from dragoman.v1 import run_service_pb2, session_service_pb2

KEY = "sk-ant-api03-KEYWORD"
SAID, ANSWERED, ASKED, RETURNED = "PROMPTWORD", "ANSWERWORD", "ARGUMENTWORD", "RESULTWORD"
RAISED, PROVIDER = "RAISEDWORD", "PROVIDERWORD"
AGNO = ("agno", "agno-team", "agno-workflow")


def fine(city: str) -> str:
    """Works."""
    return RETURNED


def broken(city: str) -> str:
    """Raises."""
    raise RuntimeError(RAISED)


async def broken_later(city: str) -> AsyncIterator[str]:
    """Raises in the middle."""
    yield RETURNED
    raise RuntimeError(RAISED)


async def broken_hook(**_: object) -> None:
    raise RuntimeError(RAISED)


class Careless(BaseAgent):
    """Has tools and hooks that raise, and is in debug mode."""

    name = "careless"
    description = "Raises."
    tools = (fine, broken, broken_later)

    def __init__(self, fake: FakeAnthropic) -> None:
        self.model = Claude(id=MODEL_ID, api_key=KEY, client_params={"base_url": fake.url})

    def build_agent(self) -> Agent:
        return Agent(
            model=self.model,
            tools=list(self.tools),
            pre_hooks=[broken_hook],
            post_hooks=[broken_hook],
            debug_mode=True,
        )


class Unprepared(Careless):
    """Raises before it begins."""

    name = "unprepared"

    def prepare(self, agent: Agent, run: Any) -> None:
        raise RuntimeError(RAISED)


@pytest.fixture
def _logging() -> Iterator[None]:
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in AGNO)]
    before = [(logger, logger.handlers, logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, level, propagate in before:
        logger.handlers, logger.propagate = handlers, propagate
        logger.setLevel(level)


def tool_turn() -> Turn:
    calls = [ToolUse(name, name, {"city": ASKED}) for name in ("fine", "broken", "broken_later", "made_up")]
    return Turn([Text(ANSWERED), *calls])


RUNS: list[tuple[str, str, list[Turn | HttpError], str]] = [
    ("tools raise", "careless", [tool_turn(), Turn(ANSWERED)], "run_completed"),
    ("the key is refused", "careless", [HttpError(401, message=f"{PROVIDER} {KEY}")], "run_failed"),
    ("the request is refused", "careless", [HttpError(400, message=PROVIDER)], "run_failed"),
    (
        "the provider breaks off",
        "careless",
        [Turn(f"{ANSWERED} and more", error_after=ErrorEvent(1, message=PROVIDER))],
        "run_failed",
    ),
    ("the connection breaks", "careless", [Turn(f"{ANSWERED} and more", drop_after=1)], "run_failed"),
    ("the agent cannot begin", "unprepared", [], "run_failed"),
]


async def everything_of(client: Stubs, session_id: str) -> str:
    """All that a caller can read of a session, but for the events."""
    pages: list[object] = [
        await client.sessions.GetSession(session_service_pb2.GetSessionRequest(session_id=session_id)),
        await client.sessions.ListMessages(session_service_pb2.ListMessagesRequest(session_id=session_id)),
        await client.runs.ListRuns(run_service_pb2.ListRunsRequest(session_id=session_id)),
    ]
    return "".join(map(str, pages))


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize("level", ["INFO", "DEBUG"])
@pytest.mark.parametrize(
    ("agent", "turns", "end"), [case[1:] for case in RUNS], ids=[case[0] for case in RUNS]
)
async def test_nothing_leaks(
    agent: str, turns: list[Turn | HttpError], end: str, level: str, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(level, "json")
    async with FakeAnthropic() as fake:
        fake.script(*turns)
        async with (
            serving(Careless(fake), Unprepared(fake), model_retries=0) as server,
            stubs(server.address) as client,
        ):
            events = await client.run(agent, SAID)
            assert kinds(events)[-1] == end
            told = "".join(map(str, events)) + await everything_of(client, events[0].run_started.session_id)
            fake.script(*turns)
            answer = await client.runs.Execute(run_service_pb2.RunRequest(agent_name=agent, message=SAID))
            told += str(answer)
    for secret in (KEY, RAISED, PROVIDER):
        assert secret not in told
    out, err = capsys.readouterr()
    assert out == ""
    lines = [json.loads(line) for line in err.splitlines() if line.startswith("{")]
    assert any(line["event"] == "run ended" for line in lines)
    # At level DEBUG Agno speaks for itself, and quotes what it has from providers and tools.
    own = "".join(str(line) for line in lines if line["logger"] not in AGNO)
    assert KEY not in own
    for content in (SAID, ANSWERED, RETURNED):
        assert content not in err
    if level == "INFO":
        assert KEY not in err
        assert ASKED not in err
        if agent == "careless":
            assert RAISED not in err
