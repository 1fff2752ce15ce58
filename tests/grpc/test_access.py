"""Who may call what: every method, by every kind of caller."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from grpc_health.v1 import health_pb2
from support.served import UNKNOWN, Served, refusal, serve, until

from dragoman.auth import Authenticator, KeyRing, Scope, keyring, make_key
from dragoman.records import ApiKey, utcnow
from dragoman.transport.access import RULES
from dragoman.transport.server import SERVICE_NAMES
from dragoman.v1 import (
    agent_service_pb2,
    run_service_pb2,
    session_service_pb2,
    usage_service_pb2,
)

MODULES = (agent_service_pb2, session_service_pb2, run_service_pb2, usage_service_pb2)
METHODS = [
    (f"/{service.full_name}/{method.name}", method)
    for module in MODULES
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
]
HEALTH = "/grpc.health.v1.Health/Check"
NOBODY = "UNAUTHENTICATED"
FORBIDDEN = "PERMISSION_DENIED"

CALLERS: dict[str, dict[str, Any] | None] = {
    "nobody": None,
    "reader": {"scopes": [Scope.READ]},
    "runner": {"scopes": [Scope.RUN]},
    "admin": {"scopes": [Scope.ADMIN]},
    "nothing": {"scopes": []},
    "expired": {"scopes": [Scope.ADMIN], "expire_time": utcnow() - timedelta(seconds=1)},
    "revoked": {"scopes": [Scope.ADMIN]},
}
MAY = {"reader": {Scope.READ}, "runner": {Scope.READ, Scope.RUN}, "admin": set(Scope), "nothing": set()}


@dataclass
class Doors:
    """A server, and the text of each caller's key."""

    served: Served
    keys: dict[str, str]
    made: dict[str, ApiKey]

    def metadata(self, caller: str, *more: tuple[str, str]) -> tuple[tuple[str, str], ...]:
        key = self.keys.get(caller)
        return (*((("x-api-key", key),) if key else ()), *more)


class Keys:
    """Keys in memory."""

    def __init__(self) -> None:
        self.made: dict[str, ApiKey] = {}

    async def all(self) -> list[ApiKey]:
        return list(self.made.values())

    async def changed(self, within: timedelta) -> list[ApiKey]:
        return await self.all()


@pytest.fixture
async def doors(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Doors]:
    monkeypatch.setattr(keyring, "REFRESH", 0.05)
    source, keys = Keys(), {}
    options = {name: each for name, each in CALLERS.items() if each is not None}
    options["narrow"] = {"agents": ["other-*"]}
    options["trusted"] = {"acts_for_users": True}
    for name, each in options.items():
        new = make_key(name, now=utcnow(), **each)
        source.made[name], keys[name] = new.key, new.text
    source.made["revoked"] = replace(source.made["revoked"], revoke_time=utcnow())
    ring = KeyRing(source)
    await ring.open()
    try:
        async with serve(authenticator=Authenticator(ring)) as served:
            ring.listen(lambda ids: served.server.end_calls([f"key/{each}" for each in ids]))
            yield Doors(served, keys, source.made)
    finally:
        await ring.close()


async def answer(doors: Doors, path: str, method: Any, metadata: Any, request: Any = None) -> str:
    """OK, or the reason of the refusal."""
    made = message_factory.GetMessageClass(method.input_type)() if request is None else request
    options: dict[str, Any] = {"request_serializer": type(made).SerializeToString}
    channel: Any = doors.served.channel
    try:
        if method.server_streaming:
            call = channel.unary_stream(path, **options)(made, metadata=metadata, timeout=30)
            await call.read()
            call.cancel()
        else:
            await channel.unary_unary(path, **options)(made, metadata=metadata, timeout=30)
    except grpc.aio.AioRpcError as error:
        return (await refusal(error)).reason
    return "OK"


def test_every_method_has_a_rule_and_every_rule_a_method() -> None:
    ours = {path for path in RULES if path.split("/")[1] in SERVICE_NAMES}
    assert ours == {path for path, _ in METHODS}
    assert all(RULES[path] is not None for path in ours)


@pytest.mark.parametrize("caller", CALLERS)
async def test_every_method_by_every_caller(doors: Doors, caller: str) -> None:
    """An empty request: who is let in is told what is wrong with it, or is answered."""
    for path, method in METHODS:
        got = await answer(doors, path, method, doors.metadata(caller))
        rule = RULES[path]
        assert rule is not None
        if caller not in MAY:
            assert got == NOBODY, path
        elif rule.needed not in MAY[caller]:
            assert got == FORBIDDEN, path
        else:
            assert got not in (NOBODY, FORBIDDEN), path


