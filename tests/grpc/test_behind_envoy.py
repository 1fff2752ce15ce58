"""Real servers behind a real Envoy with the configuration of deploy/: long streams, servers that are dead, one that drains."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml
from support.certificates import Authority
from support.deployment import DEPLOY, seconds, settings_of, walk
from support.envoy import Envoy, moved
from support.fake_ports import completed, delta
from support.served import Served, serve, unary_of

from dragoman.errors import StorageUnavailable
from dragoman.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
)

RUN = run_service_pb2.RunRequest(agent_name="plain", message="hi")
LIST = agent_service_pb2.ListAgentsRequest()
PATIENCE = 60.0


@dataclass
class Behind:
    """An Envoy, the servers behind it, and a channel to it."""

    envoy: Envoy
    servers: list[Served]
    channel: grpc.aio.Channel

    @property
    def runs(self) -> "run_service_pb2_grpc.RunServiceAsyncStub":
        return run_service_pb2_grpc.RunServiceStub(self.channel)

    @property
    def agents(self) -> "agent_service_pb2_grpc.AgentServiceAsyncStub":
        return agent_service_pb2_grpc.AgentServiceStub(self.channel)


@asynccontextmanager
async def behind_envoy(folder: Path, servers: int, *, dead: tuple[int, ...] = ()) -> AsyncIterator[Behind]:
    """So many servers with mTLS behind an Envoy, and ports where nobody answers."""
    authority = Authority()
    certificate, key = authority.server().write(folder, "server")
    (folder / "clients.crt").write_bytes(authority.certificate)
    async with AsyncExitStack() as stack:
        served = [
            await stack.enter_async_context(
                serve(tls_cert=certificate, tls_key=key, tls_client_ca=folder / "clients.crt")
            )
            for _ in range(servers)
        ]
        ports = [each.port for each in served]
        envoy = await stack.enter_async_context(Envoy.start(folder, authority, [*ports, *dead]))
        await envoy.until({**dict.fromkeys(ports, True), **dict.fromkeys(dead, False)})
        credentials = grpc.ssl_channel_credentials(authority.certificate)
        channel = await stack.enter_async_context(grpc.aio.secure_channel(envoy.address, credentials))
        yield Behind(envoy, served, channel)


async def test_streams_pass_event_by_event(tmp_path: Path) -> None:
    async with behind_envoy(tmp_path, 1) as behind:
        gate = asyncio.Event()
        behind.servers[0].engine.script = (delta("one"), gate, completed("one"))
        events = aiter(behind.runs.Run(RUN, timeout=PATIENCE, wait_for_ready=True))
        first = await anext(events)
        assert first.content_delta.text == "one"
        gate.set()
        rest = [event.WhichOneof("event") async for event in events]
        assert rest == ["run_completed"]
        # Errors as well: with their details, and not repeated.
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await behind.runs.Execute(
                run_service_pb2.RunRequest(agent_name="nobody", message="x"), timeout=PATIENCE
            )
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        assert "grpc-status-details-bin" in dict(caught.value.trailing_metadata() or ())


async def test_only_the_services_of_the_contract_are_reachable(tmp_path: Path) -> None:
    async with behind_envoy(tmp_path, 1) as behind:
        ask = unary_of(behind.channel, "/grpc.health.v1.Health/Check")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(b"", timeout=PATIENCE, wait_for_ready=True)
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_calls_go_round_a_dead_server(tmp_path: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # without listening: who connects is refused
        async with behind_envoy(tmp_path, 1, dead=(nobody.getsockname()[1],)) as behind:
            for _ in range(20):
                await behind.agents.ListAgents(LIST, timeout=PATIENCE, wait_for_ready=True)


async def test_what_a_server_refuses_for_now_another_one_does(tmp_path: Path) -> None:
    async with behind_envoy(tmp_path, 2) as behind:
        refusing, other = behind.servers
        refusing.engine.refusal = StorageUnavailable()
        for _ in range(10):
            events = [event async for event in behind.runs.Run(RUN, timeout=PATIENCE, wait_for_ready=True)]
            assert events[-1].WhichOneof("event") == "run_completed"
        assert (len(refusing.engine.runs), len(other.engine.runs)) == (0, 10)


async def test_a_server_that_drains_keeps_its_streams_and_gets_no_calls(tmp_path: Path) -> None:
    async with behind_envoy(tmp_path, 2) as behind:
        gates = [asyncio.Event(), asyncio.Event()]
        for server, gate in zip(behind.servers, gates, strict=True):
            server.engine.script = (delta("one"), gate, completed("one"))
        stream = aiter(behind.runs.Run(RUN, timeout=PATIENCE, wait_for_ready=True))
        await anext(stream)
        (leaving,) = (each for each in behind.servers if each.engine.runs)
        (staying,) = (each for each in behind.servers if not each.engine.runs)
        leaving.server.set_serving(False)
        await behind.envoy.until({leaving.port: False, staying.port: True})
        for gate in gates:
            gate.set()
        # What its main thread knows its workers learn a moment later.
        async with asyncio.timeout(PATIENCE):
            while len(staying.engine.runs) < 6:
                before = len(leaving.engine.runs)
                events = [event async for event in behind.runs.Run(RUN, timeout=PATIENCE)]
                assert events[-1].WhichOneof("event") == "run_completed"
                if len(leaving.engine.runs) > before:
                    staying.engine.runs.clear()
        rest = [event.WhichOneof("event") async for event in stream]
        assert rest == ["run_completed"]


def test_time_outs_let_streams_last(tmp_path: Path) -> None:
    config = moved(tmp_path, Authority(), [1])
    settings = settings_of((DEPLOY / "dragoman.toml").read_text())
    found: dict[str, list[Any]] = {}
    for key, value in walk(config):
        found.setdefault(key, []).append(value)
    (listener,) = config["static_resources"]["listeners"]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    (route,) = manager["route_config"]["virtual_hosts"][0]["routes"]
    assert route["route"]["timeout"] == "0s"
    assert manager["request_timeout"] == "0s"
    assert seconds(manager["stream_idle_timeout"]) > 3 * settings.heartbeat_interval
    assert settings.max_run_duration is not None
    assert seconds(route["route"]["max_stream_duration"]["max_stream_duration"]) > settings.max_run_duration
    assert set(route["route"]["retry_policy"]["retry_on"].split(",")) == {
        "connect-failure",
        "refused-stream",
        "unavailable",
    }
    for pings in found["connection_keepalive"]:
        assert seconds(pings["interval"]) > settings.min_client_ping_interval
    (cluster,) = config["static_resources"]["clusters"]
    (limits,) = cluster["circuit_breakers"]["thresholds"]
    assert limits["max_requests"] > settings.max_runs + settings.max_streams
    protocol = cluster["typed_extension_protocol_options"][
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
    ]
    streams = protocol["explicit_http_config"]["http2_protocol_options"]["max_concurrent_streams"]
    assert streams <= settings.max_calls_per_connection
    assert settings.max_connection_age_grace == 0
    # Who drains is seen before he refuses.
    (check,) = _written()["static_resources"]["clusters"][0]["health_checks"]
    assert seconds(check["interval"]) * check["unhealthy_threshold"] + 1 <= settings.drain_delay


def _written() -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())
    return config
