"""grpc.health.v1: whether the server, or one service of it, takes calls.

All services stand together, so there is one answer, also under the empty name: SERVING while the server takes calls and
its database answers. Under the name `liveness` the answer is SERVING as long as there is one: whoever restarts processes
asks this, for a restart mends neither a database nor a server that is about to stop. Names that are not served are NOT_FOUND.
A Watch ends when the server goes away: an open one would hold up the shutdown for its whole grace.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterable
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from dragoman.transport.context import Context

_Response = health_pb2.HealthCheckResponse

LIVENESS: Final = "liveness"
"""The name under which a server is asked whether its process lives."""


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # generated without types
    """Answers Check, List and Watch. NOT_SERVING until told otherwise."""

    def __init__(self, services: Iterable[str]) -> None:
        self._services = frozenset(("", LIVENESS, *services))
        self._serving = False
        self._ready = True
        self._closed = False
        self._changed = asyncio.Event()

    def set_serving(self, serving: bool) -> None:
        """Changes the answer and tells all watchers. After `close` nothing changes any more."""
        if not self._closed:
            self._serving = serving
            self._wake()

    def set_ready(self, ready: bool) -> None:
        """Whether what the services need is there; without it they do not serve, whatever `set_serving` was told."""
        self._ready = ready
        self._wake()

    def close(self) -> None:
        """NOT_SERVING from now on; watchers are told, and their streams end."""
        self._serving = False
        self._closed = True
        self._wake()

    async def Check(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> health_pb2.HealthCheckResponse:
        """The state now."""
        if request.service not in self._services:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service is served here")
        return _Response(status=self._status(request.service))

    async def List(
        self, request: health_pb2.HealthListRequest, context: Context
    ) -> health_pb2.HealthListResponse:
        """The state of everything that is served."""
        answers = {name: _Response(status=self._status(name)) for name in self._services}
        return health_pb2.HealthListResponse(statuses=answers)

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        """The state now and whenever it changes."""
        told: int | None = None
        while True:
            # As of the status: what happens while that is being written is for the next round.
            changed, closed = self._changed, self._closed
            status = self._status(request.service)
            if status != told:
                told = status
                yield _Response(status=status)
            if closed:
                return
            await changed.wait()

    def _status(self, service: str) -> int:
        if service not in self._services:
            return int(_Response.SERVICE_UNKNOWN)
        serves = service == LIVENESS or (self._serving and self._ready)
        return int(_Response.SERVING if serves else _Response.NOT_SERVING)

    def _wake(self) -> None:
        # A fresh event for the next change: a watcher that is still writing misses none.
        self._changed.set()
        self._changed = asyncio.Event()
