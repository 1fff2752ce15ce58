"""A caller with ten times what it may have, and another who does not notice; a caller that is killed leaves nothing taken."""

import asyncio
import signal
import statistics
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.processes import ServerProcess
from support.served import refusal
from typer.testing import CliRunner

from dragoman.cli.main import app
from dragoman.client import Dragoman
from dragoman.v1 import run_service_pb2, run_service_pb2_grpc

AGENTS = """\
from agno.agent import Agent
from dragoman.testing.offline import OfflineModel

slow = Agent(name="slow", model=OfflineModel(delay=2))
quick = Agent(name="quick", model=OfflineModel(delay=0))
"""
LONG = "Repeat this: " + "word " * 3000
RUNS, STREAMS, RATE = 6, 8, 40
"""What the greedy one may have."""
PATIENCE = 120.0
GROWTH = 256 * 1024 * 1024
"""Bytes. Much more than calls take that are refused, and much less than those that are kept."""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    agents = tmp_path / "agents.py"
    agents.write_text(AGENTS)
    arguments = [
        *("--agents", f"{agents}:slow", "--agents", f"{agents}:quick", "--no-entry-points", "--auth", "keys"),
        *("--database-url", database(tmp_path), "--set", "max_runs=30", "--set", "max_streams=40"),
        *("--set", "drain_grace=0"),
    ]
    process = ServerProcess("a", arguments, tmp_path, {})
    try:
        await process.start()
        yield process
    finally:
        await process.close()


def database(folder: Path) -> str:
    return f"sqlite:///{folder / 'overload.db'}"


