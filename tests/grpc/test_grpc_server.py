"""The server as a whole: ports, limits, keepalive, health, reflection, drain."""

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any, cast

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from support.fake_ports import FakeCatalog, FakeEngine, FakeInspector, FakeStore, FakeView, completed, delta
from support.served import Served, serve

from dragoman.config import Settings
from dragoman.engine.ports import Store
from dragoman.errors import StorageUnavailable
from dragoman.transport import CannotListen, GrpcServer
from dragoman.transport.server import SERVICE_NAMES
from dragoman.v1 import agent_service_pb2, agent_service_pb2_grpc, run_service_pb2, session_service_pb2

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
RUN = run_service_pb2.RunRequest(agent_name="plain", message="hi")
MIB = 1024 * 1024


def make(**settings: Any) -> GrpcServer:
    store = FakeStore()
    return GrpcServer(
        Settings(**settings),
        engine=FakeEngine(store),
        catalog=FakeCatalog(),
        store=cast("Store", store),  # the part of the port that the transport asks
        view=FakeView(),
        inspector=FakeInspector(),
        currency="ZAR",
    )


async def status(served: Served, service: str = "") -> int:
    stub = health_pb2_grpc.HealthStub(served.channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


def test_the_services_of_the_contract() -> None:
    names = ("Agent", "Session", "Run", "Usage")
    assert tuple(f"dragoman.v1.{name}Service" for name in names) == SERVICE_NAMES


async def test_a_taken_port_is_a_clear_error(served: Served) -> None:
    second = make(port=served.port)
    with pytest.raises(CannotListen, match=f"127.0.0.1:{served.port}.*--port"):
        await second.start()
    await second.stop()
    assert (await served.agents.ListAgents(agent_service_pb2.ListAgentsRequest())).agents


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
async def test_the_loopback_address_of_ipv6() -> None:
    server = make(host="::1", port=0)
    try:
        port = await server.start()
    except CannotListen:
        pytest.skip("this machine has no IPv6 loopback address")
    async with grpc.aio.insecure_channel(f"[::1]:{port}") as channel:
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        assert (await stub.ListAgents(agent_service_pb2.ListAgentsRequest())).agents
    await server.stop()


async def test_a_request_over_the_limit_is_refused_and_the_next_is_served(served: Served) -> None:
    large = run_service_pb2.RunRequest(agent_name="plain", message="x" * (40 * MIB))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(large)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert served.engine.runs == []
    below = session_service_pb2.CreateSessionRequest(agent_name="plain", title="t" * (31 * MIB))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.sessions.CreateSession(below)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_client_that_pings_every_second_keeps_its_silent_stream() -> None:
    """By gRPC's defaults such a connection dies after three seconds of "too many pings"."""
    async with serve(min_client_ping_interval=0.1) as served:
        gate = asyncio.Event()
        served.engine.script = (delta("a"), gate, completed("a"))
        options = [
            ("grpc.keepalive_time_ms", 1000),
            ("grpc.keepalive_permit_without_calls", 1),
            ("grpc.http2.max_pings_without_data", 0),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{served.port}", options=options) as channel:
            call: Any = channel.unary_stream("/dragoman.v1.RunService/Run")
            events = aiter(call(RUN.SerializeToString()))
            await anext(events)
            asyncio.get_running_loop().call_later(4.5, gate.set)
            assert [1 async for _ in events] == [1]


async def test_health_of_the_server_and_of_each_service(served: Served) -> None:
    for service in ("", *SERVICE_NAMES):
        assert await status(served, service) == SERVING
    served.server.set_serving(False)
    for service in ("", *SERVICE_NAMES):
        assert await status(served, service) == NOT_SERVING
    assert await status(served, "liveness") == SERVING
    served.server.set_serving(True)
    listed = await health_pb2_grpc.HealthStub(served.channel).List(health_pb2.HealthListRequest())
    assert {name: answer.status for name, answer in listed.statuses.items()} == dict.fromkeys(
        ("", "liveness", *SERVICE_NAMES), SERVING
    )


async def test_health_of_what_is_not_served(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await status(served, "nobody.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    watch = health_pb2_grpc.HealthStub(served.channel).Watch(
        health_pb2.HealthCheckRequest(service="nobody.Service")
    )
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
    watch.cancel()


async def test_a_watch_sees_every_change_and_ends_with_the_server(served: Served) -> None:
    watch = health_pb2_grpc.HealthStub(served.channel).Watch(health_pb2.HealthCheckRequest())
    changes = aiter(watch)
    assert (await anext(changes)).status == SERVING
    served.server.set_serving(False)
    assert (await anext(changes)).status == NOT_SERVING
    served.server.set_serving(True)
    assert (await anext(changes)).status == SERVING
    await asyncio.wait_for(served.server.drain(60), 20)  # an open watch would hold it for the whole grace
    assert [answer.status async for answer in changes] == [NOT_SERVING]
    assert await watch.code() is grpc.StatusCode.OK


async def test_health_follows_the_database() -> None:
    """Two questions in a row without an answer, and one with; who is served already notices nothing, nor does liveness."""
    async with serve(health_interval=0.1) as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        changes = aiter(health.Watch(health_pb2.HealthCheckRequest(service=SERVICE_NAMES[0])))
        gate = asyncio.Event()
        served.engine.script = (delta("a"), gate, completed("a"))
        run = aiter(served.runs.Run(RUN))
        await anext(run)
        assert (await anext(changes)).status == SERVING
        served.store.broken = StorageUnavailable()
        assert (await anext(changes)).status == NOT_SERVING
        assert await status(served, "") == NOT_SERVING
        assert await status(served, "liveness") == SERVING
        # What says that the server shall serve does not make it ready.
        served.server.set_serving(True)
        assert await status(served, "") == NOT_SERVING
        served.store.broken = None
        assert (await anext(changes)).status == SERVING
        gate.set()
        assert len([event async for event in run]) > 0
        # One that is told to stop stays so, whatever the database does.
        served.server.set_serving(False)
        assert (await anext(changes)).status == NOT_SERVING
        served.store.broken = StorageUnavailable()
        await asyncio.sleep(0.5)
        served.store.broken = None
        await asyncio.sleep(0.5)
        assert await status(served, "") == NOT_SERVING


async def test_drain_lets_open_calls_finish_and_refuses_new_ones(served: Served) -> None:
    gate = asyncio.Event()
    served.engine.script = (delta("a"), gate, completed("a"))
    events = aiter(served.runs.Run(RUN))
    await anext(events)
    draining = asyncio.create_task(served.server.drain(60))
    async with grpc.aio.insecure_channel(
        f"127.0.0.1:{served.port}", options=[("grpc.use_local_subchannel_pool", 1)]
    ) as channel:
        stub = agent_service_pb2_grpc.AgentServiceStub(channel)
        while True:  # until the listener is closed
            try:
                await stub.ListAgents(agent_service_pb2.ListAgentsRequest())
            except grpc.aio.AioRpcError as error:
                # A call that arrives in the very moment is cut off by gRPC, before anybody has seen it.
                refused = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
                assert error.code() in refused  # noqa: PT017 - the way out of the loop
                break
    gate.set()
    assert [event.WhichOneof("event") async for event in events] == ["run_completed"]
    await asyncio.wait_for(draining, 20)
    await served.server.stop()


async def test_drain_cancels_what_outlives_its_grace(served: Served) -> None:
    served.engine.script = (delta("a"), asyncio.Event())
    events = aiter(served.runs.Run(RUN))
    await anext(events)
    await asyncio.wait_for(served.server.drain(0.05), 20)
    with pytest.raises(grpc.aio.AioRpcError):
        await anext(events)
    assert served.engine.runs[0].closed == 1


def test_reflection_lists_and_describes_all_services(reflected: int) -> None:
    with grpc.insecure_channel(f"127.0.0.1:{reflected}") as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        names = set(database.get_services())
        assert names >= {*SERVICE_NAMES, "grpc.health.v1.Health"}
        pool = DescriptorPool(database)
        for name in names:
            assert pool.FindServiceByName(name).methods
        run = pool.FindServiceByName("dragoman.v1.RunService").methods_by_name["Run"]
        assert run.output_type.full_name == "dragoman.v1.RunEvent"
        assert run.server_streaming


@pytest.fixture
def reflected() -> Iterator[int]:
    """A server in a loop of its own thread: the library's reflection client is not asynchronous."""
    ready = threading.Event()
    port = 0
    finish: asyncio.Event
    loop: asyncio.AbstractEventLoop

    async def main() -> None:
        nonlocal port, finish, loop
        loop, finish = asyncio.get_running_loop(), asyncio.Event()
        async with serve() as served:
            port = served.port
            ready.set()
            await finish.wait()

    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    assert ready.wait(20)
    yield port
    loop.call_soon_threadsafe(finish.set)
    thread.join()


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_answers_under_both_of_its_names(served: Served, version: str) -> None:
    method: Any = served.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    )
    requests = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="dragoman.v1.RunEvent"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
    ]
    call = method(iter([request.SerializeToString() for request in requests]))
    answers = [reflection_pb2.ServerReflectionResponse.FromString(answer) async for answer in call]
    assert [answer.WhichOneof("message_response") for answer in answers] == [
        "list_services_response",
        "file_descriptor_response",
        "error_response",
    ]
    assert {service.name for service in answers[0].list_services_response.service} >= set(SERVICE_NAMES)
