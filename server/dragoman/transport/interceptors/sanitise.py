"""The outermost interceptor: whatever goes wrong inside, the caller gets a typed status, and the call is logged once.

    a DragomanError                  its own status (see `dragoman.status`)
    a request that cannot be read    INVALID_ARGUMENT / INVALID_INPUT
    context.abort                    as the handler wanted it (health, reflection)
    the caller left                  nothing can be said to it; the cancel goes on, which gRPC needs to free the call
    a cancel that was not the call's INTERNAL: left alone it would keep the caller waiting until its deadline
    anything else                    INTERNAL with an incident id; the traceback is in the log under that id

Whoever watches the server is told of each call here, too: nobody else knows how all of them end.

What a clean-up raises after the caller has left is logged like any defect, and the cancel goes on all the same.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Never

import grpc
from google.protobuf.message import DecodeError

from dragoman.errors import DragomanError, InvalidInput, Violation
from dragoman.observing import UNOBSERVED, CallWatch, Metadata, Observer
from dragoman.transport import request_id, status
from dragoman.transport.access import RULES
from dragoman.transport.context import Context
from dragoman.transport.interceptors.handlers import Continuation, Handler, MaybeHandler, behaviour, rewrap
from dragoman.transport.interceptors.stream_driver import ClientGone, send_request_id
from dragoman.transport.observation import WATCH

logger = logging.getLogger(__name__)

_QUIET = ("/grpc.health.", "/grpc.reflection.")
"""Calls of tools and probes: logged at DEBUG."""


UNKNOWN_METHOD = "/other"
"""By what calls of methods go that there are not: their names are whatever callers make up."""


class _Unreadable:
    """Stands for a request that is not a message of the method's type."""


_UNREADABLE = _Unreadable()


class SanitiseInterceptor(grpc.aio.ServerInterceptor):
    """Types every error, logs every call (method, code, duration, request id), and hands out the request id."""

    def __init__(self, observer: Observer = UNOBSERVED) -> None:
        self._observer = observer
        self._open: set[asyncio.Task[Any]] = set()

    async def all_done(self, timeout: float) -> bool:
        """Waits until no handler runs any more: gRPC's own stop does not wait for those that it has cancelled."""
        if not self._open:
            return True
        _, left = await asyncio.wait(self._open, timeout=timeout)
        return not left

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> MaybeHandler:
        """Wraps the handler; an interceptor that raises makes one that ends the call with its error."""
        method = handler_call_details.method
        metadata = handler_call_details.invocation_metadata or ()
        request_id.bind(metadata)
        try:
            handler = await continuation(handler_call_details)
        except Exception as error:  # noqa: BLE001 - the boundary: every error becomes a status
            return self._refusal(method, metadata, error)
        if handler is None:
            # gRPC itself answers, and no interceptor sees it.
            self._observer.call(UNKNOWN_METHOD, (), streams=False).handled("UNIMPLEMENTED", "")
            return None
        return self._guard(method, metadata, handler)

    def _guard(self, method: str, metadata: Metadata, handler: Handler) -> Handler:
        serve = behaviour(handler)
        streams = handler.response_streaming

        async def guarded(request: Any, context: Context) -> Any:
            call = _Call(method, self._watch(method, metadata, streams=streams))
            task = asyncio.current_task()
            if task is not None:
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            try:
                response = await (_refuse_unreadable() if request is _UNREADABLE else serve(request, context))
                if not streams:
                    await send_request_id(context)
            except grpc.aio.AbortError:
                call.code = _code_name(context.code())
                raise
            except ClientGone:
                call.code = "CANCELLED"
                return None
            except asyncio.CancelledError as error:
                call.code = "CANCELLED"
                if task is None or task.cancelling():
                    raise
                call.refused(domain := status.to_domain(error, method))
                await status.abort(context, domain)
            except (Exception, SystemExit, KeyboardInterrupt) as error:
                # An exit that an agent's validation lets out would end the whole server.
                call.refused(domain := status.to_domain(error, method))
                if task is not None and task.cancelling():
                    call.code = "CANCELLED"
                    raise asyncio.CancelledError from error
                await status.abort(context, domain)
            else:
                return response
            finally:
                call.ended()

        return rewrap(handler, guarded, None if handler.request_streaming else _reader(handler))

    def _refusal(self, method: str, metadata: Metadata, error: Exception) -> Handler:
        """A handler that ends the call, of whatever kind it is, with the error of an interceptor, and reads nothing of it."""
        started = time.perf_counter()
        domain = status.to_domain(error, method)

        async def refuse(_requests: Any, context: Context) -> None:
            call = _Call(method, self._watch(method, metadata, streams=False), started)
            call.refused(domain)
            call.ended()
            await status.abort(context, domain)

        return grpc.stream_stream_rpc_method_handler(refuse)

    def _watch(self, method: str, metadata: Metadata, *, streams: bool) -> CallWatch:
        watch = self._observer.call(method if method in RULES else UNKNOWN_METHOD, metadata, streams=streams)
        WATCH.set(watch)
        return watch


class _Call:
    """How a call ends."""

    def __init__(self, method: str, watch: CallWatch, started: float | None = None) -> None:
        self._method = method
        self._watch = watch
        self._started = time.perf_counter() if started is None else started
        self._error: DragomanError | None = None
        self.code = "OK"

    def refused(self, error: DragomanError) -> None:
        """It ends with the error."""
        self._error = error
        self.code = status.code_name(error)

    def ended(self) -> None:
        """Tells the log and who watches."""
        reason, cause = ("", "") if self._error is None else (self._error.reason, self._error.cause)
        self._watch.handled(self.code, reason, cause)
        _log(self._method, reason or self.code, self._started)


async def _refuse_unreadable() -> Never:
    raise InvalidInput([Violation("", "the request is not a message of the method's type")])


def _reader(handler: Handler) -> Callable[[bytes], Any] | None:
    parse = handler.request_deserializer
    if parse is None:
        return None

    def read(data: bytes) -> Any:
        try:
            return parse(data)
        except DecodeError:
            return _UNREADABLE

    return read


def _log(method: str, code: str, started: float) -> None:
    level = logging.DEBUG if method.startswith(_QUIET) else logging.INFO
    if logger.isEnabledFor(level):
        milliseconds = round((time.perf_counter() - started) * 1000, 3)
        logger.log(
            level,
            "call",
            extra={
                "method": method,
                "code": code,
                "duration_ms": milliseconds,
                "request_id": request_id.current(),
            },
        )


def _code_name(code: grpc.StatusCode | int | None) -> str:
    return code.name if isinstance(code, grpc.StatusCode) else str(code)
