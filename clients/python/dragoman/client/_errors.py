"""What a caller may be told went wrong, read from `google.rpc.Status`.

    DragomanError            any other code; `reason` tells which
     ├─ InvalidInput         INVALID_ARGUMENT    what was sent breaks a rule; one violation per field
     ├─ NotFound             NOT_FOUND           no such agent, session or run (or it is another owner's)
     ├─ Unavailable          UNAVAILABLE         no server, no database, no model, or the server is stopping
     │   └─ StreamLost       a run's stream broke and could not be taken up again in time
     ├─ DeadlineExceeded     DEADLINE_EXCEEDED   the time-out of this call passed
     ├─ EventsTrimmed        EVENTS_TRIMMED      the events asked for are no longer kept
     └─ RunFailed            asked for the text of a run that did not complete
         └─ RunIsPaused      it waits for somebody; `requirements` says for what

The same Status is the body of a failed call and of a `run_failed` event, so `from_status` reads both.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from dragoman.client._events import RunResult
from dragoman.v1 import event_pb2

_CODES: Mapping[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: `field` is a path such as `inputs.topics[2].name`, `description` a sentence."""

    field: str
    description: str


class DragomanError(Exception):
    """A call that failed.

    `code` is gRPC's; `reason` the server's own UPPER_SNAKE word for it (`SESSION_BUSY`), empty when it was not the
    server that spoke (no connection, a time-out); `message` a sentence for people; `metadata` the values in it;
    `violations` the fields that break rules; `retry_after` the seconds after which a retry makes sense, None when the
    same call would fail again.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        message: str,
        *,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        violations: Iterable[Violation] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.reason = reason
        self.metadata: Mapping[str, str] = dict(metadata or {})
        self.violations = tuple(violations)
        self.retry_after = retry_after

    def __str__(self) -> str:
        return f"{self.message} [{self.reason or self.code.name}]"


class InvalidInput(DragomanError):
    """What was sent breaks a rule: `violations` has all of them."""


class NotFound(DragomanError):
    """There is no such agent, session or run, or it is another owner's."""


class Unavailable(DragomanError):
    """Nobody answers, or the one who does cannot help now."""


class DeadlineExceeded(DragomanError):
    """The time-out of this call passed. A run that it started goes on."""


class StreamLost(Unavailable):
    """A run's stream broke and could not be taken up again in time. The run itself may well go on.

    With `run_id`, `Dragoman.attach(run_id, after_sequence=last_sequence)` follows it later from where it was lost.
    """

    run_id: str = ""
    """The run; empty when no event of it has come."""
    last_sequence: int = 0
    """The sequence of the last event that has come; 0 for none."""
    request_id: str = ""
    """The id of the request that started or continued the run: the same request with it finds the run."""


class EventsTrimmed(DragomanError):
    """The events asked for are older than what the server keeps."""

    @property
    def oldest_sequence(self) -> int:
        """The sequence of the oldest event that is kept."""
        return int(self.metadata["oldest_sequence"])


class RunFailed(DragomanError):
    """A run ended otherwise than by completing, and its text was asked for.

    `outcome` is how it ended: failed, cancelled or paused, with its partial text, usage and cost.
    """

    outcome: RunResult
    run_id: str = ""
    """The run; empty when the server did not name it."""


class RunIsPaused(RunFailed):
    """The text was asked for of a run that waits: resolve `requirements` with `Dragoman.continue_run(run_id, ...)`."""

    outcome: event_pb2.RunPaused

    @property
    def requirements(self) -> list[event_pb2.Requirement]:
        """What it waits for."""
        return list(self.outcome.requirements)


_Error = TypeVar("_Error", bound=DragomanError)

_CLASSES: Mapping[grpc.StatusCode, type[DragomanError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
}


def from_status(status: status_pb2.Status) -> DragomanError:
    """The error that a Status tells of; details of unknown types are passed over."""
    code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
    error = _build(_CLASSES.get(code, DragomanError), code, status.message, status.details)
    if error.reason == "EVENTS_TRIMMED" and "oldest_sequence" in error.metadata:
        return EventsTrimmed(code, error.message, reason=error.reason, metadata=error.metadata)
    return error


def from_rpc(error: grpc.aio.AioRpcError) -> DragomanError:
    """The error of a failed call, which is its cause. Details that are missing or damaged leave its code and sentence."""
    try:
        status = rpc_status.from_call(error)
    except (DecodeError, ValueError):  # damaged, or not about this error
        status = None
    if status is not None:
        made = from_status(status)
    else:
        code = error.code()
        made = _CLASSES.get(code, DragomanError)(code, error.details() or code.value[1])
    made.__cause__ = error
    return made


def from_outcome(outcome: RunResult, run_id: str = "") -> RunFailed:
    """The error of a run that did not complete."""
    if isinstance(outcome, event_pb2.RunFailed):
        status = outcome.error
        code = _CODES.get(status.code, grpc.StatusCode.UNKNOWN)
        error = _build(RunFailed, code, status.message, status.details)
    elif isinstance(outcome, event_pb2.RunCancelled):
        name = event_pb2.CancelReason.Name(outcome.reason) if _is_known(outcome.reason) else ""
        reason = name.removeprefix("CANCEL_REASON_")
        note = f": {outcome.note}" if outcome.note else ""
        error = RunFailed(grpc.StatusCode.CANCELLED, f"the run was cancelled{note}", reason=reason)
    else:
        error = RunIsPaused(
            grpc.StatusCode.FAILED_PRECONDITION,
            "the run waits for a person or for the caller",
            reason="RUN_PAUSED",
        )
    error.outcome = outcome
    error.run_id = run_id
    return error


def lost(error: DragomanError, *, run_id: str, last_sequence: int, request_id: str) -> StreamLost:
    """The error of a run that cannot be followed any more, because of `error`."""
    found = StreamLost(
        error.code,
        error.message,
        reason=error.reason,
        metadata=error.metadata,
        violations=error.violations,
        retry_after=error.retry_after,
    )
    found.run_id, found.last_sequence, found.request_id = run_id, last_sequence, request_id
    return found


def _is_known(reason: int) -> bool:
    return reason in event_pb2.CancelReason.values()


def _build(kind: type[_Error], code: grpc.StatusCode, message: str, details: Iterable[Any]) -> _Error:
    reason, metadata, violations, retry_after = "", dict[str, str](), list[Violation](), None
    info, bad, retry = (
        error_details_pb2.ErrorInfo(),
        error_details_pb2.BadRequest(),
        error_details_pb2.RetryInfo(),
    )
    for detail in details:
        if detail.Unpack(info):
            reason, metadata = info.reason, dict(info.metadata)
        elif detail.Unpack(bad):
            violations += [Violation(each.field, each.description) for each in bad.field_violations]
        elif detail.Unpack(retry):
            retry_after = retry.retry_delay.ToTimedelta().total_seconds()
    return kind(
        code,
        message,
        reason=reason,
        metadata=metadata,
        violations=violations,
        retry_after=retry_after,
    )
