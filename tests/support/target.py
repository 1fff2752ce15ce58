"""The server that is attacked: real gRPC, engine, storage and Agno, a model that plays; and what must be true of it, always.

    with target() as server:                           # on an event loop of its own
        said = server.do(server.call(path, data))      # any bytes to any method; what comes back has been judged
        server.do(server.settled())                    # nothing of it is left behind

Every answer is an answer of the method's type, or a status with an ErrorInfo of ours that no defect has caused, in time. Nothing
is logged as an error. When all is said the tables agree with each other, no run is left open and no task, and the next caller
is served as if nothing had been.
"""

import asyncio
import logging
import sqlite3
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import grpc
from agno.agent import Agent
from agno.tools import tool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from pydantic import BaseModel, Field
from support import nasty
from support.e2e import Stubs

from dragoman.agents import BaseAgent, MediaKind
from dragoman.records import TokenUsage
from dragoman.status import CODES, DOMAIN, MAX_DETAILS
from dragoman.testing.scripted import Request, ScriptedModel, ToolCall, Turn
from dragoman.testing.serving import Serving, serving
from dragoman.v1 import event_pb2, message_pb2, run_service_pb2, session_service_pb2

DEADLINE = 60.0
"""Seconds in which any call must have been answered, on a busy machine."""

DEFECTS = frozenset({"INTERNAL", "AGENT_FAILED", "STORAGE_UNAVAILABLE"})
REASONS = frozenset(error.reason for error in CODES) - DEFECTS
"""What a caller may be told who sends nonsense to a server that is well."""

ENDS = ("run_completed", "run_failed", "run_cancelled", "run_paused")
OURS = (
    "Traceback",
    'File "',
    "sqlalchemy",
    "sqlite",
    "OperationalError",
    "site-packages",
    "pydantic",
    "DecodeError",
)
"""What only our own code, a library or a driver would say."""

T = TypeVar("T")


class Wanted(BaseModel):
    """Inputs of several types."""

    lines: int = Field(default=1, ge=0, le=100)
    note: str = Field(default="", max_length=100)
    options: dict[str, object] = {}


class Echo(BaseAgent[Wanted, Wanted]):
    """Answers in two pieces whatever it is told."""

    name = "echo"
    description = "Answers."
    accepted_media = tuple(MediaKind)

    def __init__(self) -> None:
        self.model = ScriptedModel(respond=_answer)

    def build_agent(self) -> Agent:
        self.model.requests.clear()
        return Agent(model=self.model, telemetry=False)


class Asker(BaseAgent):
    """Asks before it does anything."""

    name = "asker"
    description = "Pauses."

    def __init__(self) -> None:
        self.model = ScriptedModel(respond=_ask)

    def build_agent(self) -> Agent:
        self.model.requests.clear()
        return Agent(model=self.model, tools=[erase], telemetry=False)


class Waiter(BaseAgent):
    """Never ends by itself."""

    name = "waiter"
    description = "Waits."

    def __init__(self) -> None:
        self.model = ScriptedModel(respond=_wait)

    def build_agent(self) -> Agent:
        self.model.requests.clear()
        return Agent(model=self.model, telemetry=False)


@tool(requires_confirmation=True)
def erase(what: str) -> str:
    """Erases something."""
    return f"erased {what}"


def _answer(_: Request) -> Turn:
    return ["Hel", "lo.", TokenUsage(input_tokens=4, output_tokens=2)]


def _ask(request: Request) -> Turn:
    return ["Done."] if request.messages[-1].role == "tool" else [ToolCall("erase", {"what": "it"})]


def _wait(_: Request) -> Turn:
    return ["Well, ", asyncio.Event()]


@dataclass(frozen=True, slots=True)
class Said:
    """What came back: messages of the method's type, and the reason of the error, if there was one."""

    messages: Sequence[Any]
    reason: str


