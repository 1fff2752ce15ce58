"""Which of its kinds an event is, as a type that a type checker can exhaust."""

from typing import Literal, TypeAlias

from dragoman.v1 import event_pb2, run_service_pb2

EventKind: TypeAlias = Literal[
    "content_delta",
    "reasoning_delta",
    "run_started",
    "run_continued",
    "run_paused",
    "run_completed",
    "run_failed",
    "run_cancelled",
    "run_queued",
    "structured_content",
    "content_completed",
    "citations",
    "media_output",
    "intermediate_content",
    "reasoning_started",
    "reasoning_step",
    "reasoning_completed",
    "tool_call_started",
    "tool_call_completed",
    "tool_call_failed",
    "model_request_started",
    "model_request_completed",
    "member_run_started",
    "member_run_completed",
    "member_run_failed",
    "member_run_cancelled",
    "member_run_paused",
    "member_run_continued",
    "task_created",
    "task_updated",
    "task_state_updated",
    "task_iteration_started",
    "task_iteration_completed",
    "pre_hook_started",
    "pre_hook_completed",
    "post_hook_started",
    "post_hook_completed",
    "memory_update_started",
    "memory_update_completed",
    "session_summary_started",
    "session_summary_completed",
    "parser_model_started",
    "parser_model_completed",
    "output_model_started",
    "output_model_completed",
    "compression_started",
    "compression_completed",
    "compaction_started",
    "compaction_completed",
    "followups_started",
    "followups_completed",
    "custom",
    "unmapped",
    "heartbeat",
]
"""The name of a field of `RunEvent.event`."""

RunResult: TypeAlias = (
    event_pb2.RunCompleted | event_pb2.RunFailed | event_pb2.RunCancelled | event_pb2.RunPaused
)
"""How a run ended: the message in its last event."""


def kind(event: event_pb2.RunEvent) -> EventKind | None:
    """Which field of `event` is set; None for an event of a newer server, which is to be passed over."""
    return event.WhichOneof("event")


def result_of(event: event_pb2.RunEvent) -> RunResult | None:
    """How the run ended, when this is the event that says so; None for every other event."""
    match event.WhichOneof("event"):
        case "run_completed":
            return event.run_completed
        case "run_failed":
            return event.run_failed
        case "run_cancelled":
            return event.run_cancelled
        case "run_paused":
            return event.run_paused
        case _:
            return None


def outcome_of(run: run_service_pb2.Run) -> RunResult | None:
    """The same for a run as it was read; None while it runs or waits for its turn."""
    match run.WhichOneof("outcome"):
        case "completed":
            return run.completed
        case "failed":
            return run.failed
        case "cancelled":
            return run.cancelled
        case "paused":
            return run.paused
        case _:
            return None
