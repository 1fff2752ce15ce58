"""What one writes in an afternoon: a grpc.aio server that sends one message per event of Agno and keeps nothing."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import uvloop
from agno.run.agent import RunContentEvent, RunOutput

from bench.agents import agno_agent
from bench.servers.stopping import stopped
from dragoman.v1.event_pb2 import ContentDelta, RunEvent, UnmappedEvent
from dragoman.v1.run_service_pb2 import RunRequest

SERVICE = "bench.Naive"


def serve(_directory: Path, ready: Callable[[str], None]) -> None:
    """Typed messages, like Dragoman's, without numbers and times."""
    uvloop.run(_serve(ready))


async def _serve(ready: Callable[[str], None]) -> None:
    server = grpc.aio.server()
    handler = grpc.unary_stream_rpc_method_handler(
        _run, request_deserializer=RunRequest.FromString, response_serializer=RunEvent.SerializeToString
    )
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, {"Run": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    ready(f"127.0.0.1:{port}")
    await stopped()
    await server.stop(None)


async def _run(
    request: RunRequest, _context: "grpc.aio.ServicerContext[RunRequest, RunEvent]"
) -> AsyncIterator[RunEvent]:
    async for event in agno_agent().arun(request.message, stream=True, stream_events=True):
        if isinstance(event, RunContentEvent):
            yield RunEvent(content_delta=ContentDelta(text=str(event.content)))
        elif not isinstance(event, RunOutput):
            yield RunEvent(unmapped=UnmappedEvent(type=event.event))
