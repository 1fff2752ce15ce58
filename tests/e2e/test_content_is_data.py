"""What people, models and tools say is data everywhere: never SQL, never a template, never a line of the log."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from agno.agent import Agent
from agno.team import Team, TeamMode
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct
from pydantic import BaseModel
from sqlalchemy import Engine, event
from support.e2e import claude, kinds, stubs, text_of
from support.teams import Cast

from dragoman.agents import BaseAgent, BaseTeam
from dragoman.telemetry import configure_logging
from dragoman.testing.anthropic import FakeAnthropic, Recorded, Text, ToolUse, Turn
from dragoman.testing.serving import serving
from dragoman.v1 import message_pb2, run_service_pb2, session_service_pb2, usage_service_pb2

STATE = "STATEWORD"
"""What an agent keeps in its state and its dependencies: text in which a caller names them must not bring it out."""

SAYINGS = {
    "templates": "{hidden} ${hidden} $hidden {user_id} {{hidden}} {0} {0.__class__} {% if x %} {{ 7*7 }} %(hidden)s %s $$5 US$$",
    "sql": "'; DROP TABLE chat_events; -- \" ` \\' OR '1'='1 /* :hidden %(hidden)s ? */ \\",
    "logs": 'line\nINFO forged {"event": "run ended"}\r\n\x1b[31mred\x1b[0m \u202e \u2028 \x9b31m',
    "markup": "<script>alert(1)</script> &amp; ]]> [red]rich[/red] ${jndi:ldap://x} $(id) `id`",
    "numbers": "NaN -0 1e999 0x10 \u0661\u0662 \U0001f469\u200d\U0001f469\u200d\U0001f467 e\u0301 \ufeff \uffff",
}


class Wanted(BaseModel):
    """What the agent below may be given besides words."""

    note: str = ""
    keys: dict[str, str] = {}


class Listener(BaseAgent[Wanted]):
    """Has secrets where Agno's templates look for values."""

    name = "listener"
    description = "Listens."
    history_runs = None

    def __init__(self, fake: FakeAnthropic) -> None:
        self.model = claude(fake)

    def build_agent(self) -> Agent:
        return Agent(
            model=self.model,
            instructions="The word is {hidden}.",
            tools=[echo],
            session_state={"hidden": STATE},
            dependencies={"hidden": STATE},
            telemetry=False,
        )


class Lead(BaseTeam):
    """A team of a test's own."""

    name = "lead"
    description = "Leads."

    def __init__(self, build: Callable[[], Team]) -> None:
        self.build_scene = build

    def build_team(self) -> Team:
        return self.build_scene()


def echo(text: str) -> str:
    """Gives back what it was given."""
    return f"echo: {text}"


@dataclass
class Spied:
    """What went to the database's driver."""

    statements: list[str] = field(default_factory=list)
    parameters: list[str] = field(default_factory=list)


