"""The events that begin and end a run, built from what came of it."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, cast

from google.protobuf import json_format
from google.rpc import error_details_pb2

from dragoman import wire
from dragoman.engine.ports import Outcome
from dragoman.engine.states import Step
from dragoman.errors import DragomanError
from dragoman.records import Cancellation, Run, RunStatus, Totals
from dragoman.status import to_status
from dragoman.v1 import event_pb2


def run_started(run: Run) -> event_pb2.RunEvent:
    """The first event of every run that need not wait; of others the second."""
    return event_pb2.RunEvent(
        run_started=event_pb2.RunStarted(
            run_id=str(run.id),
            session_id=str(run.session_id),
            agent_name=run.agent_name,
            model=run.model,
            provider=run.provider,
        )
    )


def run_queued(run: Run, position: int) -> event_pb2.RunEvent:
    """The first event of a run that has to wait for its session's turn."""
    return event_pb2.RunEvent(
        run_queued=event_pb2.RunQueued(run_id=str(run.id), session_id=str(run.session_id), position=position)
    )


def opening(run: Run, position: int = 0) -> event_pb2.RunEvent:
    """The first event of a run as it was created, without its sequence.

    Its time is the run's, so that who finds a run of which nothing was stored can make the same event again (but for the
    position in the queue, which only the process knew that is gone).
    """
    event = run_queued(run, position) if run.status is RunStatus.QUEUED else run_started(run)
    event.create_time.FromDatetime(run.create_time)
    return event


def run_continued(resolved: int) -> event_pb2.RunEvent:
    """The first event after a pause."""
    return event_pb2.RunEvent(run_continued=event_pb2.RunContinued(resolved_requirements=resolved))


def completed(outcome: Outcome, totals: Totals, message_ids: Sequence[str]) -> event_pb2.RunEvent:
    """The run ended by itself."""
    event = event_pb2.RunCompleted(
        content=outcome.content,
        finish_reason=outcome.finish_reason,
        usage=wire.token_usage(totals.usage),
        cost=wire.total_cost(totals),
        model_calls=totals.model_calls,
        message_ids=message_ids,
    )
    if outcome.structured is not None:
        json_format.ParseDict(cast("Any", outcome.structured), event.structured_content)
    return event_pb2.RunEvent(run_completed=event)


def failed(
    outcome: Outcome, totals: Totals, message_ids: Sequence[str], error: DragomanError
) -> event_pb2.RunEvent:
    """The run ended by an error."""
    return event_pb2.RunEvent(
        run_failed=event_pb2.RunFailed(
            error=to_status(error),
            content=outcome.content,
            usage=wire.token_usage(totals.usage),
            cost=wire.total_cost(totals),
            model_calls=totals.model_calls,
            message_ids=message_ids,
        )
    )


def cancelled(
    content: str, totals: Totals, message_ids: Sequence[str], cancellation: Cancellation
) -> event_pb2.RunEvent:
    """The run was ended."""
    return event_pb2.RunEvent(
        run_cancelled=event_pb2.RunCancelled(
            reason=cancellation.reason,
            cancelled_by=cancellation.by,
            note=cancellation.note,
            content=content,
            usage=wire.token_usage(totals.usage),
            cost=wire.total_cost(totals),
            model_calls=totals.model_calls,
            message_ids=message_ids,
        )
    )


def paused(outcome: Outcome, totals: Totals, expire_time: datetime) -> event_pb2.RunEvent:
    """The run waits for a person or for the caller."""
    event = event_pb2.RunPaused(
        requirements=outcome.requirements,
        usage=wire.token_usage(totals.usage),
        cost=wire.total_cost(totals),
        model_calls=totals.model_calls,
    )
    event.expire_time.FromDatetime(expire_time)
    return event_pb2.RunEvent(run_paused=event)


def why(event: event_pb2.RunEvent) -> str:
    """Why a run ended as it did, in one word of a fixed set: for figures and logs."""
    if event.HasField("run_failed"):
        info = error_details_pb2.ErrorInfo()
        return next(
            (info.reason for detail in event.run_failed.error.details if detail.Unpack(info)), "INTERNAL"
        )
    if event.HasField("run_cancelled"):
        return event_pb2.CancelReason.Name(event.run_cancelled.reason).removeprefix("CANCEL_REASON_")
    if event.HasField("run_completed"):
        name = event_pb2.FinishReason.Name(event.run_completed.finish_reason)
        return name.removeprefix("FINISH_REASON_")
    return "PAUSED"


def last_event(
    outcome: Outcome,
    totals: Totals,
    message_ids: Sequence[str],
    cancellation: Cancellation | None,
    expire_time: datetime,
) -> tuple[Step, event_pb2.RunEvent]:
    """The one event that ends or pauses the run, and the step that it stands for.

    `totals` and `message_ids` are those of the whole run. An agent that ended by itself before a cancel reached it has
    completed.
    """
    if outcome.status == "completed":
        return Step.COMPLETE, completed(outcome, totals, message_ids)
    if outcome.status == "paused" and cancellation is None:
        return Step.PAUSE, paused(outcome, totals, expire_time)
    if cancellation is not None:
        return Step.CANCEL, cancelled(outcome.content, totals, message_ids, cancellation)
    if outcome.error is None:
        raise ValueError(f"a run that is {outcome.status} has not ended")
    return Step.FAIL, failed(outcome, totals, message_ids, outcome.error)
