"""Statuses as a server of ours sends them."""

from datetime import timedelta

from google.protobuf.any_pb2 import Any
from google.rpc import code_pb2, error_details_pb2, status_pb2


def status(code: int, reason: str, **metadata: str) -> status_pb2.Status:
    """One with a reason."""
    detail = Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason=reason, domain="dragoman", metadata=metadata))
    return status_pb2.Status(code=code, message="told by the server", details=[detail])


def over_limit(seconds: float) -> status_pb2.Status:
    """One that says when to come back."""
    found = status(code_pb2.RESOURCE_EXHAUSTED, "RATE_LIMITED", limit="2")
    detail, retry = Any(), error_details_pb2.RetryInfo()
    retry.retry_delay.FromTimedelta(timedelta(seconds=seconds))
    detail.Pack(retry)
    found.details.append(detail)
    return found
