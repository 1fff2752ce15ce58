"""Tokens while everybody calls: keys that are replaced fail nobody, and a token that is taken back soon opens nothing."""

import asyncio
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from support.e2e import Stubs, reason_of, stubs
from support.identity import AUDIENCE, ISSUER, IdentityProvider

from dragoman.auth import bearers, jwks
from dragoman.testing.offline import OfflineModel
from dragoman.testing.serving import serving
from dragoman.v1 import agent_service_pb2, run_service_pb2

CALLERS = 20
BOUND = 5.0
"""Seconds after which a token that was taken back opens nothing (docs/access.md)."""


def offline() -> object:
    from agno.agent import Agent

    return Agent(name="slow", model=_MODEL, telemetry=False)


_MODEL = OfflineModel(delay=0.2)


class Load:
    """Callers that call again and again, each time with the token that is right then."""

    def __init__(self, client: Stubs, token: Callable[[], str]) -> None:
        self.client = client
        self.token = token
        self.answers: Counter[str] = Counter()
        self.last_good = 0.0
        self._stop = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Load":
        self._tasks = [asyncio.create_task(self._call()) for _ in range(CALLERS)]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        await asyncio.gather(*self._tasks)

    async def calls(self, count: int) -> None:
        """Returns when so many more calls were answered."""
        wanted = self.answers.total() + count
        async with asyncio.timeout(60):
            while self.answers.total() < wanted:
                await asyncio.sleep(0.01)

    async def _call(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                await self.client.agents.ListAgents(
                    agent_service_pb2.ListAgentsRequest(),
                    metadata=(("authorization", f"Bearer {self.token()}"),),
                    timeout=60,
                )
            except grpc.aio.AioRpcError as error:
                self.answers[reason_of(error)["ErrorInfo"].reason] += 1
                await asyncio.sleep(0.01)
            else:
                self.answers["OK"] += 1
                self.last_good = max(self.last_good, began)


async def test_keys_are_replaced_while_everybody_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jwks, "COOL_DOWN", 0.2)
    async with IdentityProvider() as provider:
        tokens = [
            {
                "issuer": ISSUER,
                "audience": [AUDIENCE],
                "jwks_url": f"{provider.url}/jwks",
                "jwks_refresh": 1,
                "timeout": 30,  # a busy machine is no outage
            }
        ]
        async with (
            serving(offline, auth=("tokens",), tokens=tokens) as server,
            stubs(server.address) as client,
        ):
            signed_by = "r0"
            async with Load(client, lambda: provider.sign(signed_by)) as load:
                await load.calls(50)
                for key in ("r1", "r0", "r1"):
                    before = signed_by
                    provider.published = [before, key]
                    signed_by = key  # at once: nobody has fetched the new key yet
                    await load.calls(100)
                    provider.published = [key]
                    await load.calls(100)
                # The issuer is away: what is known serves on.
                await provider.die()
                await load.calls(200)
    assert set(load.answers) == {"OK"}
    assert provider.asked["/jwks"] < load.answers["OK"] / 2


async def test_a_token_is_taken_back_while_everybody_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bearers, "SWEEP", 0.2)
    async with IdentityProvider() as provider:
        provider.good.update(bad={"sub": "billing"}, good={"sub": "billing"})
        tokens = [{"introspection_url": f"{provider.url}/introspect", "timeout": 30}]
        async with (
            serving(offline, auth=("tokens",), tokens=tokens) as server,
            stubs(server.address) as client,
            Load(client, lambda: "bad") as bad,
            Load(client, lambda: "good") as good,
        ):
            request = run_service_pb2.RunRequest(agent_name="slow", message="Repeat this: " + "word " * 500)
            stream = client.runs.Run(request, metadata=(("authorization", "Bearer bad"),))
            await stream.read()
            await bad.calls(50)
            await good.calls(50)
            taken_back = time.monotonic()
            del provider.good["bad"]
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                await asyncio.wait_for(_drained(stream), 60)
            assert reason_of(ended.value)["ErrorInfo"].reason == "UNAUTHENTICATED"
            # Every call that begins later than the bound allows is refused, on however busy a machine.
            while time.monotonic() < taken_back + BOUND:
                await asyncio.sleep(0.05)
            await bad.calls(50)
            assert bad.last_good < taken_back + BOUND
            assert set(bad.answers) == {"OK", "UNAUTHENTICATED"}
            await good.calls(50)
            assert set(good.answers) == {"OK"}
            # The run belongs to the server, and goes on; its owner follows it by another token.
            runs = await client.runs.ListRuns(
                run_service_pb2.ListRunsRequest(), metadata=(("authorization", "Bearer good"),)
            )
            assert [run.status for run in runs.runs] == [run_service_pb2.RUN_STATUS_RUNNING]
            assert provider.asked["/introspect"] < good.answers["OK"]


async def _drained(stream: "grpc.aio.UnaryStreamCall[Any, Any]") -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass
