"""Taking a method handler apart and putting it together again: what gRPC leaves to every interceptor to do."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias, cast

import grpc

from dragoman.transport.context import Context

# In quotes: generic for type checkers only.
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
Behaviour: TypeAlias = Callable[[Any, Context], Any]
MaybeHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any] | None"
Continuation: TypeAlias = Callable[["grpc.HandlerCallDetails"], Awaitable[MaybeHandler]]

_FACTORIES: dict[tuple[bool, bool], Callable[..., Handler]] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


def behaviour(handler: Handler) -> Behaviour:
    """The function that serves the method, whichever of the four kinds it is."""
    found = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    if found is None:
        raise TypeError("a method handler without a behaviour")
    return cast("Behaviour", found)


def rewrap(
    handler: Handler, serve: Behaviour, request_deserializer: Callable[[bytes], Any] | None = None
) -> Handler:
    """A handler of the same kind with another behaviour, and on demand another deserializer."""
    make = _FACTORIES[handler.request_streaming, handler.response_streaming]
    return make(
        serve,
        request_deserializer=request_deserializer or handler.request_deserializer,
        response_serializer=handler.response_serializer,
    )
