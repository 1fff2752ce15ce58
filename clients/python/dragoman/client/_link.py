"""The connections of an open client: where calls are made, made again, and their errors read.

There is one connection at a time. When a call breaks on it, a fresh one takes its place for all calls to come; those
that are still under way on the old one are left in peace, and it is closed when the last of them is done.
"""

import asyncio
from collections.abc import Callable
from typing import TypeAlias, TypeVar

import grpc
from grpc_health.v1.health_pb2_grpc import HealthStub

from dragoman.client._channel import Tls, open_channel
from dragoman.client._errors import DragomanError, from_rpc
from dragoman.client._identity import SILENT, Identity, Metadata, Proof
from dragoman.client._retry import Attempts, RetryPolicy, is_break, is_over_limit
from dragoman.v1.agent_service_pb2_grpc import AgentServiceStub
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman.v1.session_service_pb2_grpc import SessionServiceStub
from dragoman.v1.usage_service_pb2_grpc import UsageServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class Stubs:
    """One connection: its channel, a stub for each service, and how many calls are under way on it."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.channel = channel
        self.agents = AgentServiceStub(channel)
        self.sessions = SessionServiceStub(channel)
        self.runs = RunServiceStub(channel)
        self.usage = UsageServiceStub(channel)
        self.health = HealthStub(channel)
        self.calls = 0
        self.retired = False


Unary: TypeAlias = "Callable[[Stubs], grpc.aio.UnaryUnaryMultiCallable[Request, Response]]"
Stream: TypeAlias = "Callable[[Stubs], grpc.aio.UnaryStreamMultiCallable[Request, Response]]"


class Link:
    """What an open client has. `timeout`: seconds for each unary call; None: no limit."""

    def __init__(
        self,
        target: str,
        timeout: float | None,
        retry: RetryPolicy | None,
        identity: Identity | None = None,
        tls: Tls | None = None,
    ) -> None:
        self._target = target
        self._timeout = timeout
        self._identity = identity or Identity()
        self._tls = tls
        self.retry = retry
        self._turn = 0
        self._retired: set[Stubs] = set()
        self._closing: set[asyncio.Task[None]] = set()
        self.current = Stubs(open_channel(target, 0, tls))

    async def call(
        self, method: "Unary[Request, Response]", request: Request, *, repeat: bool = True
    ) -> Response:
        """Makes one call within the time-out of the client. Raises DragomanError.

        `repeat`: the call may be made again when it breaks, because doing it twice is doing it once.
        """
        patience = self.retry.call_patience if self.retry is not None and repeat else 0.0
        return await self.call_within(self._timeout, patience, method, request)

    async def call_within(
        self,
        timeout: float | None,
        patience: float,
        method: "Unary[Request, Response]",
        request: Request,
    ) -> Response:
        """Makes one call, again for `patience` seconds while it breaks, all within `timeout`. Raises DragomanError."""
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        attempts, proof = Attempts(self.retry, patience, deadline), self.proof(1)
        while True:
            metadata = await proof.metadata(deadline)
            stubs = self.current
            stubs.calls += 1
            left = None if deadline is None else max(deadline - loop.time(), 0.0)
            try:
                return await method(stubs)(request, timeout=left, metadata=metadata)
            except grpc.aio.AioRpcError as failure:
                error = from_rpc(failure)
            finally:
                self._leave(stubs)
            if proof.renewable(error):
                continue
            if is_break(error):
                self.renew(stubs)
            elif not is_over_limit(error):
                raise error
            if not await attempts.again(error):
                raise error

    def proof(self, renewals: int = SILENT) -> Proof:
        """By what a call, or a stream, is made; with so many fresh tokens in a row, if they are refused."""
        return Proof(self._identity, renewals if self.retry is not None else 0)

    def follow(
        self,
        method: "Stream[Request, Response]",
        request: Request,
        timeout: float | None,
        metadata: Metadata,
    ) -> "tuple[Stubs, grpc.aio.UnaryStreamCall[Request, Response]]":
        """Opens a stream; also returns the connection that it is on."""
        stubs = self.current
        call = method(stubs)(request, timeout=timeout, metadata=metadata)
        stubs.calls += 1
        call.add_done_callback(lambda _: self._leave(stubs))
        return stubs, call

    def renew(self, broken: Stubs) -> None:
        """Puts a fresh connection in the place of `broken`, unless another call has done so already."""
        if broken is not self.current or broken.retired:
            return
        self._turn += 1
        self.current = Stubs(open_channel(self._target, self._turn, self._tls))
        broken.retired = True
        self._retired.add(broken)
        self._drop_when_idle(broken)

    async def close(self) -> None:
        """Ends all calls and closes all connections."""
        self.current.retired = True  # no fresh one takes its place
        await self._identity.close()
        retired, self._retired = self._retired, set()
        for stubs in (self.current, *retired):
            await stubs.channel.close()
        if self._closing:
            await asyncio.wait(self._closing)

    def _leave(self, stubs: Stubs) -> None:
        stubs.calls -= 1
        self._drop_when_idle(stubs)

    def _drop_when_idle(self, stubs: Stubs) -> None:
        if stubs.calls == 0 and stubs in self._retired:
            self._retired.discard(stubs)
            task = asyncio.get_running_loop().create_task(stubs.channel.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)


def stream_ended() -> DragomanError:
    """The error of a stream that ended before its run did."""
    return DragomanError(
        grpc.StatusCode.DATA_LOSS, "the stream ended before the run did; GetRun tells how it stands"
    )
