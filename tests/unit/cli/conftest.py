"""The command line, run in this process, and a server for it to talk to."""

from collections.abc import Iterable, Iterator
from typing import Protocol

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2
from support.cli_server import COST, RUN_ID, SESSION_ID, USAGE, Services, error, serving
from typer.testing import CliRunner, Result

from dragoman.cli.main import app
from dragoman.v1 import event_pb2, run_service_pb2


@pytest.fixture
def services() -> Iterator[Services]:
    """The services, being served."""
    with serving() as services:
        yield services


class Command(Protocol):
    """Runs `dragoman` with arguments."""

    def __call__(self, *arguments: str, lines: Iterable[str] = ()) -> Result: ...


@pytest.fixture
def dragoman(monkeypatch: pytest.MonkeyPatch) -> Command:
    """`dragoman`, in this process, with nothing of the environment; `lines` are its standard input."""
    # It would take the logs of the whole test process to a stream that is closed after the command.
    monkeypatch.setattr("dragoman.telemetry.configure_logging", lambda level, form: None)
    for name in ("DRAGOMAN_SERVER", "DRAGOMAN_AGENTS", "DRAGOMAN_CONFIG"):
        monkeypatch.delenv(name, raising=False)

    def run(*arguments: str, lines: Iterable[str] = ()) -> Result:
        return CliRunner().invoke(app, arguments, input="".join(f"{line}\n" for line in lines))

    return run


@pytest.fixture
def a_run() -> run_service_pb2.Run:
    """A run that failed, with labels."""
    start, end = Timestamp(seconds=1_790_000_000), Timestamp(seconds=1_790_000_002, nanos=500_000_000)
    return run_service_pb2.Run(
        id=RUN_ID,
        session_id=SESSION_ID,
        agent_name="example",
        model="claude-sonnet-4-5",
        provider="Anthropic",
        status=run_service_pb2.RUN_STATUS_FAILED,
        metadata={"team": "desk"},
        create_time=start,
        end_time=end,
        last_sequence=7,
        usage=USAGE,
        cost=COST,
        model_calls=2,
        failed=event_pb2.RunFailed(
            error=error(code_pb2.UNAVAILABLE, "the model refused", "MODEL_UNAVAILABLE")
        ),
    )
