"""An open channel with its stubs: where calls are made and their errors read."""

from typing import TypeVar

import grpc

from dragoman.client._channel import open_channel
from dragoman.client._errors import from_rpc
from dragoman.v1.agent_service_pb2_grpc import AgentServiceStub
from dragoman.v1.run_service_pb2_grpc import RunServiceStub
from dragoman.v1.session_service_pb2_grpc import SessionServiceStub
from dragoman.v1.usage_service_pb2_grpc import UsageServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class Link:
    """What an open client has. `timeout`: seconds for each unary call; None: no limit."""

    def __init__(self, target: str, timeout: float | None) -> None:
        self.channel = open_channel(target)
        self.agents = AgentServiceStub(self.channel)
        self.sessions = SessionServiceStub(self.channel)
        self.runs = RunServiceStub(self.channel)
        self.usage = UsageServiceStub(self.channel)
        self._timeout = timeout

    async def call(
        self, method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]", request: Request
    ) -> Response:
        """Makes one call with the time-out of the client. Raises DragomanError."""
        return await self.call_within(self._timeout, method, request)

    async def call_within(
        self,
        timeout: float | None,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
    ) -> Response:
        """Makes one call with a time-out of its own. Raises DragomanError."""
        try:
            return await method(request, timeout=timeout)
        except grpc.aio.AioRpcError as error:
            raise from_rpc(error) from error
