"""THE error table: which code each reason has, and an error as `google.rpc.Status`.

The same Status is the body of a failed RPC (transport) and of a `run_failed` event (engine, adapter), so that a client
has one way to read errors. gRPC drops trailing metadata over 8 KB, and answers RESOURCE_EXHAUSTED instead of the error
over 16 KB, so the details stay under `MAX_DETAILS`: violations that do not fit are counted in ErrorInfo's metadata.
"""

from collections.abc import Iterator, Mapping
from datetime import timedelta

from google.protobuf.any_pb2 import Any
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

from dragoman import errors, wire

DOMAIN = "dragoman"
MAX_DETAILS = 4096
"""Bytes that all details of one error take at most."""

MAX_TEXT = 512
"""Characters of a message, a description or a metadata value."""

CODES: Mapping[type[errors.DragomanError], int] = {
    errors.InvalidInput: code_pb2.INVALID_ARGUMENT,
    errors.InvalidMedia: code_pb2.INVALID_ARGUMENT,
    errors.MediaTooLarge: code_pb2.INVALID_ARGUMENT,
    errors.PageTokenInvalid: code_pb2.INVALID_ARGUMENT,
    errors.AgentNotFound: code_pb2.NOT_FOUND,
    errors.SessionNotFound: code_pb2.NOT_FOUND,
    errors.RunNotFound: code_pb2.NOT_FOUND,
    errors.Unauthenticated: code_pb2.UNAUTHENTICATED,
    errors.PermissionDenied: code_pb2.PERMISSION_DENIED,
    errors.MediaNotFound: code_pb2.NOT_FOUND,
    errors.SessionBusy: code_pb2.FAILED_PRECONDITION,
    errors.RequestIdReused: code_pb2.ALREADY_EXISTS,
    errors.RunNotPaused: code_pb2.FAILED_PRECONDITION,
    errors.EventsTrimmed: code_pb2.OUT_OF_RANGE,
    errors.RunNotResumable: code_pb2.FAILED_PRECONDITION,
    errors.TooManyRuns: code_pb2.RESOURCE_EXHAUSTED,
    errors.TooManyStreams: code_pb2.RESOURCE_EXHAUSTED,
    errors.RateLimited: code_pb2.RESOURCE_EXHAUSTED,
    errors.BudgetExceeded: code_pb2.RESOURCE_EXHAUSTED,
    errors.IdentityUnavailable: code_pb2.UNAVAILABLE,
    errors.StorageUnavailable: code_pb2.UNAVAILABLE,
    errors.ModelUnavailable: code_pb2.UNAVAILABLE,
    errors.AgentFailed: code_pb2.INTERNAL,
    errors.GuardrailRefused: code_pb2.FAILED_PRECONDITION,
    errors.Draining: code_pb2.UNAVAILABLE,
    errors.Internal: code_pb2.INTERNAL,
}


def code_of(error: errors.DragomanError) -> int:
    """The canonical code of an error's class."""
    return CODES[type(error)]


def to_status(error: errors.DragomanError) -> status_pb2.Status:
    """The error with ErrorInfo, and BadRequest, RetryInfo or QuotaFailure where they apply."""
    status = status_pb2.Status(code=code_of(error), message=_clip(error.message))
    info = error_details_pb2.ErrorInfo(
        reason=error.reason,
        domain=DOMAIN,
        metadata={_clip(key, 64): _clip(value) for key, value in error.metadata.items()},
    )
    details: list[Message] = [info]
    room = MAX_DETAILS - info.ByteSize() - 256
    for extra in _extras(error, room, info):
        details.append(extra)
    for detail in details:
        packed = Any()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _extras(error: errors.DragomanError, room: int, info: error_details_pb2.ErrorInfo) -> Iterator[Message]:
    if isinstance(error, errors.InvalidInput):
        bad = error_details_pb2.BadRequest()
        for number, violation in enumerate(error.violations):
            entry = error_details_pb2.BadRequest.FieldViolation(
                field=_clip(violation.field, 256), description=_clip(violation.description)
            )
            if bad.ByteSize() + entry.ByteSize() + 8 > room:
                info.metadata["omitted_violations"] = str(len(error.violations) - number)
                break
            bad.field_violations.append(entry)
        yield bad
    if error.subject is not None:
        failure = error_details_pb2.QuotaFailure()
        failure.violations.add(subject=_clip(error.subject), description=error.message)
        yield failure
    if error.retry_after is not None:
        yield error_details_pb2.RetryInfo(retry_delay=wire.duration(timedelta(seconds=error.retry_after)))


def _clip(text: str, limit: int = MAX_TEXT) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"
