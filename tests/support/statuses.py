"""Errors as a server sends them."""

from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2


def packed(code: int, message: str, *details: Message) -> status_pb2.Status:
    """With any details, or none."""
    status = status_pb2.Status(code=code, message=message)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def status(
    code: int, reason: str, *details: Message, message: str = "told by the server", **metadata: str
) -> status_pb2.Status:
    """As a server of ours makes it: with a reason, and what else there is to tell."""
    info = error_details_pb2.ErrorInfo(reason=reason, domain="dragoman", metadata=metadata)
    return packed(code, message, info, *details)


def over_limit(seconds: float) -> status_pb2.Status:
    """One that says when to come back."""
    wait = Duration()
    wait.FromNanoseconds(round(seconds * 1e9))
    retry = error_details_pb2.RetryInfo(retry_delay=wait)
    return status(code_pb2.RESOURCE_EXHAUSTED, "RATE_LIMITED", retry, limit="2")