class Target:
    """A server, a channel to it, and a few things in it that requests can name."""

    def __init__(self, runner: "asyncio.Runner") -> None:
        self._runner = runner
        self._stack = AsyncExitStack()
        self._logged = _Logged()
        self.ids: dict[bytes, bytes] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Runs it on the server's loop."""
        return self._runner.run(work)

    async def open(self, directory: Path) -> None:
        """Starts the server."""
        self._file = directory / "target.db"
        self._database = f"sqlite:///{self._file}"
        self.serving: Serving = await self._stack.enter_async_context(
            serving(
                Echo(),
                Asker(),
                Waiter(),
                database_url=self._database,
                sqlite_synchronous="NORMAL",
                request_rate_per_principal=0,
                max_media_bytes=100_000,
            )
        )
        options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
        self.channel = await self._stack.enter_async_context(
            grpc.aio.insecure_channel(self.serving.address, options=options)
        )
        self.stubs = Stubs(self.channel)
        logging.getLogger().addHandler(self._logged)
        await self._renew()
        await self.settled()
        self._tasks = len(asyncio.all_tasks())

    async def close(self) -> None:
        """Stops it."""
        logging.getLogger().removeHandler(self._logged)
        await self._stack.aclose()

    async def call(self, path: str, data: bytes) -> Said:
        """Sends the bytes, with ids of things that are there for those that stand for them, and judges what comes back."""
        for placeholder, real in self.ids.items():
            data = data.replace(placeholder, real)
        method = nasty.METHODS[path]
        kind = GetMessageClass(method.output_type)
        messages: list[Any] = []
        reason = ""
        try:
            if method.server_streaming:
                stream: Any = self.channel.unary_stream(path)
                messages.extend([kind.FromString(each) async for each in stream(data, timeout=DEADLINE)])
            else:
                unary: Any = self.channel.unary_unary(path)
                messages.append(kind.FromString(await unary(data, timeout=DEADLINE)))
        except grpc.aio.AioRpcError as error:
            reason = judge(error)
        if messages and kind is event_pb2.RunEvent:
            judge_events(messages, reason)
        if path.endswith(("/DeleteSession", "/ContinueRun")) and not reason:
            await self._renew()
        return Said(messages, reason)

    async def settled(self) -> None:
        """The next caller is served, and nothing is left of those before. What must be true of the tables is true."""
        events = await self.stubs.run("echo", "hello")
        assert [event.WhichOneof("event") for event in events][-1] == "run_completed"
        assert "".join(event.content_delta.text for event in events) == "Hello."
        health = health_pb2_grpc.HealthStub(self.channel)
        said = await health.Check(health_pb2.HealthCheckRequest())
        assert said.status == health_pb2.HealthCheckResponse.SERVING
        assert self.serving.server.engine.active_runs == 0
        self._logged.nothing()
        async with asyncio.timeout(DEADLINE):
            while len(asyncio.all_tasks()) > getattr(self, "_tasks", 1 << 30):
                await asyncio.sleep(0.01)
        check_tables(self._file)

    async def ended(self, run_id: str) -> list[event_pb2.RunEvent]:
        """All stored events of a run that has ended: gapless, with one end."""
        request = run_service_pb2.AttachRunRequest(run_id=run_id, detail=run_service_pb2.EVENT_DETAIL_ALL)
        events = [event async for event in self.stubs.runs.AttachRun(request, timeout=DEADLINE)]
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        ends = [event.WhichOneof("event") in ENDS[:3] for event in events]
        assert ends == [False] * (len(events) - 1) + [True]
        return events

    async def _renew(self) -> None:
        """A session with a run and a medium in it, and a paused run in another."""
        picture = message_pb2.MediaInput(
            kind=message_pb2.MEDIA_KIND_IMAGE, mime_type="image/png", data=nasty.PNG
        )
        ended = (await self.stubs.run("echo", "hello", media=[picture]))[0].run_started
        request = session_service_pb2.ListMessagesRequest(session_id=ended.session_id)
        listed = (await self.stubs.sessions.ListMessages(request)).messages
        medium = next(medium for message in listed for medium in message.media)
        paused = await self.stubs.run("asker", "hello")
        real = {
            nasty.SESSION: ended.session_id,
            nasty.RUN: ended.run_id,
            nasty.MEDIUM: medium.id,
            nasty.PAUSED: paused[0].run_started.run_id,
            nasty.REQUIREMENT: paused[-1].run_paused.requirements[0].id,
        }
        assert all(len(key) == len(value) for key, value in real.items()), real
        self.ids = {key.encode(): value.encode() for key, value in real.items()}


def judge(error: grpc.aio.AioRpcError) -> str:
    """The reason of a failed call, which must be one that a caller may be told."""
    trailing = dict(error.trailing_metadata() or ())
    raw = trailing.get("grpc-status-details-bin")
    assert isinstance(raw, bytes), f"not typed: {error.code()} {error.details()}"
    status = status_pb2.Status.FromString(raw)
    return judge_status(status)


