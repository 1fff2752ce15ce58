"""Keys are taken back and rotated, and the database dies, while everybody calls every server: who may call is always right."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest
from support.e2e import Stubs, reason_of
from support.fleet import fleet
from support.following import direct
from support.mariadb import MariaDBServer
from support.processes import note
from support.provider import Part
from typer.testing import CliRunner

from dragoman.cli.main import app
from dragoman.v1 import agent_service_pb2, run_service_pb2

pytestmark = [pytest.mark.mariadb, pytest.mark.timeout(300)]

BOUND = 5.0
"""Seconds after which a key that was taken back opens nothing, and nobody is let in without the database (docs/access.md)."""

SERVERS = 3
PATIENCE = 120.0
UNAVAILABLE = "STORAGE_UNAVAILABLE"


def keys(url: str, *arguments: str) -> dict[str, Any]:
    """`dragoman keys ...`; what it made."""
    result = CliRunner().invoke(app, ["keys", *arguments, "--database-url", url])
    assert result.exit_code == 0, result.output
    lines = [line for line in result.stdout.splitlines() if line.startswith("{")]
    return dict(json.loads(lines[0])) if lines else {}


class Caller:
    """Calls one server with one key, again and again."""

    def __init__(self, stub: Stubs, key: str) -> None:
        self.stub = stub
        self.key = key
        self.answers: Counter[str] = Counter()
        self.last_good = 0.0
        """When the last call began that was let in: in the seconds of `time.monotonic`."""

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        return (("x-api-key", self.key),)

    async def call(self) -> None:
        """Until it is cancelled."""
        while True:
            began = time.monotonic()
            try:
                await self.stub.agents.ListAgents(
                    agent_service_pb2.ListAgentsRequest(), metadata=self.metadata, timeout=PATIENCE
                )
            except grpc.aio.AioRpcError as error:
                details = reason_of(error)
                reason = details["ErrorInfo"].reason
                assert reason != UNAVAILABLE or details["RetryInfo"].retry_delay.ToTimedelta()
                self.answers[reason] += 1
            else:
                self.answers["OK"] += 1
                self.last_good = max(self.last_good, began)
            await asyncio.sleep(0.01)


class Load:
    """Callers by the name of their key, one on each server."""

    def __init__(self) -> None:
        self.callers: dict[str, list[Caller]] = {}
        self._tasks: list[asyncio.Task[None]] = []

    def begin(self, name: str, key: str, servers: Sequence[Stubs]) -> None:
        self.callers[name] = [Caller(stub, key) for stub in servers]
        self._tasks += [asyncio.create_task(each.call()) for each in self.callers[name]]

    async def until(self, name: str, reason: str, count: int = 20) -> None:
        """Returns when each of its callers was told this so often again."""
        wanted = [(each, each.answers[reason] + count) for each in self.callers[name]]
        async with asyncio.timeout(PATIENCE):
            while any(each.answers[reason] < enough for each, enough in wanted):
                for task in self._tasks:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.02)

    def told(self, name: str) -> set[str]:
        """All that its callers were told."""
        return {reason for each in self.callers[name] for reason in each.answers}

    def last_good(self, name: str) -> float:
        return max(each.last_good for each in self.callers[name])

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        for result in await asyncio.gather(*self._tasks, return_exceptions=True):
            assert isinstance(result, asyncio.CancelledError), result


async def test_who_may_call_is_right_whatever_happens(
    mariadb: MariaDBServer, url: str, tmp_path: Path
) -> None:
    async with (
        fleet(url, tmp_path, SERVERS, lease=60, auth="keys") as (servers, _),
        AsyncExitStack() as stack,
    ):
        stubs = [await stack.enter_async_context(direct(server.address)) for server in servers.servers]
        load = Load()
        stack.push_async_callback(load.close)
        made = {
            name: await asyncio.to_thread(keys, url, "create", name, "--json")
            for name in ("kept", "revoked", "rotated")
        }
        for name, key in made.items():
            load.begin(name, key["api_key"], stubs)
        for name in made:
            await load.until(name, "OK")

        def stream(name: str, slot: int) -> Any:
            part = Part(f"{name}-{slot}", "plain", 2000, 0.05)
            request = run_service_pb2.RunRequest(
                agent_name=part.agent,
                message=part.message,
                disconnect_policy=run_service_pb2.DISCONNECT_POLICY_CANCEL,
            )
            return stubs[slot].runs.Run(request, metadata=(("x-api-key", made[name]["api_key"]),))

        streams = {name: [stream(name, slot) for slot in range(SERVERS)] for name in ("kept", "revoked")}
        for each in (*streams["kept"], *streams["revoked"]):
            assert (await each.read()).sequence == 1

        # Taken back: by a command, on the database alone.
        await asyncio.to_thread(keys, url, "revoke", made["revoked"]["id"])
        revoked = time.monotonic()
        for reason in await asyncio.gather(*map(end_of, streams["revoked"])):
            assert reason == "UNAUTHENTICATED"
        note(f"streams ended {time.monotonic() - revoked:.2f} s after the key was taken back")
        await load.until("revoked", "UNAUTHENTICATED")
        note(f"the last call was let in {load.last_good('revoked') - revoked:.2f} s after it")
        assert load.last_good("revoked") < revoked + BOUND
        assert load.told("revoked") == {"OK", "UNAUTHENTICATED"}

        # Rotated: both count, the new one at once and everywhere.
        again = await asyncio.to_thread(
            keys, url, "rotate", made["rotated"]["id"], "--overlap", "1h", "--json"
        )
        load.begin("new", again["api_key"], stubs)
        for name in ("new", "rotated", "kept"):
            await load.until(name, "OK")
            assert load.told(name) == {"OK"}

        # Without the database nobody knows which keys count.
        mariadb.kill()
        killed = time.monotonic()
        names = ("kept", "rotated", "new")
        try:
            await asyncio.gather(*(load.until(name, UNAVAILABLE, 1) for name in names))
            last = max(map(load.last_good, names))
            note(f"the last call was let in {last - killed:.2f} s after the database died")
            assert last < killed + BOUND
        finally:
            await asyncio.to_thread(mariadb.restart)
        before = load.last_good("revoked")
        for name in names:
            await load.until(name, "OK")
            assert load.told(name) == {"OK", UNAVAILABLE}
        await load.until("revoked", "UNAUTHENTICATED")
        assert load.last_good("revoked") == before
        for each in streams["kept"]:
            assert await each.read() is not grpc.aio.EOF
            each.cancel()


async def end_of(stream: Any) -> str:
    """With what an open stream ends."""
    async with asyncio.timeout(PATIENCE):
        try:
            while await stream.read() is not grpc.aio.EOF:
                pass
        except grpc.aio.AioRpcError as error:
            return str(reason_of(error)["ErrorInfo"].reason)
    return "OK"
