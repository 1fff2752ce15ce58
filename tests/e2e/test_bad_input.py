"""Everything that a caller can get wrong is a typed error with its field's path, and leaves nothing behind."""

import uuid
from collections.abc import AsyncIterator
from typing import Any, Literal

import grpc
import pytest
import sqlalchemy
from agno.agent import Agent
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel, Field
from support.e2e import Stubs, reason_of, stubs

from dragoman.agents import BaseAgent, MediaKind
from dragoman.testing.picture import render_png
from dragoman.testing.scripted import ScriptedModel
from dragoman.testing.serving import serving
from dragoman.v1 import (
    agent_service_pb2,
    message_pb2,
    run_service_pb2,
    session_service_pb2,
    usage_service_pb2,
)


class Topic(BaseModel):
    name: str = Field(max_length=10)


class Request(BaseModel):
    tone: Literal["dry", "warm"] = "dry"
    words: int = Field(default=10, ge=1, le=100)
    topics: list[Topic] = Field(default_factory=list, max_length=2)


class SessionRequest(BaseModel):
    language: str = Field(default="en", pattern="^[a-z]{2}$")


class Strict(BaseAgent[Request, SessionRequest]):
    name = "strict"
    description = "Refuses a lot."
    accepted_media = (MediaKind.IMAGE,)

    def build_agent(self) -> Agent:
        return Agent(model=MODEL, telemetry=False)


class Other(Strict):
    name = "other"


class NeedsInputs(BaseAgent[Request, Topic]):
    name = "needs"

    def build_agent(self) -> Agent:
        return Agent(model=MODEL, telemetry=False)


MODEL = ScriptedModel(turns=[])
UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"
PNG = render_png("word")


def struct(**values: Any) -> Struct:
    made = Struct()
    made.update(values)
    return made


def image(data: bytes = PNG, mime: str = "image/png", **fields: Any) -> message_pb2.MediaInput:
    return message_pb2.MediaInput(data=data, mime_type=mime, **fields)


def run(**fields: Any) -> run_service_pb2.RunRequest:
    return run_service_pb2.RunRequest(**{"agent_name": "strict", "message": "hello", **fields})


Fields = set[str]
RUNS: list[tuple[str, run_service_pb2.RunRequest, str, str, Fields]] = [
    ("no agent", run(agent_name=""), "INVALID_ARGUMENT", "INVALID_INPUT", {"agent_name"}),
    ("unknown agent", run(agent_name="nobody"), "NOT_FOUND", "AGENT_NOT_FOUND", set()),
    ("unknown session", run(session_id=UNKNOWN), "NOT_FOUND", "SESSION_NOT_FOUND", set()),
    ("not a UUID", run(session_id="42"), "INVALID_ARGUMENT", "INVALID_INPUT", {"session_id"}),
    ("empty message", run(message=""), "INVALID_ARGUMENT", "INVALID_INPUT", {"message"}),
    (
        "oversize message",
        run(message="x" * (1024 * 1024 + 1)),
        "INVALID_ARGUMENT",
        "INVALID_INPUT",
        {"message"},
    ),
    (
        "bad image bytes",
        run(media=[image(b"not a picture")]),
        "INVALID_ARGUMENT",
        "INVALID_MEDIA",
        {"media[0].data"},
    ),
    ("truncated image", run(media=[image(PNG[:40])]), "INVALID_ARGUMENT", "INVALID_MEDIA", {"media[0].data"}),
    (
        "wrong MIME",
        run(media=[image(), image(mime="image/jpeg")]),
        "INVALID_ARGUMENT",
        "INVALID_MEDIA",
        {"media[1].mime_type"},
    ),
    ("empty image", run(media=[image(b"")]), "INVALID_ARGUMENT", "INVALID_MEDIA", {"media[0].data"}),
    (
        "media not accepted",
        run(media=[image(b"%PDF-1.7\n%%EOF\n", "application/pdf")]),
        "INVALID_ARGUMENT",
        "INVALID_INPUT",
        {"media[0]"},
    ),
    ("unknown field", run(inputs=struct(tome="dry")), "INVALID_ARGUMENT", "INVALID_INPUT", {"inputs.tome"}),
    (
        "every violation at once",
        run(inputs=struct(tone="loud", words=0, topics=[{"name": "ok"}, {"name": "x" * 11, "more": 1}])),
        "INVALID_ARGUMENT",
        "INVALID_INPUT",
        {"inputs.tone", "inputs.words", "inputs.topics[1].name", "inputs.topics[1].more"},
    ),
    ("session needs inputs", run(agent_name="needs"), "INVALID_ARGUMENT", "INVALID_INPUT", {"session_id"}),
    (
        "bad labels",
        run(metadata={f"k{n}": "v" for n in range(33)}),
        "INVALID_ARGUMENT",
        "INVALID_INPUT",
        {"metadata"},
    ),
]


@pytest.fixture
async def client(database_url: str) -> AsyncIterator[Stubs]:
    async with (
        serving(Strict(), Other(), NeedsInputs(), database_url=database_url) as server,
        stubs(server.address) as made,
    ):
        yield made


@pytest.fixture
def rows(database_url: str) -> "Counter":
    return Counter(database_url)