@pytest.fixture
def spied() -> Iterator[Spied]:
    found = Spied()

    def before(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        found.statements.append(statement)
        found.parameters.append(repr(parameters))

    event.listen(Engine, "before_cursor_execute", before)
    yield found
    event.remove(Engine, "before_cursor_execute", before)


def texts(value: Any) -> list[str]:
    """All strings in a JSON value."""
    if isinstance(value, dict):
        return [text for each in value.values() for text in texts(each)]
    if isinstance(value, list):
        return [text for each in value for text in texts(each)]
    return [value] if isinstance(value, str) else []


def said_to_model(requests: Iterable[Recorded]) -> list[str]:
    """All texts of the requests' messages, as the provider has received them."""
    return [text for request in requests for text in texts(request.messages)]


@pytest.mark.parametrize("kind", SAYINGS)
async def test_a_text_reaches_the_model_and_comes_back_as_it_is(kind: str) -> None:
    """As a message, as the model's answer, a tool's argument and result, and as history in the next run."""
    text = SAYINGS[kind]
    async with FakeAnthropic() as fake:
        fake.script(Turn([Text(text), ToolUse("t1", "echo", {"text": text})]), Turn(text), Turn(text))
        async with serving(Listener(fake)) as server, stubs(server.address) as client:
            events = await client.run("listener", text)
            assert kinds(events)[-1] == "run_completed"
            assert text_of(events) == text * 2
            session_id = events[0].run_started.session_id
            assert text_of(await client.run("listener", text, session_id=session_id)) == text
            request = session_service_pb2.ListMessagesRequest(session_id=session_id)
            kept = (await client.sessions.ListMessages(request)).messages
    assert [message.content for message in kept if message.role == message_pb2.MESSAGE_ROLE_USER] == [
        text,
        text,
    ]
    sent = said_to_model(fake.requests)
    assert sent.count(text) >= 6, "said, answered, and remembered"
    assert f"echo: {text}" in sent
    assert not [each for each in sent if STATE in each]
    # The author's own template is filled in: it is not that the agent had nothing to tell.
    assert STATE in fake.requests[0].system


async def test_what_a_leader_says_to_a_member_is_no_template() -> None:
    """A leader may have been talked into naming what its members keep."""
    task = SAYINGS["templates"]
    async with FakeAnthropic() as fake:
        model = claude(fake)
        cast = Cast(fake, lambda: model)
        call = {"member_id": "ann", "task": task}
        cast.plays("Lead", Turn([ToolUse("d1", "delegate_task_to_member", call)]))

        def build() -> Team:
            ann = cast.agent("Ann", session_state={"hidden": STATE}, dependencies={"hidden": STATE})
            return cast.team("Lead", [ann], TeamMode.coordinate, dependencies={"hidden": STATE})

        async with serving(Lead(build)) as server, stubs(server.address) as client:
            events = await client.run("lead", task)
            assert kinds(events)[-1] == "run_completed", events[-1]
        ann = said_to_model(cast.requests("Ann"))
    assert any(task in text for text in ann)
    assert not [text for text in said_to_model(fake.requests) if STATE in text]


MARK = "ZZMARKERZZ"


async def test_nothing_that_is_said_is_part_of_a_statement(spied: Spied, database_url: str) -> None:
    """A word in every field that a caller, a model or a tool fills: in parameters, and in no statement."""
    said = f"{MARK} {SAYINGS['sql']}"
    inputs = Struct()
    ParseDict({"note": said, "keys": {said: said}}, inputs)
    async with FakeAnthropic() as fake:
        fake.script(Turn([Text(said), ToolUse("t1", "echo", {"text": said})]), Turn(said))
        async with (
            serving(Listener(fake), database_url=database_url) as server,
            stubs(server.address) as client,
        ):
            # Metadata of a call are ASCII.
            plain = said.encode("ascii", "ignore").decode()[:100].strip()
            session = await client.sessions.CreateSession(
                session_service_pb2.CreateSessionRequest(
                    agent_name="listener", title=said, metadata={"note": said}
                ),
                metadata=(("x-user-id", plain),),
            )
            request = run_service_pb2.RunRequest(
                agent_name="listener",
                session_id=session.session.id,
                message=said,
                inputs=inputs,
                request_id=f"{MARK}-1",
                metadata={"note": said},
            )
            events = [each async for each in client.runs.Run(request, metadata=(("x-user-id", plain),))]
            assert kinds(events)[-1] == "run_completed", events[-1]
            cancel = run_service_pb2.CancelRunRequest(run_id=events[0].run_started.run_id)
            await client.runs.CancelRun(cancel, metadata=(("x-user-id", plain),))
            query = usage_service_pb2.QueryUsageRequest(agent_name=f"{MARK}-x")
            await client.usage.QueryUsage(query, metadata=(("x-user-id", plain),))
    assert not [statement for statement in spied.statements if MARK in statement]
    assert len([parameters for parameters in spied.parameters if MARK in parameters]) > 5


@pytest.fixture
def _logging() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers, root.level
    yield
    root.handlers, level = before
    root.setLevel(level)


@pytest.mark.usefixtures("_logging")
async def test_nothing_that_is_said_is_in_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    configure_logging("INFO", "json")
    said = f"{MARK} {SAYINGS['logs']}"
    async with FakeAnthropic() as fake:
        fake.script(Turn([Text(said), ToolUse("t1", "echo", {"text": said})]), Turn(said))
        async with serving(Listener(fake)) as server, stubs(server.address) as client:
            session = await client.sessions.CreateSession(
                session_service_pb2.CreateSessionRequest(
                    agent_name="listener", title=f"{MARK} title", metadata={"note": MARK}
                )
            )
            events = await client.run("listener", said, session_id=session.session.id, metadata={"a": MARK})
            assert kinds(events)[-1] == "run_completed"
    lines = capsys.readouterr().err.splitlines()
    assert any(json.loads(line)["event"] == "run ended" for line in lines), lines
    assert not [line for line in lines if MARK in line or "forged" in line]


@pytest.mark.usefixtures("_logging")
@pytest.mark.parametrize("form", ["json", "text"])
def test_a_line_of_the_log_is_one_line(form: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Names come from configuration and headers; whatever is in them forges no line and colours no terminal."""
    configure_logging("INFO", form)
    logging.getLogger("dragoman.test").warning("a happening", extra={"agent": SAYINGS["logs"]})
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "\x1b[31m" not in written
    assert "\x9b" not in written
