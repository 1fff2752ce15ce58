"""Lets a call in or refuses it: who it is, whether it may call this method, and whether it still may while it is open.

Callers are looked at before their request is read, so that nobody without credentials makes the server read megabytes. A
stream whose credentials are taken back, or run out, while it is open ends with UNAUTHENTICATED.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import grpc

from dragoman.auth import Authenticator, Credentials, Principal, Scope
from dragoman.auth.authenticator import USER_HEADER
from dragoman.errors import PermissionDenied, Unauthenticated
from dragoman.transport import principal
from dragoman.transport.access import Rules
from dragoman.transport.context import Context
from dragoman.transport.interceptors.handlers import (
    Behaviour,
    Continuation,
    Handler,
    MaybeHandler,
    behaviour,
    rewrap,
)

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
        credentials = _credentials(handler_call_details.invocation_metadata or ())
        if self._authenticator.knows_certificates:
            return self._admitted(handler, needed, credentials)
        caller = await self._admit(needed, credentials)
        if handler.response_streaming and caller.credential:
            return rewrap(handler, self._watched(behaviour(handler), caller.credential))
        return handler

    async def _admit(self, needed: Scope, credentials: Credentials) -> Principal:
        """Binds the caller. Raises what it is refused with."""
        caller, owner = await self._authenticator.authenticate(credentials)
        if not caller.may(needed):
            raise PermissionDenied(f"scope {needed}")
        principal.bind(caller, owner)
        return caller

    def _admitted(self, handler: Handler, needed: Scope, credentials: Credentials) -> Handler:
        """gRPC tells of the certificate only when the call is served; who comes so far has proved to have one."""
        serve = behaviour(handler)

        async def admitted(request: Any, context: Context) -> Any:
            caller = await self._admit(needed, replace(credentials, identities=_identities(context)))
            if handler.response_streaming and caller.credential:
                return await self._watched(serve, caller.credential)(request, context)
            return await serve(request, context)

        return rewrap(handler, admitted)

    def end(self, credentials: Collection[str]) -> None:
        """Ends the open streams of callers whose credentials count no more."""
        for credential in credentials:
            for task in self._open.get(credential, ()):
                task.cancel(_TAKEN_BACK)

    def _watched(self, serve: Behaviour, credential: str) -> Behaviour:
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

        return watched


def _identities(context: Context) -> tuple[str, ...]:
    """The names in the certificate of the connection: of its subjectAltName, URIs and DNS names alike."""
    found: Mapping[str, Iterable[bytes]] = context.auth_context()
    return tuple(name.decode("utf-8", "replace") for name in found.get("x509_subject_alternative_name", ()))


def _credentials(metadata: Iterable[tuple[str, str | bytes]]) -> Credentials:
    found = {key: value for key, value in metadata if isinstance(value, str)}
    return Credentials(api_key=found.get(KEY_HEADER, ""), user=found.get(USER_HEADER, ""))