class Counter:
    """How many rows there are in all of our tables."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __call__(self) -> dict[str, int]:
        engine = sqlalchemy.create_engine(self._url, poolclass=sqlalchemy.pool.NullPool)
        with engine.connect() as connection:
            names = sqlalchemy.inspect(connection).get_table_names()
            assert {"sessions", "runs", "chat_events", "model_calls"} <= set(names)
            return {
                name: connection.scalar(sqlalchemy.text(f"SELECT COUNT(*) FROM {name}")) or 0
                for name in names
            }


def assert_typed(error: grpc.aio.AioRpcError, code: str, reason: str, fields: Fields) -> None:
    assert error.code().name == code, error
    details = reason_of(error)
    info = details["ErrorInfo"]
    assert info.domain == "dragoman"
    assert info.reason == reason
    found = {violation.field for violation in details["BadRequest"].field_violations} if fields else set()
    assert found == fields
    if fields:
        assert all(violation.description for violation in details["BadRequest"].field_violations)


async def test_bad_runs_are_refused_and_nothing_is_written(client: Stubs, rows: Counter) -> None:
    before = rows()
    for name, request, code, reason, fields in RUNS:
        with pytest.raises(grpc.aio.AioRpcError) as streamed:
            _ = [event async for event in client.runs.Run(request)]
        assert_typed(streamed.value, code, reason, fields)
        with pytest.raises(grpc.aio.AioRpcError) as unary:
            await client.runs.Execute(request)
        assert_typed(unary.value, code, reason, fields)
        assert rows() == before, name


async def test_another_agents_session_is_as_one_that_never_was(client: Stubs, rows: Counter) -> None:
    made = await client.sessions.CreateSession(session_service_pb2.CreateSessionRequest(agent_name="other"))
    before = rows()
    answers = []
    for session_id in (made.session.id, UNKNOWN):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await client.runs.Execute(run(session_id=session_id))
        assert_typed(caught.value, "NOT_FOUND", "SESSION_NOT_FOUND", set())
        answers.append((caught.value.details() or "").replace(session_id, "ID"))
    assert answers[0] == answers[1]
    assert rows() == before


def other_calls(client: Stubs, token: str) -> list[tuple[Any, Any, str, str, Fields]]:
    sessions, runs, usage = session_service_pb2, run_service_pb2, usage_service_pb2
    bad, missing = "INVALID_ARGUMENT", "NOT_FOUND"
    return [
        (
            client.agents.GetAgent,
            agent_service_pb2.GetAgentRequest(name="nobody"),
            missing,
            "AGENT_NOT_FOUND",
            set(),
        ),
        (
            client.sessions.CreateSession,
            sessions.CreateSessionRequest(agent_name="strict", inputs=struct(language="English", extra=True)),
            bad,
            "INVALID_INPUT",
            {"inputs.language", "inputs.extra"},
        ),
        (
            client.sessions.GetSession,
            sessions.GetSessionRequest(session_id=UNKNOWN),
            missing,
            "SESSION_NOT_FOUND",
            set(),
        ),
        (
            client.sessions.GetSession,
            sessions.GetSessionRequest(session_id="x"),
            bad,
            "INVALID_INPUT",
            {"session_id"},
        ),
        (
            client.sessions.ListSessions,
            sessions.ListSessionsRequest(page_size=-1),
            bad,
            "INVALID_INPUT",
            {"page_size"},
        ),
        (
            client.sessions.ListSessions,
            sessions.ListSessionsRequest(page_token="x"),
            bad,
            "PAGE_TOKEN_INVALID",
            {"page_token"},
        ),
        (
            client.sessions.ListSessions,
            sessions.ListSessionsRequest(page_token=token, agent_name="other"),
            bad,
            "PAGE_TOKEN_INVALID",
            {"page_token"},
        ),
        (
            client.runs.ListRuns,
            runs.ListRunsRequest(page_token=token),
            bad,
            "PAGE_TOKEN_INVALID",
            {"page_token"},
        ),
        (
            client.sessions.UpdateSession,
            sessions.UpdateSessionRequest(session_id=UNKNOWN),
            bad,
            "INVALID_INPUT",
            {"update_mask"},
        ),
        (
            client.sessions.DeleteSession,
            sessions.DeleteSessionRequest(session_id=UNKNOWN),
            missing,
            "SESSION_NOT_FOUND",
            set(),
        ),
        (
            client.sessions.ListMessages,
            sessions.ListMessagesRequest(session_id=UNKNOWN),
            missing,
            "SESSION_NOT_FOUND",
            set(),
        ),
        (client.runs.GetRun, runs.GetRunRequest(run_id=UNKNOWN), missing, "RUN_NOT_FOUND", set()),
        (client.runs.CancelRun, runs.CancelRunRequest(run_id=UNKNOWN), missing, "RUN_NOT_FOUND", set()),
        (
            client.runs.CancelRun,
            runs.CancelRunRequest(run_id="", note="x" * 256),
            bad,
            "INVALID_INPUT",
            {"run_id", "note"},
        ),
        (client.usage.QueryUsage, usage.QueryUsageRequest(page_size=-5), bad, "INVALID_INPUT", {"page_size"}),
        (
            client.usage.QueryUsage,
            usage.QueryUsageRequest(group_by=[usage.USAGE_DIMENSION_DAY] * 2),
            bad,
            "INVALID_INPUT",
            {"group_by[1]"},
        ),
    ]


async def test_the_other_calls(client: Stubs, rows: Counter) -> None:
    for _ in range(2):
        await client.sessions.CreateSession(session_service_pb2.CreateSessionRequest(agent_name="strict"))
    page = await client.sessions.ListSessions(
        session_service_pb2.ListSessionsRequest(page_size=1, agent_name="strict")
    )
    assert page.next_page_token
    before = rows()
    for method, request, code, reason, fields in other_calls(client, page.next_page_token):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await method(request)
        assert_typed(caught.value, code, reason, fields)
        assert rows() == before


async def test_ids_are_made_by_the_server_and_are_version_7(client: Stubs) -> None:
    made = await client.sessions.CreateSession(session_service_pb2.CreateSessionRequest(agent_name="strict"))
    assert uuid.UUID(made.session.id).version == 7