async def test_probes_need_no_key(doors: Doors) -> None:
    check = doors.served.channel.unary_unary(
        HEALTH,
        request_serializer=health_pb2.HealthCheckRequest.SerializeToString,
        response_deserializer=health_pb2.HealthCheckResponse.FromString,
    )
    assert (await check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
@pytest.mark.parametrize(("caller", "code"), [("nobody", "UNAUTHENTICATED"), ("reader", "OK")])
async def test_reflection_needs_one(doors: Doors, version: str, caller: str, code: str) -> None:
    path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
    channel: Any = doors.served.channel
    call = channel.stream_stream(path)(metadata=doors.metadata(caller))
    await call.done_writing()
    assert (await call.code()).name == code


async def test_a_caller_is_refused_before_its_request_is_read(doors: Doors) -> None:
    """What it sends is no message at all, and it is told of its credentials."""
    channel: Any = doors.served.channel
    call = channel.unary_unary("/dragoman.v1.RunService/Execute")(b"\xff" * 1000)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call
    assert (await refusal(refused.value)).reason == NOBODY


ALLOWED = ("OK", "SESSION_NOT_FOUND")
"""The fake engine makes sessions of another owner, of which Execute finds no messages."""


def _asking(agent: str) -> Iterator[tuple[str, Any]]:
    yield "/dragoman.v1.AgentService/GetAgent", agent_service_pb2.GetAgentRequest(name=agent)
    yield (
        "/dragoman.v1.SessionService/CreateSession",
        session_service_pb2.CreateSessionRequest(agent_name=agent),
    )
    run = run_service_pb2.RunRequest(agent_name=agent, message="hi")
    yield "/dragoman.v1.RunService/Run", run
    yield "/dragoman.v1.RunService/Execute", run


async def test_an_agent_that_is_not_granted_is_not_there(doors: Doors) -> None:
    methods = dict(METHODS)
    for path, request in _asking("plain"):
        method = methods[path]
        assert await answer(doors, path, method, doors.metadata("runner"), request) in ALLOWED, path
        assert await answer(doors, path, method, doors.metadata("narrow"), request) == "AGENT_NOT_FOUND", path
    listing = agent_service_pb2.ListAgentsRequest()
    agents = doors.served.agents.ListAgents
    assert (await agents(listing, metadata=doors.metadata("runner"))).agents
    assert not (await agents(listing, metadata=doors.metadata("narrow"))).agents


async def test_the_owner_is_the_keys_principal_and_the_user_it_acts_for(doors: Doors) -> None:
    path, method = next(each for each in METHODS if each[0].endswith("/Run"))
    request = run_service_pb2.RunRequest(agent_name="plain", message="hi")
    ann, long = ("x-user-id", "ann"), ("x-user-id", "a" * 129)
    for metadata, told in (
        (doors.metadata("runner"), "OK"),
        (doors.metadata("trusted", ann), "OK"),
        (doors.metadata("runner", ann), FORBIDDEN),
        (doors.metadata("trusted", long), "INVALID_INPUT"),
    ):
        assert await answer(doors, path, method, metadata, request) == told
    owners = [run.draft.owner for run in doors.served.engine.runs]
    assert [(owner.principal, owner.user) for owner in owners] == [("runner", ""), ("trusted", "ann")]


async def test_an_open_stream_ends_when_its_key_is_taken_back(doors: Doors) -> None:
    """And no other: the run goes on, as after any caller that has gone."""
    doors.served.engine.script = [asyncio.Event()]
    request = run_service_pb2.RunRequest(agent_name="plain", message="hi")
    streams = {
        name: doors.served.runs.Run(request, metadata=doors.metadata(name)) for name in ("runner", "trusted")
    }
    await until(lambda: len(doors.served.engine.runs) == 2)
    for stream in streams.values():
        await stream.read()
    doors.made["runner"] = replace(doors.made["runner"], revoke_time=utcnow())
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await asyncio.wait_for(_to_the_end(streams["runner"]), 20)
    told = await refusal(ended.value)
    assert (told.code, told.reason) == (NOBODY, NOBODY)
    assert not streams["trusted"].done()
    streams["trusted"].cancel()


async def _to_the_end(stream: Any) -> None:
    while await stream.read() is not grpc.aio.EOF:
        pass


async def test_an_unknown_session_and_anothers_look_the_same(doors: Doors) -> None:
    """The store answers for both alike; here it is asked in the name of the one who calls."""
    get = doors.served.sessions.GetSession
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await get(
            session_service_pb2.GetSessionRequest(session_id=UNKNOWN), metadata=doors.metadata("reader")
        )
    assert (await refusal(refused.value)).reason == "SESSION_NOT_FOUND"
