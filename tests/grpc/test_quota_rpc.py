"""Limits of streams and calls, of principals and of the server: who is refused, with what, and that nothing stays taken."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.served import UNKNOWN, Refusal, Served, refusal, serve, unary_of, until

from dragoman.auth import Authenticator, CertificateRule, KeyRing, Principal, make_key
from dragoman.quotas import Quotas
from dragoman.records import ApiKey, utcnow
from dragoman.v1 import agent_service_pb2, run_service_pb2, run_service_pb2_grpc, usage_service_pb2

PATIENCE = 40.0
RUN = run_service_pb2.RunRequest(agent_name="plain", message="hi")
LIST = agent_service_pb2.ListAgentsRequest()
RARE = 0.01
"""Calls a second: no test waits for the next one."""


class Keys:
    """A key of each principal, in memory."""

    def __init__(self, **quotas: Quotas) -> None:
        self.made: dict[str, ApiKey] = {}
        self.texts: dict[str, str] = {}
        for name, each in quotas.items():
            new = make_key(name, now=utcnow(), quotas=each)
            self.made[name], self.texts[name] = new.key, new.text

    async def all(self) -> list[ApiKey]:
        return list(self.made.values())

    async def changed(self, within: timedelta) -> list[ApiKey]:
        return await self.all()

    def of(self, name: str) -> tuple[tuple[str, str], ...]:
        return (("x-api-key", self.texts[name]),)


CERTIFICATES = (CertificateRule("spiffe://nobody", Principal("nobody")),)


@asynccontextmanager
async def guarded(keys: Keys, *, late: bool = False, **settings: Any) -> AsyncIterator[Served]:
    """`late`: callers are known only when they are served, as with certificates."""
    ring = KeyRing(keys)
    await ring.open()
    try:
        authenticator = Authenticator(ring, CERTIFICATES if late else ())
        async with serve(authenticator=authenticator, **settings) as served:
            yield served
    finally:
        await ring.close()


async def refused(call: Any) -> Refusal:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await asyncio.wait_for(call, PATIENCE)
    return await refusal(error.value)


def check(told: Refusal, reason: str, subject: str) -> float:
    """The refusal is typed and whole. Returns its delay."""
    assert (told.code, told.reason) == ("RESOURCE_EXHAUSTED", reason)
    [failure] = [each for each in told.details if isinstance(each, error_details_pb2.QuotaFailure)]
    assert [each.subject for each in failure.violations] == [subject]
    assert all(each.description == told.message for each in failure.violations)
    [retry] = [each for each in told.details if isinstance(each, error_details_pb2.RetryInfo)]
    return float(retry.retry_delay.ToTimedelta().total_seconds())


async def healthy(served: Served) -> bool:
    stub: Any = health_pb2_grpc.HealthStub(served.channel)
    answer = await stub.Check(health_pb2.HealthCheckRequest())
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


@pytest.mark.parametrize("late", [False, True])
async def test_calls_of_a_principal(late: bool) -> None:
    keys = Keys(greedy=Quotas(), modest=Quotas())
    async with guarded(
        keys, late=late, request_rate_per_principal=RARE, request_burst_per_principal=3
    ) as served:
        for _ in range(3):
            await served.agents.ListAgents(LIST, metadata=keys.of("greedy"))
        for _ in range(3):
            told = await refused(served.agents.ListAgents(LIST, metadata=keys.of("greedy")))
            assert 1 / RARE - PATIENCE < check(told, "RATE_LIMITED", "principal/greedy") <= 1 / RARE
            assert told.metadata == {"principal": "greedy", "limit": "0.01"}
        told = await refused(served.runs.Run(RUN, metadata=keys.of("greedy")).read())
        check(told, "RATE_LIMITED", "principal/greedy")
        assert await healthy(served)
        for _ in range(3):
            await served.agents.ListAgents(LIST, metadata=keys.of("modest"))


async def test_calls_of_all_together() -> None:
    keys = Keys(a=Quotas(), b=Quotas())
    async with guarded(keys, request_rate=RARE, request_burst=2) as served:
        for name in "ab":
            await served.agents.ListAgents(LIST, metadata=keys.of(name))
        told = await refused(served.agents.ListAgents(LIST, metadata=keys.of("b")))
        check(told, "RATE_LIMITED", "server")
        assert await healthy(served)


async def test_who_is_refused_for_himself_takes_nothing_from_the_others() -> None:
    keys = Keys(greedy=Quotas(request_rate=RARE, request_burst=1), modest=Quotas())
    async with guarded(keys, request_rate=RARE, request_burst=3) as served:
        await served.agents.ListAgents(LIST, metadata=keys.of("greedy"))
        for _ in range(9):
            told = await refused(served.agents.ListAgents(LIST, metadata=keys.of("greedy")))
            check(told, "RATE_LIMITED", "principal/greedy")
        for _ in range(2):
            await served.agents.ListAgents(LIST, metadata=keys.of("modest"))


async def test_a_refused_request_is_not_read() -> None:
    """It is no message at all, and nobody notices."""
    async with serve(request_rate_per_principal=RARE, request_burst_per_principal=1) as served:
        send = unary_of(served.channel, "/dragoman.v1.RunService/Execute")
        assert (await refused(send(b"\xff" * 9))).reason == "INVALID_INPUT"
        assert (await refused(send(b"\xff" * 9))).reason == "RATE_LIMITED"


async def test_the_key_says_how_much_and_the_principal_is_counted() -> None:
    """The figures of the key that is used, for all that the principal has."""
    keys = Keys(wide=Quotas(max_streams=3), narrow=Quotas(max_streams=1))
    keys.made["narrow"] = replace(keys.made["narrow"], principal="wide")
    async with guarded(keys, max_streams_per_principal=2) as served:
        never_end(served)
        streams = [served.runs.Run(RUN, metadata=keys.of("wide")) for _ in range(2)]
        for stream in streams:
            await stream.read()
        told = await refused(served.runs.Run(RUN, metadata=keys.of("narrow")).read())
        check(told, "TOO_MANY_STREAMS", "principal/wide")
        assert told.metadata == {"principal": "wide", "limit": "1"}
        third = served.runs.Run(RUN, metadata=keys.of("wide"))
        await third.read()
        assert served.server.gate.streams.of("wide") == 3
        for stream in (*streams, third):
            stream.cancel()
        await until(lambda: served.server.gate.streams.total == 0)


@pytest.mark.parametrize("late", [False, True])
async def test_streams_of_a_principal_and_of_all_together(late: bool) -> None:
    keys = Keys(greedy=Quotas(), modest=Quotas())
    async with guarded(keys, late=late, max_streams_per_principal=2, max_streams=3) as served:
        never_end(served)
        streams = [served.runs.Run(RUN, metadata=keys.of(name)) for name in ("greedy", "greedy", "modest")]
        for stream in streams[:2]:
            await stream.read()
        attach = run_service_pb2.AttachRunRequest(run_id=UNKNOWN)
        for more in (
            served.runs.Run(RUN, metadata=keys.of("greedy")).read(),
            served.runs.AttachRun(attach, metadata=keys.of("greedy")).read(),
        ):
            told = await refused(more)
            assert check(told, "TOO_MANY_STREAMS", "principal/greedy") > 0
        # Calls without a stream go on.
        await served.agents.ListAgents(LIST, metadata=keys.of("greedy"))
        await streams[2].read()
        told = await refused(served.runs.Run(RUN, metadata=keys.of("modest")).read())
        check(told, "TOO_MANY_STREAMS", "server")
        assert await healthy(served)
        streams[0].cancel()
        await until(lambda: served.server.gate.streams.of("greedy") == 1)
        again = served.runs.Run(RUN, metadata=keys.of("modest"))
        await again.read()
        for stream in (*streams, again):
            stream.cancel()
        await until(lambda: not served.server.gate.streams.names())


async def test_a_health_watch_is_no_stream_of_anybody() -> None:
    async with serve(max_streams=1, max_streams_per_principal=1) as served:
        stub: Any = health_pb2_grpc.HealthStub(served.channel)
        watches = [stub.Watch(health_pb2.HealthCheckRequest()) for _ in range(3)]
        for watch in watches:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert served.server.gate.streams.total == 0
        for watch in watches:
            watch.cancel()


def never_end(served: Served) -> None:
    """Runs begin, and then wait for ever."""
    served.engine.script = [*served.engine.script[:1], asyncio.Event()]


async def _to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


FATES = ("end", "error", "cancel", "cancel at once", "deadline", "connection")


async def _live_and_die(served: Served, fate: str, wait: float) -> None:
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", options=options) as channel:
        stub: Any = run_service_pb2_grpc.RunServiceStub(channel)
        stream = stub.Run(RUN, timeout=0.05 if fate == "deadline" else None)
        if fate == "error":
            stream = stub.AttachRun(run_service_pb2.AttachRunRequest(run_id=UNKNOWN))
        with suppress(grpc.aio.AioRpcError):
            if fate in ("end", "error", "deadline"):
                await _to_the_end(stream)
            elif fate != "cancel at once":
                await stream.read()
                await asyncio.sleep(wait)
        if fate != "connection":
            stream.cancel()


@pytest.mark.parametrize("ends", [True, False])
async def test_nothing_stays_taken_however_streams_end(ends: bool) -> None:
    """To their end, with an error, cancelled at any moment, by their deadline, with their connection, or refused."""
    rng = random.Random(7)
    async with serve(max_streams_per_principal=8) as served, asyncio.timeout(PATIENCE):
        if not ends:
            never_end(served)
        for _ in range(2):
            fates = [rng.choice(FATES if ends else FATES[1:]) for _ in range(16)]
            await asyncio.gather(*(_live_and_die(served, fate, rng.random() / 100) for fate in fates))
        await until(lambda: served.server.gate.streams.total == 0)
        assert served.server.gate.streams.names() == frozenset()


async def test_streams_that_the_server_ends_are_given_back() -> None:
    async with serve(max_streams_per_principal=4) as served:
        never_end(served)
        streams = [served.runs.Run(RUN) for _ in range(3)]
        for stream in streams:
            await stream.read()
        assert served.server.gate.streams.total == 3
        await served.server.stop()
        assert served.server.gate.streams.total == 0


async def test_what_credentials_allow_reaches_engine_and_budgets() -> None:
    own = Quotas(max_runs=4, budget_day=Decimal("1.5"))
    keys = Keys(web=own)
    async with guarded(keys) as served:
        stream = served.runs.Run(RUN, metadata=keys.of("web"))
        await _to_the_end(stream)
        draft = served.engine.runs[0].draft
        assert draft is not None
        assert draft.quotas == own
        await served.usage.GetBudget(usage_service_pb2.GetBudgetRequest(), metadata=keys.of("web"))
        assert served.engine.budget_quotas == own


# What gRPC itself keeps: see `_options` of the server


async def told(call: Any) -> str:
    """OK, or the code that gRPC ends the call with."""
    try:
        await asyncio.wait_for(call, PATIENCE)
    except grpc.aio.AioRpcError as error:
        return str(error.code().name)
    return "OK"


@pytest.mark.parametrize("limit", [4096, 32768])
async def test_metadata_over_the_limit_is_refused_whole_or_in_pieces(limit: int) -> None:
    """And always: there is no size at which it depends."""
    async with serve(max_metadata_bytes=limit) as served:
        for size in (limit // 4, limit * 3 // 4):
            for _ in range(5):
                fits = (("x-much", "a" * size),)
                assert await told(served.agents.ListAgents(LIST, metadata=fits)) == "OK"
        for metadata in (
            (("x-much", "a" * (limit + 1)),),
            tuple((f"x-{number}", "a" * 100) for number in range(limit // 100)),
        ):
            for _ in range(2):
                call = served.agents.ListAgents(LIST, metadata=metadata)
                assert await told(call) == "RESOURCE_EXHAUSTED"
        assert await told(served.agents.ListAgents(LIST)) == "OK"


async def test_further_calls_on_one_connection_wait() -> None:
    async with serve(max_calls_per_connection=2) as served, another_connection(served) as other:
        never_end(served)
        # The client learns of the limit with its first answer.
        await served.agents.ListAgents(LIST)
        streams = [served.runs.Run(RUN) for _ in range(5)]
        reads = {asyncio.ensure_future(stream.read()): stream for stream in streams}
        # Who calls on another connection does not wait.
        await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
        assert await told(unary_of(other, "/dragoman.v1.AgentService/ListAgents")(b"")) == "OK"
        assert served.server.gate.streams.total <= 2
        while reads:
            done, _ = await asyncio.wait(reads, return_when=asyncio.FIRST_COMPLETED)
            for read in done:
                reads.pop(read).cancel()


def another_connection(served: Served) -> grpc.aio.Channel:
    options = [("grpc.use_local_subchannel_pool", 1)]
    return grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", options=options)


async def test_further_connections_are_closed() -> None:
    async with serve(max_connections=2) as served:
        await served.agents.ListAgents(LIST)
        async with another_connection(served) as second, another_connection(served) as third:
            paths = "/dragoman.v1.AgentService/ListAgents"
            assert await told(unary_of(second, paths)(b"")) == "OK"
            assert await told(unary_of(third, paths)(b"")) == "UNAVAILABLE"
            await second.close()
            assert await told(unary_of(third, paths)(b"", wait_for_ready=True)) == "OK"


async def test_an_old_connection_lets_its_streams_end_and_calls_go_on() -> None:
    async with serve(max_connection_age=0.1) as served:
        gate = asyncio.Event()
        served.engine.script = [*served.engine.script[:1], gate, *served.engine.script[1:]]
        stream = served.runs.Run(RUN)
        await stream.read()
        # The client's connection is told to go, and it makes another one.
        async with asyncio.timeout(PATIENCE):
            while served.channel.get_state() is grpc.ChannelConnectivity.READY:
                await asyncio.sleep(0.01)
        for _ in range(9):
            assert await told(served.agents.ListAgents(LIST)) == "OK"
            await asyncio.sleep(0.03)
        gate.set()
        await asyncio.wait_for(_to_the_end(stream), PATIENCE)
