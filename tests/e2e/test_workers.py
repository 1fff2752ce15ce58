"""`dragoman serve --workers`: several processes on one port and one database, and the one that looks after them."""

import asyncio
import contextlib
import json
import os
import signal
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from dragoman.cli._server_process import ServerFailed, ServerProcess, server_process
from dragoman.client import Dragoman, DragomanError, kind
from dragoman.v1 import event_pb2

AGENTS = """\
from agno.agent import Agent
from dragoman.testing.offline import OfflineModel

quick = Agent(name="quick", model=OfflineModel(delay=0))
slow = Agent(name="slow", model=OfflineModel(delay=0.2))
"""

LONG = "Repeat this: " + "word " * 300

PATIENCE = 60.0
"""Seconds that anything may take on a busy machine: a worker imports Agno when it starts."""


@pytest.fixture
def arguments(tmp_path: Path) -> list[str]:
    agents = tmp_path / "agents.py"
    agents.write_text(AGENTS)
    named = ["--agents", f"{agents}:quick", "--agents", f"{agents}:slow", "--no-entry-points"]
    return [*named, "--workers", "2", "--log-format", "json"]


def children(pid: int) -> set[int]:
    """The processes that a process has started."""
    return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.05)


def logged(server: ServerProcess) -> list[dict[str, object]]:
    """The lines of the log that are whole."""
    lines = server.log.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


async def talk(address: str) -> None:
    async with Dragoman(address) as client:
        assert await client.run("quick", "Hello.").text()


async def test_workers_share_the_port_and_are_replaced_when_they_die(
    arguments: list[str], database_url: str, tmp_path: Path
) -> None:
    with server_process([*arguments, "--port", "0", "--database-url", database_url], tmp_path) as server:
        workers = children(server.pid)
        assert len(workers) == 2
        for _ in range(6):  # connections are spread by chance
            await asyncio.gather(*(talk(server.address) for _ in range(5)))
        by = {line["worker"] for line in logged(server) if line["event"] == "run ended"}
        assert by == {1, 2}

        killed = min(workers)
        os.kill(killed, signal.SIGKILL)
        await until(lambda: any(line["event"] == "a worker died and is replaced" for line in logged(server)))
        await talk(server.address)  # the other one is still there

        def ready() -> bool:
            return sum(line["event"] == "a worker is ready" for line in logged(server)) == 3

        await until(ready)
        now = children(server.pid)
        assert len(now) == 2
        assert killed not in now
    assert not any(alive(pid) for pid in now)  # told to stop, all have


async def test_told_to_stop_they_let_runs_finish_and_told_again_they_end_them(
    arguments: list[str], tmp_path: Path
) -> None:
    def said(event: str) -> int:
        return sum(line["event"] == event for line in logged(server))

    patient = [
        "--port",
        "0",
        "--database-url",
        f"sqlite:///{tmp_path / 'shared.db'}",
        "--set",
        "drain_grace=100",
    ]
    with server_process([*arguments, *patient], tmp_path) as server:
        workers, run_id = children(server.pid), ""
        async with Dragoman(server.address, retry=None) as client:
            with contextlib.suppress(
                DragomanError
            ):  # who hurries a server does not wait for those who listen to it
                async for event in client.run("slow", LONG):
                    if kind(event) == "run_started":
                        run_id = event.run_started.run_id
                    if kind(event) == "content_delta" and not said("stopping the workers"):
                        os.kill(server.pid, signal.SIGTERM)
                        await until(lambda: said("waiting for runs to finish") == 1)
                        # The worker without runs has nothing to wait for; the other one goes on until it is told again.
                        await until(lambda: sum(map(alive, workers)) == 1)
                        os.kill(server.pid, signal.SIGTERM)
        await until(lambda: not any(map(alive, workers)))
    # Leaving the block checked that the supervisor ended with 0.
    assert said("a worker died and is replaced") == 0
    (tmp_path / "later").mkdir()
    with server_process([*arguments, *patient, "--workers", "1"], tmp_path / "later") as server:
        async with Dragoman(server.address) as client:
            assert (await client.get_run(run_id)).cancelled.reason == event_pb2.CANCEL_REASON_DRAINED


@pytest.mark.parametrize("workers", ["1", "2"])
async def test_told_again_and_again_it_still_ends_in_good_order(
    workers: str, arguments: list[str], tmp_path: Path
) -> None:
    more = ["--workers", workers, "--port", "0", "--database-url", f"sqlite:///{tmp_path / 'shared.db'}"]
    with server_process([*arguments, *more], tmp_path) as server:
        # Until the block is left, which checks that it ended with 0, its pid is nobody else's.
        async with asyncio.timeout(PATIENCE):
            while alive(server.pid):
                os.kill(server.pid, signal.SIGTERM)
                await asyncio.sleep(0.005)


async def test_workers_end_when_nobody_looks_after_them(arguments: list[str], tmp_path: Path) -> None:
    database = f"sqlite:///{tmp_path / 'shared.db'}"
    workers: set[int] = set()
    with (  # noqa: PT012 - that it ends badly is told when the block is left
        pytest.raises(ServerFailed),
        server_process([*arguments, "--port", "0", "--database-url", database], tmp_path) as server,
    ):
        workers = children(server.pid)
        os.kill(server.pid, signal.SIGKILL)
        await until(lambda: not any(map(alive, workers)))
    assert len(workers) == 2


def test_a_port_that_is_taken_is_not_shared_with_strangers(arguments: list[str], tmp_path: Path) -> None:
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with (
            pytest.raises(ServerFailed) as failed,
            server_process([*arguments, "--port", str(port)], tmp_path),
        ):
            pass
    assert f"cannot listen on 127.0.0.1:{port}" in failed.value.log


@pytest.mark.parametrize(
    ("more", "told"),
    [
        (["--agents", "nowhere:agent"], "there is no module nowhere"),
        (["--database-url", "sqlite://"], "workers share their database"),
    ],
    ids=["agent", "database"],
)
def test_what_no_worker_can_do_ends_all(
    more: list[str], told: str, arguments: list[str], tmp_path: Path
) -> None:
    database = ["--database-url", f"sqlite:///{tmp_path / 'shared.db'}"]
    with (
        pytest.raises(ServerFailed) as failed,
        server_process([*arguments, "--port", "0", *database, *more], tmp_path),
    ):
        pass
    assert told in failed.value.log
