"""Lets a call in or refuses it: who it is, whether it may call this method, and whether it still may while it is open.

Callers are looked at before their request is read, so that nobody without credentials makes the server read megabytes. A
stream whose credentials are taken back, or run out (a certificate, too), while it is open ends with UNAUTHENTICATED.
"""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import grpc

from dragoman.auth import Authenticator, Certificate, Credentials, Principal, read_certificate
from dragoman.auth.authenticator import USER_HEADER
from dragoman.errors import PermissionDenied, Unauthenticated
from dragoman.transport import principal
from dragoman.transport.access import Rule, Rules
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
TOKEN_HEADER = "authorization"  # noqa: S105 - a name
_PROOFS = (KEY_HEADER, TOKEN_HEADER, USER_HEADER)

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
        method = handler_call_details.method
        rule = self._rules.get(method)
        if rule is None:
            handler = await continuation(handler_call_details)
            if handler is not None and method not in self._rules:
                raise LookupError(f"there is no rule who may call {method}")
            return handler
        credentials = _credentials(handler_call_details.invocation_metadata or ())
        if self._authenticator.knows_certificates:
            handler = await continuation(handler_call_details)
            return None if handler is None else self._admitted(handler, rule, credentials)
        # Before the interceptors within are asked, which want to know who calls.
        caller = await self._admit(rule, credentials)
        handler = await continuation(handler_call_details)
        if handler is not None and handler.response_streaming and caller.credentials:
            return rewrap(handler, self._watched(behaviour(handler), caller, credentials))
        return handler

    async def _admit(self, rule: Rule, credentials: Credentials) -> Principal:
        """Binds the caller. Raises what it is refused with."""
        caller, owner = await self._authenticator.authenticate(credentials)
        if not caller.may(rule.needed):
            raise PermissionDenied(f"scope {rule.needed}")
        principal.bind(caller, owner, all_owners=rule.all_owners)
        return caller

    def _admitted(self, handler: Handler, rule: Rule, credentials: Credentials) -> Handler:
        """gRPC tells of the certificate only when the call is served; who comes so far has proved to have one."""
        serve = behaviour(handler)

        async def admitted(request: Any, context: Context) -> Any:
            whole = replace(credentials, certificate=_certificate(context))
            caller = await self._admit(rule, whole)
            if handler.response_streaming:
                return await self._watched(serve, caller, whole)(request, context)
            return await serve(request, context)

        return rewrap(handler, admitted)

    def end(self, credentials: Collection[str]) -> None:
        """Ends the open streams of callers whose credentials count no more."""
        for credential in credentials:
            for task in self._open.get(credential, ()):
                task.cancel(_TAKEN_BACK)

    def _watched(self, serve: Behaviour, caller: Principal, credentials: Credentials) -> Behaviour:
        async def watched(request: Any, context: Context) -> Any:
            task = asyncio.current_task()
            if task is None:
                raise AssertionError("gRPC calls handlers in tasks")
            for credential in caller.credentials:
                self._open.setdefault(credential, set()).add(task)
            try:
                async with self._authenticator.held(credentials):
                    return await serve(request, context)
            except asyncio.CancelledError as cancelled:
                # The caller may leave in the same moment; then there is nobody to be told.
                if _TAKEN_BACK in cancelled.args and task.uncancel() == 0:
                    raise Unauthenticated("the credentials are no longer valid", cause="taken_back") from None
                raise
            finally:
                for credential in caller.credentials:
                    self._leave(credential, task)

        return watched

    def _leave(self, credential: str, task: "asyncio.Task[Any]") -> None:
        mine = self._open[credential]
        mine.discard(task)
        if not mine:
            del self._open[credential]


def _certificate(context: Context) -> Certificate | None:
    """That of the connection. Raises Unauthenticated for one that cannot be used."""
    found: Mapping[str, Iterable[bytes]] = context.auth_context()
    pem = next(iter(found.get("x509_pem_cert", ())), None)
    return None if pem is None else read_certificate(pem)


def _credentials(metadata: Iterable[tuple[str, str | bytes]]) -> Credentials:
    """What was sent. Raises Unauthenticated for proofs that are sent twice: of two, nobody knows which another reader takes."""
    found: dict[str, str] = {}
    for key, value in metadata:
        if key in _PROOFS and isinstance(value, str) and found.setdefault(key, value) != value:
            raise Unauthenticated(f"{key} is given more than once")
    kind, _, token = found.get(TOKEN_HEADER, "").partition(" ")
    return Credentials(
        api_key=found.get(KEY_HEADER, ""),
        # Other kinds of authorization are somebody else's, such as a proxy's.
        bearer=token.strip() if kind.lower() == "bearer" else "",
        user=found.get(USER_HEADER, ""),
    )
