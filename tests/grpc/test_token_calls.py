"""Bearer tokens on the wire: how they come, and what becomes of streams when they end."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from support.fake_ports import completed, delta
from support.identity import IdentityProvider
from support.served import Served, refusal, serve

from dragoman import gate
from dragoman.auth import Authenticator, Bearers, bearers
from dragoman.config import Settings
from dragoman.v1 import agent_service_pb2, run_service_pb2

LIST = agent_service_pb2.ListAgentsRequest()
RUN = run_service_pb2.RunRequest(agent_name="plain", message="Hi")


@dataclass
class Door:
    """A server that takes tokens of a provider that is asked."""

    served: Served
    provider: IdentityProvider
    tokens: Bearers

    async def list(self, *metadata: tuple[str, str]) -> Any:
        return await self.served.agents.ListAgents(LIST, metadata=metadata)


@pytest.fixture
async def door(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Door]:
    monkeypatch.setattr(bearers, "SWEEP", 0.05)
    async with IdentityProvider() as provider:
        provider.good["abc"] = {"sub": "billing"}
        url = f"{provider.url}/introspect"
        settings = Settings(auth=("tokens",), tokens=[{"introspection_url": url, "cache": 0.05}])
        tokens = await asyncio.to_thread(gate.bearers, settings)
        assert tokens is not None
        async with serve(authenticator=Authenticator(bearers=tokens)) as served:
            tokens.listen(served.server.end_calls)
            await tokens.open()
            yield Door(served, provider, tokens)
            await tokens.close()


@pytest.mark.parametrize("text", ["Bearer abc", "bearer abc", "BEARER   abc "])
async def test_a_good_token(text: str, door: Door) -> None:
    assert (await door.list(("authorization", text))).agents


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("authorization", "abc"),),
        (("authorization", "Bearer"),),
        (("authorization", "Basic YWJjOg=="),),
        (("authorization", "Bearer xyz"),),
        (("authorization", "Bearer abc, Bearer abc"),),
        (("authorization", "Bearer abc"), ("authorization", "Bearer xyz")),
        (("x-api-key", "abc"),),
    ],
    ids=lambda metadata: "+".join("=".join(pair) for pair in metadata) or "nothing",
)
async def test_what_opens_nothing(metadata: Any, door: Door) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.list(*metadata)
    assert (await refusal(caught.value)).reason == "UNAUTHENTICATED"


async def test_an_outage_is_told_apart(door: Door) -> None:
    await door.provider.die()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await door.list(("authorization", "Bearer xyz"))
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert (await refusal(caught.value)).reason == "IDENTITY_UNAVAILABLE"


async def test_streams_end_with_their_token_and_no_others(door: Door) -> None:
    door.provider.good["other"] = {"sub": "billing"}
    gate_ = asyncio.Event()
    door.served.engine.script = (delta("a"), gate_, completed("a"))
    calls = [
        door.served.runs.Run(RUN, metadata=(("authorization", f"Bearer {token}"),))
        for token in ("abc", "abc", "other")
    ]
    streams = [aiter(call) for call in calls]
    for stream in streams:
        await anext(stream)
    del door.provider.good["abc"]
    for stream in streams[:2]:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await asyncio.wait_for(anext(stream), 30)
        assert (await refusal(caught.value)).reason == "UNAUTHENTICATED"
    # While the provider says nothing, what is open stays open.
    await door.provider.die()
    await asyncio.sleep(0.5)
    gate_.set()
    assert len([event async for event in streams[2]]) > 0
    assert await calls[2].code() is grpc.StatusCode.OK
    assert door.tokens._held == {}
