"""A database that fails at any call of a run: typed errors, nobody waits for ever, the session and the bill come back."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from agno.agent import Agent
from support.e2e import Stubs, kinds, reason_of, stubs
from support.faulty import Fault, Faults, install

from dragoman.agents import BaseAgent
from dragoman.errors import StorageUnavailable
from dragoman.records import TokenUsage
from dragoman.testing.scripted import Pause, ScriptedModel
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, run_service_pb2

SECRET = "mysql://root:hunter2@db"
ENDS = ("run_completed", "run_failed", "run_cancelled")


class Defect(Exception):
    """What no caller may see."""


class Counter(BaseAgent):
    """Counts, slowly enough for its events to be appended while it runs."""

    name = "counter"
    description = "Counts."

    def __init__(self) -> None:
        usage = TokenUsage(input_tokens=10, output_tokens=5)
        self.model = ScriptedModel(respond=lambda _: ["one ", Pause(0.12), "two", usage])

    def build_agent(self) -> Agent:
        return Agent(model=self.model)


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.setattr("dragoman.engine.run.END_ATTEMPTS", 2)
    monkeypatch.setattr("dragoman.engine.run.END_PAUSE", 0.05)
    return install(monkeypatch)


async def attempt(client: Stubs, session_id: str = "") -> tuple[list[event_pb2.RunEvent], str]:
    """The events of a run, and the reason of its error when it ended by one."""
    events: list[event_pb2.RunEvent] = []
    seen, reason = "", ""
    request = run_service_pb2.RunRequest(agent_name="counter", message="Count.", session_id=session_id)
    try:
        async for event in client.runs.Run(request):
            events.append(event)
    except grpc.aio.AioRpcError as error:
        seen, reason = f"{error} {reason_of(error)}", reason_of(error)["ErrorInfo"].reason
    assert SECRET not in seen + "".join(map(str, events))
    return events, reason


async def recover(client: Stubs, session_id: str) -> list[run_service_pb2.Run]:
    """Runs in the session as soon as it is free; all its runs then, the oldest first."""
    async with asyncio.timeout(60):
        while (reached := await attempt(client, session_id))[1] == "SESSION_BUSY":
            await asyncio.sleep(0.05)
    assert kinds(reached[0])[-1] == "run_completed"
    listed = await client.runs.ListRuns(run_service_pb2.ListRunsRequest(session_id=session_id))
    return [*reversed(listed.runs)]


def unavailable() -> BaseException:
    return StorageUnavailable()


def defect() -> BaseException:
    return Defect(SECRET)


def once(error: Callable[[], BaseException]) -> Fault:
    return lambda number: error() if number == 1 else None


def always(error: Callable[[], BaseException]) -> Fault:
    return lambda _: error()


def slow(_: int) -> float:
    return 0.5


COMPLETED, FAILED = run_service_pb2.RUN_STATUS_COMPLETED, run_service_pb2.RUN_STATUS_FAILED
CANCELLED = run_service_pb2.RUN_STATUS_CANCELLED

CASES: list[tuple[str, str, Fault, str, int | None]] = [
    # what, which call, how; what the caller gets: an end or a reason; how the run is stored (None: there is none)
    ("the session cannot be read", "get_session", once(unavailable), "STORAGE_UNAVAILABLE", None),
    ("reading the session is a defect", "get_session", once(defect), "INTERNAL", None),
    ("the run cannot be claimed", "start_run", always(unavailable), "STORAGE_UNAVAILABLE", None),
    ("claiming is a defect", "start_run", once(defect), "INTERNAL", None),
    ("claiming is slow", "start_run", slow, "run_completed", COMPLETED),
    ("the history cannot be read", "load_history", once(unavailable), "run_failed", FAILED),
    ("reading the history is a defect", "load_history", once(defect), "run_failed", FAILED),
    ("reading the history is slow", "load_history", slow, "run_completed", COMPLETED),
    ("events cannot be appended once", "append_events", once(unavailable), "run_completed", COMPLETED),
    ("events cannot be appended at all", "append_events", always(unavailable), "run_completed", COMPLETED),
    ("appending events is a defect", "append_events", always(defect), "run_completed", COMPLETED),
    ("appending events is slow", "append_events", slow, "run_completed", COMPLETED),
    ("the end cannot be stored once", "end_run", once(unavailable), "run_completed", COMPLETED),
    ("the end cannot be stored for long", "end_run", always(unavailable), "STORAGE_UNAVAILABLE", COMPLETED),
    ("storing the end is a defect once", "end_run", once(defect), "run_failed", FAILED),
    ("storing the end is a defect", "end_run", always(defect), "INTERNAL", CANCELLED),
    ("storing the end is slow", "end_run", slow, "run_completed", COMPLETED),
    ("leases cannot be renewed", "renew_leases", always(unavailable), "run_completed", COMPLETED),
    ("renewing leases is a defect", "renew_leases", always(defect), "run_completed", COMPLETED),
]


@pytest.mark.parametrize(
    ("call", "fault", "told", "stored"), [case[1:] for case in CASES], ids=[case[0] for case in CASES]
)
async def test_a_database_that_fails(
    call: str, fault: Fault, told: str, stored: int | None, faults: Faults
) -> None:
    async with serving(Counter(), lease=1.0) as server, stubs(server.address) as client:
        first, _ = await attempt(client)
        session_id = first[0].run_started.session_id
        faults.clear()
        faults.rules[call] = fault
        async with asyncio.timeout(60):
            events, reason = await attempt(client, session_id)
        assert faults.calls[call] or call == "renew_leases"
        assert (reason or kinds(events)[-1]) == told
        assert len([kind for kind in kinds(events) if kind in ENDS]) == (not reason)
        faults.clear()
        runs = await recover(client, session_id)
        assert [run.status for run in runs] == [COMPLETED, *([stored] if stored else []), COMPLETED]
        # What was spent is on the bill, but where not even that could be stored.
        spent = 15 if "model_request_completed" in kinds(events) and stored != CANCELLED else 0
        assert [run.usage.total_tokens for run in runs[1:-1]] == [spent] * (stored is not None)
        assert server.server.engine.active_runs == 0