def key(folder: Path, *arguments: str) -> str:
    result = CliRunner().invoke(
        app, ["keys", "create", *arguments, "--database-url", database(folder)], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout.strip()


class Greedy:
    """Asks for streams and runs, refused or not, and notes how it was refused."""

    def __init__(self, address: str, api_key: str, run_id: str) -> None:
        self.refusals: Counter[str] = Counter()
        self.errors: list[str] = []
        self.served: Counter[str] = Counter()
        self._address = address
        self._metadata = (("x-api-key", api_key),)
        self._run_id = run_id
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Greedy":
        self._channel = grpc.aio.insecure_channel(self._address)
        self._stub: Any = run_service_pb2_grpc.RunServiceStub(self._channel)
        work = [self._follow] * 10 * STREAMS + [self._execute] * 10 * RUNS
        self._tasks = [asyncio.create_task(self._again_and_again(each)) for each in work]
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._channel.close()

    async def _again_and_again(self, ask: Any) -> None:
        while True:
            try:
                await ask()
            except grpc.aio.AioRpcError as error:
                await self._note(error)
            # All of them together: some ten times its rate.
            await asyncio.sleep(len(self._tasks) / RATE / 10)

    async def _note(self, error: grpc.aio.AioRpcError) -> None:
        told = await refusal(error)
        kinds = {type(detail) for detail in told.details}
        if told.code != "RESOURCE_EXHAUSTED" or not kinds >= {
            error_details_pb2.RetryInfo,
            error_details_pb2.QuotaFailure,
        }:
            self.errors.append(f"{told.code} {told.reason} {told.message}")
        self.refusals[told.reason] += 1

    async def _follow(self) -> None:
        request = run_service_pb2.AttachRunRequest(run_id=self._run_id)
        async for _ in self._stub.AttachRun(request, metadata=self._metadata):
            self.served["events"] += 1

    async def _execute(self) -> None:
        request = run_service_pb2.RunRequest(agent_name="slow", message=LONG)
        await self._stub.Execute(request, metadata=self._metadata)


async def begin(client: Dragoman) -> str:
    """A run that takes very long, left to itself."""
    async for event in client.run("slow", LONG):
        if event.HasField("run_started"):
            return event.run_started.run_id
    raise AssertionError("the run ended")


async def test_one_who_asks_for_too_much_and_one_who_is_killed(server: ServerProcess, tmp_path: Path) -> None:
    """One server for both: its start costs more than they do."""
    await others_are_served_while_one_asks_for_ten_times_too_much(server, tmp_path)
    await a_client_that_is_killed_leaves_no_stream_taken(server, tmp_path)


async def others_are_served_while_one_asks_for_ten_times_too_much(
    server: ServerProcess, tmp_path: Path
) -> None:
    limits = ("--max-runs", str(RUNS), "--max-streams", str(STREAMS), "--rate", str(RATE))
    greedy_key = await asyncio.to_thread(key, tmp_path, "greedy", *limits)
    modest_key = await asyncio.to_thread(key, tmp_path, "modest")
    async with (
        asyncio.timeout(PATIENCE),
        Dragoman(server.address, api_key=modest_key, retry=None, timeout=PATIENCE) as modest,
        grpc.aio.insecure_channel(server.address) as channel,
    ):
        probe: Any = health_pb2_grpc.HealthStub(channel)
        assert (await modest.execute("quick", "Hello.")).content  # all that it imports is imported
        async with Dragoman(server.address, api_key=greedy_key) as client:
            run_id = await begin(client)
        before = server.resident()
        took: list[float] = []
        async with Greedy(server.address, greedy_key, run_id) as greedy:
            wanted = {"TOO_MANY_RUNS", "TOO_MANY_STREAMS", "RATE_LIMITED"}
            while len(took) < 40 or not greedy.refusals.keys() >= wanted:
                began = time.monotonic()
                assert (await modest.execute("quick", "Hello.")).content
                assert len(await modest.list_agents()) == 2
                assert await modest.run("quick", "Hello.").text()
                answer = await probe.Check(health_pb2.HealthCheckRequest())
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
                took.append(time.monotonic() - began)
                await asyncio.sleep(0.01)
            grown = server.resident() - before
        assert not greedy.errors
        assert greedy.served["events"]
        assert set(greedy.refusals) == wanted
        print(
            f"{len(took)} rounds of four calls: median {statistics.median(took) * 1000:.0f} ms, "
            f"longest {max(took) * 1000:.0f} ms; refused: {dict(greedy.refusals)}; grown by {grown / 2**20:.1f} MiB"
        )
        assert grown < GROWTH


KILLED = """\
import sys
import grpc
from dragoman.v1 import run_service_pb2, run_service_pb2_grpc

address, key, run_id, count = sys.argv[1:]
stub = run_service_pb2_grpc.RunServiceStub(grpc.insecure_channel(address))
request = run_service_pb2.AttachRunRequest(run_id=run_id)
streams = [stub.AttachRun(request, metadata=(("x-api-key", key),)) for _ in range(int(count))]
for stream in streams:
    next(stream)
print("open", flush=True)
for _ in streams[0]:
    pass
"""


async def a_client_that_is_killed_leaves_no_stream_taken(server: ServerProcess, tmp_path: Path) -> None:
    made = await asyncio.to_thread(key, tmp_path, "web", "--max-streams", str(STREAMS))
    async with asyncio.timeout(PATIENCE), Dragoman(server.address, api_key=made, retry=None) as client:
        run_id = await begin(client)
        # One less: what `begin` has left may have its place for a moment.
        arguments = [server.address, made, run_id, str(STREAMS - 1)]
        killed = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED, *arguments, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert killed.stdout is not None
            assert await killed.stdout.readline() == b"open\n"
        finally:
            killed.send_signal(signal.SIGKILL)
            await killed.wait()
        # All of its places come back: so many streams at once, and not one more.
        async with grpc.aio.insecure_channel(server.address) as channel:
            streams: list[Any] = []
            while len(streams) < STREAMS:
                reason, call = await attached(channel, made, run_id)
                if reason == "OK":
                    streams.append(call)
                else:
                    assert reason == "TOO_MANY_STREAMS"
                    await asyncio.sleep(0.05)
            assert (await attached(channel, made, run_id))[0] == "TOO_MANY_STREAMS"


async def attached(channel: grpc.aio.Channel, api_key: str, run_id: str) -> tuple[str, Any]:
    """A stream that is open, or why it is not."""
    stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
    request = run_service_pb2.AttachRunRequest(run_id=run_id)
    call = stub.AttachRun(request, metadata=(("x-api-key", api_key),))
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        return (await refusal(error)).reason, call
    return "OK", call
