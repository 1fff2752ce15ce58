"""Gives every call its owner. This version cannot tell callers apart, so all are the same local one."""

import grpc

from dragoman.records import Owner
from dragoman.transport import principal
from dragoman.transport.interceptors.handlers import Continuation, MaybeHandler


class PrincipalInterceptor(grpc.aio.ServerInterceptor):
    """Binds the owner before the handler, and whatever it starts, runs: they share the call's context."""

    def __init__(self, owner: Owner = principal.LOCAL) -> None:
        self._owner = owner

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> MaybeHandler:
        """Binds and goes on."""
        principal.bind(self._owner)
        return await continuation(handler_call_details)