def judge_status(status: status_pb2.Status) -> str:
    """The reason of a status, which must be typed, bounded and ours, and tell nothing of what is inside."""
    assert sum(len(detail.value) for detail in status.details) <= MAX_DETAILS
    assert not [word for word in OURS if word in str(status)], status
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == DOMAIN
    reason: str = info.reason
    assert reason in REASONS, status
    return reason


def judge_events(events: Sequence[event_pb2.RunEvent], reason: str) -> None:
    """A stream of a run ends with what ends or pauses the run, once, and its sequences rise."""
    kinds = [event.WhichOneof("event") for event in events]
    sequences = [event.sequence for event in events if event.WhichOneof("event") != "heartbeat"]
    assert sequences == sorted(set(sequences))
    if not reason:
        assert [kind in ENDS for kind in kinds] == [False] * (len(kinds) - 1) + [True], kinds
    if kinds[-1] == "run_failed":
        judge_status(events[-1].run_failed.error)


def check_tables(file: Path) -> None:
    """What must be true of the tables whenever no run is under way; each question asks for what contradicts it."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        for wrong, question in _CONTRADICTIONS.items():
            assert connection.execute(question).fetchall() == [], wrong
    connection.close()


_CONTRADICTIONS = {
    "a row points to nothing": "PRAGMA foreign_key_check",
    "a run is neither at its end nor paused": (
        "SELECT id, status FROM runs WHERE status NOT IN ('completed', 'failed', 'cancelled', 'paused')"
    ),
    "an end without a time, or a time without an end": (
        "SELECT id, status FROM runs WHERE (end_time IS NULL) != (status = 'paused')"
    ),
    "a run without the event that ended it": (
        "SELECT id FROM runs r WHERE last_event IS NULL OR last_sequence < 2 OR last_sequence != "
        "(SELECT max(last_sequence) FROM run_events e WHERE e.run_id = r.id)"
    ),
    "a pause that nobody keeps, or that is kept too long": (
        "SELECT id FROM runs r WHERE (status = 'paused') != "
        "EXISTS (SELECT 1 FROM run_pauses p WHERE p.run_id = r.id)"
    ),
    "a session whose turn is held by nobody": (
        "SELECT s.id FROM sessions s LEFT JOIN runs r ON r.id = s.active_run_id "
        "WHERE s.active_run_id IS NOT NULL AND (r.status IS NULL OR r.status != 'paused' OR r.session_id != s.id)"
    ),
    "a paused run that does not hold its session's turn": (
        "SELECT r.id FROM runs r JOIN sessions s ON s.id = r.session_id "
        "WHERE r.status = 'paused' AND s.active_run_id != r.id"
    ),
    "a session that does not count its runs": (
        "SELECT id FROM sessions s WHERE run_count != (SELECT count(*) FROM runs r WHERE r.session_id = s.id)"
    ),
    "messages that overlap": (
        "SELECT session_id FROM chat_events GROUP BY session_id HAVING count(*) != count(DISTINCT sequence)"
    ),
    "a message whose pictures are not those that it counts": (
        "SELECT id FROM chat_events c WHERE media_count != "
        "(SELECT count(*) FROM message_media m WHERE m.message_id = c.id)"
    ),
    "a medium that is not kept": (
        "SELECT m.message_id FROM message_media m WHERE NOT EXISTS "
        "(SELECT 1 FROM media k WHERE k.sha256 = m.sha256 AND k.refs > 0)"
    ),
    "a medium whose users are not those that it counts": (
        "SELECT id FROM media k WHERE refs != (SELECT count(*) FROM message_media m WHERE m.sha256 = k.sha256)"
    ),
    "a medium without its bytes": (
        "SELECT id FROM media k WHERE store_key IS NULL AND size != "
        "(SELECT coalesce(sum(length(data)), 0) FROM media_chunks c WHERE c.media_id = k.id)"
    ),
    "a request id of a run that does not exist": (
        "SELECT request_id FROM requests q WHERE run_id IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = q.run_id)"
    ),
}


class _Logged(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self._lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self._lines.append(self.format(record))

    def nothing(self) -> None:
        """Fails when there was one, and forgets it."""
        lines, self._lines = self._lines, []
        assert lines == []


@contextmanager
def target(directory: Path) -> Iterator[Target]:
    """A server on a loop of its own, which turns only while it is asked to `do` something."""
    with asyncio.Runner() as runner:
        made = Target(runner)
        try:
            made.do(made.open(directory))
            yield made
        finally:
            made.do(made.close())
