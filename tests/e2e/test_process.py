"""Server processes that die and are told to stop, with runs under way, on SQLite and on a real MariaDB."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from dragoman.cli._server_process import ServerFailed, server_process
from dragoman.client import Dragoman, DragomanError, kind
from dragoman.v1 import event_pb2, run_service_pb2

AGENTS = """\
from agno.agent import Agent
from dragoman.testing.offline import OfflineModel

slow = Agent(name="slow", model=OfflineModel(delay=0.2))
quick = Agent(name="quick", model=OfflineModel(delay=0))
"""

LONG = "Repeat this: " + "word " * 300


@pytest.fixture
def arguments(database_url: str, tmp_path: Path) -> list[str]:
    agents = tmp_path / "agents.py"
    agents.write_text(AGENTS)
    return [
        *("--agents", f"{agents}:slow", "--agents", f"{agents}:quick", "--no-entry-points", "--port", "0"),
        *("--database-url", database_url, "--set", "lease=2"),
    ]


def folder(tmp_path: Path, name: str) -> Path:
    """Each process has a directory of its own."""
    made = tmp_path / name
    made.mkdir()
    return made


async def begin(client: Dragoman) -> tuple[str, str]:
    """Starts a run that takes a minute, leaves it, and returns its run and session ids."""
    async for event in client.run("slow", LONG):
        if kind(event) == "run_started":
            started = event.run_started
        if kind(event) == "content_delta":
            return started.run_id, started.session_id
    raise AssertionError("the run ended")


async def test_a_killed_process_leaves_no_run_open_and_no_session_taken(
    arguments: list[str], tmp_path: Path
) -> None:
    with (  # noqa: PT012 - that it ends badly is told when the block is left
        pytest.raises(ServerFailed),
        server_process(arguments, folder(tmp_path, "first")) as server,
    ):
        async with Dragoman(server.address) as client:
            run_id, session_id = await begin(client)
            os.kill(server.pid, signal.SIGKILL)
    with server_process(arguments, folder(tmp_path, "second")) as server:
        async with Dragoman(server.address) as client, asyncio.timeout(15):
            while (run := await client.get_run(run_id)).status == run_service_pb2.RUN_STATUS_RUNNING:
                await asyncio.sleep(0.1)
            assert run.status == run_service_pb2.RUN_STATUS_CANCELLED
            assert run.cancelled.reason == event_pb2.CANCEL_REASON_ABANDONED
            assert (await client.get_session(session_id)).active_run_id == ""
            async with client.run("slow", "Hi.", session=session_id) as again:
                async for event in again:
                    assert kind(event) != "run_failed"
            assert kind_of_end(again.result) == "RunCompleted"


async def test_a_process_told_to_stop_ends_its_runs_as_drained_and_says_so(
    arguments: list[str], tmp_path: Path
) -> None:
    impatient = [*arguments, "--set", "drain_grace=0.3"]
    with server_process(impatient, folder(tmp_path, "first")) as server:
        async with Dragoman(server.address) as client:
            last, told = event_pb2.RunEvent(), False
            async for event in client.run("slow", LONG):
                if kind(event) == "content_delta" and not told:
                    os.kill(server.pid, signal.SIGTERM)
                    told = True
                last = event
            assert last.run_cancelled.reason == event_pb2.CANCEL_REASON_DRAINED
            assert last.run_cancelled.content
    # Leaving the block checked that the process ended with 0; its end is stored, text and all.
    with server_process(arguments, folder(tmp_path, "second")) as server:
        async with Dragoman(server.address) as client:
            runs = [run async for run in client.list_runs()]
            assert [run.cancelled.reason for run in runs] == [event_pb2.CANCEL_REASON_DRAINED]
            assert runs[0].cancelled.content == last.run_cancelled.content
            messages = [message async for message in client.list_messages(runs[0].session_id)]
            assert messages[-1].content.strip() == last.run_cancelled.content.strip()


async def test_while_it_drains_it_starts_nothing(arguments: list[str], tmp_path: Path) -> None:
    patient = [*arguments, "--set", "drain_grace=10"]
    with server_process(patient, folder(tmp_path, "first")) as server:
        async with Dragoman(server.address, retry=None) as client:
            await begin(client)
            os.kill(server.pid, signal.SIGTERM)
            with pytest.raises(DragomanError) as caught:  # noqa: PT012 - the signal takes a moment to arrive
                async with asyncio.timeout(30):
                    while True:
                        await client.execute("quick", "Hi.")
            assert caught.value.reason == "DRAINING"
            assert caught.value.retry_after


async def test_before_it_drains_balancers_have_time_to_notice(arguments: list[str], tmp_path: Path) -> None:
    with server_process([*arguments, "--set", "drain_delay=600"], folder(tmp_path, "first")) as server:
        async with Dragoman(server.address, retry=None) as client:
            assert await client.check_health() == "SERVING"
            os.kill(server.pid, signal.SIGTERM)
            async with asyncio.timeout(30):
                while await client.check_health("dragoman.v1.RunService") == "SERVING":
                    await asyncio.sleep(0.05)
            assert await client.check_health("liveness") == "SERVING"
            async for event in client.run("quick", "Hi."):
                last = event
            assert kind(last) == "run_completed"
    # Leaving the block said it a second time, which hurries it, and checked that it ended with 0.


def kind_of_end(result: object) -> str:
    return type(result).__name__
