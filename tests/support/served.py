"""A real server on a free port over the fakes, with the stubs that talk to it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from support.fake_ports import FakeCatalog, FakeEngine, FakeInspector, FakeStore, FakeView

from dragoman.auth import Authenticator, Scope
from dragoman.config import Settings
from dragoman.engine.ports import MediaFetcher, Store
from dragoman.transport import GrpcServer
from dragoman.transport.access import Rule
from dragoman.transport.interceptors import AccessInterceptor, SanitiseInterceptor, StreamDriverInterceptor
from dragoman.v1 import (
    agent_service_pb2_grpc,
    run_service_pb2_grpc,
    session_service_pb2_grpc,
    usage_service_pb2_grpc,
)

UNKNOWN = "01890a5d-ac96-774b-bcce-b302099a8057"


@dataclass
class Served:
    """The server, what is behind it, and stubs in front."""

    server: GrpcServer
    port: int
    channel: grpc.aio.Channel
    catalog: FakeCatalog
    store: FakeStore
    engine: FakeEngine
    agents: "agent_service_pb2_grpc.AgentServiceAsyncStub"
    sessions: "session_service_pb2_grpc.SessionServiceAsyncStub"
    runs: "run_service_pb2_grpc.RunServiceAsyncStub"
    usage: "usage_service_pb2_grpc.UsageServiceAsyncStub"


@asynccontextmanager
async def serve(
    *,
    share_port: bool = False,
    authenticator: Authenticator | None = None,
    fetcher: MediaFetcher | None = None,
    **settings: Any,
) -> AsyncIterator[Served]:
    """Starts a server with these settings and stops it."""
    catalog, store = FakeCatalog(), FakeStore()
    engine = FakeEngine(store)
    server = GrpcServer(
        Settings(**{"port": 0, **settings}),
        engine=engine,
        catalog=catalog,
        store=cast("Store", store),  # the part of the port that the transport asks
        view=FakeView(),
        inspector=FakeInspector(),
        currency="ZAR",
        fetcher=fetcher,
        authenticator=authenticator,
        share_port=share_port,
    )
    port = await server.start()
    options = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=options) as channel:
            yield Served(
                server=server,
                port=port,
                channel=channel,
                catalog=catalog,
                store=store,
                engine=engine,
                agents=agent_service_pb2_grpc.AgentServiceStub(channel),
                sessions=session_service_pb2_grpc.SessionServiceStub(channel),
                runs=run_service_pb2_grpc.RunServiceStub(channel),
                usage=usage_service_pb2_grpc.UsageServiceStub(channel),
            )
    finally:
        await server.stop()


@asynccontextmanager
async def bare(
    serve: Callable[[bytes, Any], Any], *extra: grpc.aio.ServerInterceptor
) -> AsyncIterator[grpc.aio.Channel]:
    """A server of one method, `/test.Test/Stream`, behind our interceptors and `extra` ones within."""
    access = AccessInterceptor(Authenticator(None), {"/test.Test/Stream": Rule(Scope.READ)})
    server = grpc.aio.server(interceptors=(SanitiseInterceptor(), access, *extra, StreamDriverInterceptor()))
    handlers: dict[str, Any] = {"Stream": grpc.unary_stream_rpc_method_handler(serve)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("test.Test", handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        await server.stop(None)


def stream_of(channel: grpc.aio.Channel, path: str) -> Any:
    """A method of plain bytes: a channel knows no types."""
    return channel.unary_stream(path)


def unary_of(channel: grpc.aio.Channel, path: str) -> Any:
    """Likewise, without a stream."""
    return channel.unary_unary(path)


async def until(condition: Callable[[], bool]) -> None:
    """Lets the loop turn until the condition holds; the test's time limit ends a wait for what never comes."""
    while not condition():
        await asyncio.sleep(0.001)


@dataclass(frozen=True)
class Refusal:
    """An error as a caller sees it."""

    code: str
    reason: str
    fields: list[str]
    message: str
    metadata: dict[str, str]
    details: list[Message]


async def refusal(error: grpc.aio.AioRpcError) -> Refusal:
    """The details of a failed call."""
    status = rpc_status.from_call(cast("grpc.Call", error))
    details = list(_unpacked(status))
    info = next(detail for detail in details if isinstance(detail, error_details_pb2.ErrorInfo))
    assert info.domain == "dragoman"
    bad = [detail for detail in details if isinstance(detail, error_details_pb2.BadRequest)]
    fields = [violation.field for detail in bad for violation in detail.field_violations]
    assert all(violation.description for detail in bad for violation in detail.field_violations)
    return Refusal(
        error.code().name, info.reason, fields, error.details() or "", dict(info.metadata), details
    )


def _unpacked(status: Any) -> Iterator[Message]:
    kinds = {
        kind.DESCRIPTOR.full_name: kind
        for kind in (
            error_details_pb2.ErrorInfo,
            error_details_pb2.BadRequest,
            error_details_pb2.RetryInfo,
            error_details_pb2.QuotaFailure,
        )
    }
    for packed in status.details if status else ():
        detail = kinds[packed.TypeName()]()
        assert packed.Unpack(detail)
        yield detail
