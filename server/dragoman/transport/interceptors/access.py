"""Lets a call in or refuses it: who it is, whether it may call this method, and whether it still may while it is open.

Callers are looked at before their request is read, so that nobody without credentials makes the server read megabytes. A
stream whose credentials are taken back, or run out, while it is open ends with UNAUTHENTICATED.
"""

import asyncio
from collections.abc import Collection, Iterable
from typing import Any

import grpc

from dragoman.auth import Authenticator, Credentials
from dragoman.auth.authenticator import USER_HEADER
from dragoman.errors import PermissionDenied, Unauthenticated
from dragoman.transport import principal
from dragoman.transport.access import Rules
from dragoman.transport.context import Context
from dragoman.transport.interceptors.handlers import Continuation, Handler, MaybeHandler, behaviour, rewrap

KEY_HEADER = "x-api-key"

_TAKEN_BACK = "its credentials were taken back"


class AccessInterceptor(grpc.aio.ServerInterceptor):
    """Binds principal and owner before the handler, and whatever it starts, runs: they share the call's context."""

    def __init__(self, authenticator: Authenticator, rules: Rules) -> None:
        self._authenticator = authenticator
        self._rules = rules
        self._open: dict[str, set[asyncio.Task[Any]]] = {}

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> MaybeHandler:
        """Binds and goes on. Raises Unauthenticated, PermissionDenied, InvalidInput, StorageUnavailable."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        method = handler_call_details.method
        if method not in self._rules:
            raise LookupError(f"there is no rule who may call {method}")
        needed = self._rules[method]
        if needed is None:
            return handler
        caller, owner = await self._authenticator.authenticate(
            _credentials(handler_call_details.invocation_metadata or ())
        )
        if not caller.may(needed):
            raise PermissionDenied(f"scope {needed}")
        principal.bind(caller, owner)
        if handler.response_streaming and caller.credential:
            return self._watched(handler, caller.credential)
        return handler

    def end(self, credentials: Collection[str]) -> None:
        """Ends the open streams of callers whose credentials count no more."""
        for credential in credentials:
            for task in self._open.get(credential, ()):
                task.cancel(_TAKEN_BACK)

    def _watched(self, handler: Handler, credential: str) -> Handler:
        serve = behaviour(handler)

        async def watched(request: Any, context: Context) -> Any:
            task = asyncio.current_task()
            if task is None:
                raise AssertionError("gRPC calls handlers in tasks")
            mine = self._open.setdefault(credential, set())
            mine.add(task)
            try:
                return await serve(request, context)
            except asyncio.CancelledError as cancelled:
                # The caller may leave in the same moment; then there is nobody to be told.
                if _TAKEN_BACK in cancelled.args and task.uncancel() == 0:
                    raise Unauthenticated("the credentials are no longer valid") from None
                raise
            finally:
                mine.discard(task)
                if not mine:
                    self._open.pop(credential, None)

        return rewrap(handler, watched)


def _credentials(metadata: Iterable[tuple[str, str | bytes]]) -> Credentials:
    found = {key: value for key, value in metadata if isinstance(value, str)}
    return Credentials(api_key=found.get(KEY_HEADER, ""), user=found.get(USER_HEADER, ""))
