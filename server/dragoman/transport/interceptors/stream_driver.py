"""Iterates the async generators that serve streams, and closes each exactly once, whatever ends the call.

Servicers write `yield`; gRPC would close such a generator from another context when the caller leaves, and a second
cancel in the middle of its clean-up would cut that short. So the generator is iterated here, messages are written with
`context.write`, and when something ends the call early the generator is closed in a task of its own that no cancel of the
call reaches. A write that fails because the caller is gone ends the call as a disconnect (`ClientGone`), not as a defect.
"""

import asyncio
import inspect
from collections.abc import AsyncGenerator, Callable
from typing import Any

import grpc

from dragoman.transport import request_id
from dragoman.transport.context import Context
from dragoman.transport.interceptors.handlers import Continuation, MaybeHandler, behaviour, rewrap
from dragoman.transport.observation import WATCH

_GONE = (grpc.aio.InternalError, grpc.aio.UsageError)
"""What gRPC raises from a write to a call that is over: the caller is gone, or the server was stopped."""


class ClientGone(Exception):
    """The caller left before its answer was written."""


async def send_request_id(context: Context) -> None:
    """Sends the initial metadata. Raises ClientGone."""
    try:
        await context.send_initial_metadata(((request_id.HEADER, request_id.current()),))
    except _GONE as gone:
        raise ClientGone from gone


class StreamDriverInterceptor(grpc.aio.ServerInterceptor):
    """Drives methods that stream their responses from an async generator; others pass untouched."""

    async def intercept_service(
        self, continuation: Continuation, handler_call_details: grpc.HandlerCallDetails
    ) -> MaybeHandler:
        """Replaces an async generator by a coroutine that writes what it yields."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler.response_streaming:
            return handler
        generate: Callable[[Any, Context], AsyncGenerator[Any, None]] = behaviour(handler)
        if not inspect.isasyncgenfunction(generate):
            return handler

        async def drive(request: Any, context: Context) -> None:
            await _drive(generate(request, context), context)

        return rewrap(handler, drive)


async def _drive(messages: AsyncGenerator[Any, None], context: Context) -> None:
    write = context.write
    watch = WATCH.get()
    begun = False
    try:
        async for message in messages:
            try:
                if not begun:
                    # Not before: until initial metadata is out, a client's retry policy may still retry the call.
                    await send_request_id(context)
                    begun = True
                await write(message)
                watch.messages += 1
            except _GONE as gone:
                raise ClientGone from gone
        if not begun:
            await send_request_id(context)
    except BaseException:
        await _close(messages)
        raise


async def _close(messages: AsyncGenerator[Any, None]) -> None:
    """Closes the generator to its end, through any number of cancels, and lets the last of those go on after."""
    closing = asyncio.create_task(messages.aclose())
    cancelled: asyncio.CancelledError | None = None
    while not closing.done():
        try:
            await asyncio.shield(closing)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    closing.result()
