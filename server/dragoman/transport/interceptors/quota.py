"""Refuses callers that are at a limit: calls a second, and open streams, of a principal and of the server.

    refused before its request is read     when the caller is known by then: all but those that certificates make known
    refused when the call is served        else, and a stream that others have overtaken since

The calls of one principal are counted first: those that are refused for it cost the others nothing. What needs no
credentials (health) is never refused, so that a server at its limits does not look dead.

A stream has its place from the moment when it is served until its handler has ended, however it ends.
"""

import time
from collections.abc import Callable
from typing import Any, Final

import grpc

from dragoman.auth import Principal
from dragoman.errors import RateLimited, TooManyStreams
from dragoman.quotas import NO_QUOTAS, Quotas, QuotaTable, Slots, TokenBuckets
from dragoman.transport.access import Rules
from dragoman.transport.context import Context
from dragoman.transport.interceptors.handlers import Continuation, MaybeHandler, behaviour, rewrap
from dragoman.transport.principal import current_principal, known_principal

_SERVER: Final = "server"


class Gate:
    """What is counted. `table`: of principals; `server`: of all of them together."""

    def __init__(
        self,
        table: QuotaTable,
        server: Quotas = NO_QUOTAS,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.streams = Slots()
        self._table = table
        self._server = server
        self._callers = TokenBuckets(clock)
        self._all = TokenBuckets(clock)

    def count_call(self, caller: Principal) -> None:
        """Takes a token for a call. Raises RateLimited."""
        name, quotas = caller.name, self._quotas(caller)
        if wait := self._callers.wait(name, quotas):
            raise RateLimited(quotas.request_rate or 0.0, wait, principal=name)
        if wait := self._all.wait(_SERVER, self._server):
            raise RateLimited(self._server.request_rate or 0.0, wait)
        self._callers.take(name, quotas)
        self._all.take(_SERVER, self._server)

    def check_stream(self, caller: Principal) -> None:
        """Raises TooManyStreams when there is no place for one more."""
        limit = self._quotas(caller).max_streams
        if limit is not None and self.streams.of(caller.name) >= limit:
            raise TooManyStreams(limit, principal=caller.name)
        if self._server.max_streams is not None and self.streams.total >= self._server.max_streams:
            raise TooManyStreams(self._server.max_streams)

    def _quotas(self, caller: Principal) -> Quotas:
        return self._table.of(caller.name, caller.quotas)


class QuotaInterceptor(grpc.aio.ServerInterceptor):
    """Stands behind the one that says who calls."""

    def __init__(self, gate: Gate, rules: Rules) -> None:
        self._gate = gate
        self._rules = rules

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> MaybeHandler:
        """Counts and goes on. Raises RateLimited, TooManyStreams."""
        handler = await continuation(handler_call_details)
        if handler is None or self._rules.get(handler_call_details.method) is None:
            return handler
        gate, streams, serve = self._gate, handler.response_streaming, behaviour(handler)
        caller = known_principal()
        if caller is not None:
            gate.count_call(caller)
            if not streams:
                return handler
            gate.check_stream(caller)
        counted = caller is not None

        async def admitted(request: Any, context: Context) -> Any:
            caller = current_principal()
            if not counted:
                gate.count_call(caller)
            if not streams:
                return await serve(request, context)
            gate.check_stream(caller)
            place = gate.streams.take(caller.name)
            try:
                return await serve(request, context)
            finally:
                place.release()

        return rewrap(handler, admitted)
