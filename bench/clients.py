"""The clients of the peers: each a context manager around one open connection, and a function that does one run."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeAlias

import grpc
import httpx

from bench.workload import Workload
from dragoman.client import Dragoman
from dragoman.v1.event_pb2 import RunEvent
from dragoman.v1.run_service_pb2 import RunRequest

AGENT = "bench"


@dataclass(slots=True)
class Delivery:
    """One run, as it arrived."""

    started: float = field(default_factory=time.perf_counter)
    messages: int = 0
    """Messages that came, of whatever kind."""
    first: float | None = None
    """Seconds until the first text; None from a peer that does not stream."""
    parts: list[str] = field(default_factory=list)

    def take(self, text: str) -> None:
        """Notes one message, with its text if it had any."""
        self.messages += 1
        if text:
            if self.first is None:
                self.first = time.perf_counter() - self.started
            self.parts.append(text)

    @property
    def text(self) -> str:
        """All text that came."""
        return "".join(self.parts)


Ask: TypeAlias = Callable[[Workload], Awaitable[Delivery]]
"""Does one run; any number at the same time."""

Connect: TypeAlias = Callable[[str], AbstractAsyncContextManager[Ask]]
"""Opens a client of the server at `host:port`."""


@asynccontextmanager
async def dragoman(address: str) -> AsyncIterator[Ask]:
    """Dragoman's own client. Each run makes a session of its own."""
    async with Dragoman(address) as client:

        async def ask(work: Workload) -> Delivery:
            delivery = Delivery()
            async with client.run(AGENT, work.prompt) as run:
                async for event in run:
                    delivery.take(event.content_delta.text)
            return delivery

        yield ask


@asynccontextmanager
async def naive(address: str) -> AsyncIterator[Ask]:
    """grpc.aio, one call per run on one channel."""
    async with grpc.aio.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        method = channel.unary_stream(
            "/bench.Naive/Run",
            request_serializer=RunRequest.SerializeToString,
            response_deserializer=RunEvent.FromString,
        )

        async def ask(work: Workload) -> Delivery:
            delivery = Delivery()
            async for event in method(RunRequest(agent_name=AGENT, message=work.prompt)):
                delivery.take(event.content_delta.text)
            return delivery

        yield ask


def agentos(address: str) -> AbstractAsyncContextManager[Ask]:
    """Server-sent events over HTTP/1.1, connections kept alive."""
    return _events(address, background=False)


def stored(address: str) -> AbstractAsyncContextManager[Ask]:
    """Likewise, of runs that are stored and outlive their caller."""
    return _events(address, background=True)


@asynccontextmanager
async def _events(address: str, *, background: bool) -> AsyncIterator[Ask]:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
    async with httpx.AsyncClient(
        base_url=f"http://{address}", limits=limits, timeout=60, trust_env=False
    ) as http:

        async def ask(work: Workload) -> Delivery:
            delivery = Delivery()
            form = {"message": work.prompt, "stream": "true", "background": str(background).lower()}
            async with http.stream("POST", f"/agents/{AGENT}/runs", data=form) as response:
                response.raise_for_status()
                kind = ""
                async for line in response.aiter_lines():
                    field_name, _, value = line.partition(": ")
                    if field_name == "event":
                        kind = value
                    elif field_name == "data":
                        delivery.take(_content(value) if kind == "RunContent" else "")
            return delivery

        yield ask


def _content(data: str) -> str:
    return str(json.loads(data).get("content", ""))


@asynccontextmanager
async def floor(address: str) -> AsyncIterator[Ask]:
    """No stream: the text comes when the run has ended."""
    host, _, port = address.rpartition(":")

    async def ask(work: Workload) -> Delivery:
        delivery = Delivery()
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(f"{work.prompt}\n".encode())
        delivery.parts.append((await reader.read()).decode())
        writer.close()
        await writer.wait_closed()
        return delivery

    yield ask
