"""The type of what gRPC hands to every method beside the request."""

from typing import Any, TypeAlias

import grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
"""Generic for type checkers only; hence the quotes."""
