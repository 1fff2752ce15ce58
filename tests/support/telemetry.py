"""A server to be watched, a scraper, and a collector of traces that is shaped like the real one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.proto.trace.v1 import trace_pb2
from prometheus_client.parser import text_string_to_metric_families

from dragoman.app import Server, running
from dragoman.config import Settings


@asynccontextmanager
async def watched(tmp_path: Path, *agents: object, **settings: Any) -> AsyncIterator[Server]:
    """A whole server in this process, with its figures on a free port."""
    given = {
        "port": 0,
        "metrics_port": 0,
        "database_url": f"sqlite:///{tmp_path / 'watched.db'}",
        "entry_points": False,
        **settings,
    }
    async with running(Settings(**given), agents=agents) as server:
        yield server


async def http(address: str, request: bytes) -> bytes:
    """What a server answers to some bytes, to the end of the connection."""
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        await writer.drain()
        return await reader.read()
    finally:
        writer.close()


class Figures:
    """What one scrape has told."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    @property
    def names(self) -> set[str]:
        """Names of all series."""
        return {sample.name for sample in self.samples}

    def __call__(self, name: str, **labels: str) -> float:
        """The sum over the series of that name that have these labels; 0 when there is none."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == f"dragoman_{name}"
            and all(sample.labels.get(key) == value for key, value in labels.items())
        )


async def scrape(server: Server) -> Figures:
    """The server's figures as Prometheus would read them."""
    answer = await http(server.info.metrics, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 OK\r\n"), head
    return Figures(body.decode())


async def settled(server: Server) -> Figures:
    """Likewise, when all calls have ended: a caller may see the end of one a moment before it is counted."""
    while True:
        figures = await scrape(server)
        if figures("rpc_started_total") == figures("rpc_handled_total"):
            return figures
        await asyncio.sleep(0.01)


@dataclass(frozen=True)
class Span:
    """A span as it arrived."""

    name: str
    trace_id: str
    id: str
    parent: str
    attributes: dict[str, Any]
    links: list[str]
    failed: bool
    start: int
    end: int


@dataclass
class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """Takes spans. `stuck`: it takes them and never answers."""

    stuck: bool = False
    spans: list[Span] = field(default_factory=list)
    raw: list[bytes] = field(default_factory=list)
    metadata: list[dict[str, Any]] = field(default_factory=list)
    resources: list[dict[str, Any]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def Export(self, request: Any, context: Any) -> Any:
        """One batch."""
        self.asked.set()
        if self.stuck:
            await asyncio.Event().wait()
        self.raw.append(request.SerializeToString())
        self.metadata.append(dict(context.invocation_metadata()))
        for resource in request.resource_spans:
            self.resources.append(_attributes(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.spans.extend(map(_span, scope.spans))
        return trace_service_pb2.ExportTraceServiceResponse()

    def named(self, prefix: str) -> list[Span]:
        """Spans by the begin of their names, in the order in which they began."""
        return sorted(
            (span for span in self.spans if span.name.startswith(prefix)), key=lambda span: span.start
        )

    def one(self, name: str) -> Span:
        """The only span of that name."""
        (span,) = [span for span in self.spans if span.name == name]
        return span


@asynccontextmanager
async def collecting(*, stuck: bool = False) -> AsyncIterator[tuple[Collector, str]]:
    """A collector, and where it listens."""
    server = grpc.aio.server()
    collector = Collector(stuck=stuck)
    add: Any = trace_service_pb2_grpc.add_TraceServiceServicer_to_server  # generated without annotations
    add(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield collector, f"http://127.0.0.1:{port}"
    finally:
        await server.stop(None)


def _span(span: trace_pb2.Span) -> Span:
    return Span(
        name=span.name,
        trace_id=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        attributes=_attributes(span.attributes),
        links=[link.span_id.hex() for link in span.links],
        failed=span.status.code == trace_pb2.Status.STATUS_CODE_ERROR,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
    )


def _attributes(pairs: Sequence[Any]) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind) if kind else None
