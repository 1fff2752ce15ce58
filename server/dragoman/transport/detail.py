"""Which events a caller gets, by the level of detail that it asked for: the table, one line per event.

What begins and ends a run passes at every level. Sequence numbers are those of the whole run, so a filtered stream has
gaps.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from dragoman.v1.event_pb2 import RunEvent
from dragoman.v1.run_service_pb2 import (
    EVENT_DETAIL_ALL,
    EVENT_DETAIL_CONTENT,
    EVENT_DETAIL_STANDARD,
    EVENT_DETAIL_UNSPECIFIED,
    EventDetail,
)

TERMINAL: Final = frozenset({"run_completed", "run_failed", "run_cancelled", "run_paused"})
"""The events of which exactly one is the last of a stream."""

LEVELS: Mapping[str, EventDetail.ValueType] = MappingProxyType(
    {
        # The beginning and the end.
        "run_queued": EVENT_DETAIL_CONTENT,
        "run_started": EVENT_DETAIL_CONTENT,
        "run_continued": EVENT_DETAIL_CONTENT,
        "run_paused": EVENT_DETAIL_CONTENT,
        "run_completed": EVENT_DETAIL_CONTENT,
        "run_failed": EVENT_DETAIL_CONTENT,
        "run_cancelled": EVENT_DETAIL_CONTENT,
        "heartbeat": EVENT_DETAIL_CONTENT,
        # What is said.
        "content_delta": EVENT_DETAIL_CONTENT,
        "structured_content": EVENT_DETAIL_CONTENT,
        "content_completed": EVENT_DETAIL_CONTENT,
        "citations": EVENT_DETAIL_CONTENT,
        "media_output": EVENT_DETAIL_CONTENT,
        # How it came about.
        "reasoning_started": EVENT_DETAIL_STANDARD,
        "reasoning_delta": EVENT_DETAIL_STANDARD,
        "reasoning_step": EVENT_DETAIL_STANDARD,
        "reasoning_completed": EVENT_DETAIL_STANDARD,
        "tool_call_started": EVENT_DETAIL_STANDARD,
        "tool_call_completed": EVENT_DETAIL_STANDARD,
        "tool_call_failed": EVENT_DETAIL_STANDARD,
        "model_request_completed": EVENT_DETAIL_STANDARD,
        "member_run_started": EVENT_DETAIL_STANDARD,
        "member_run_completed": EVENT_DETAIL_STANDARD,
        "member_run_failed": EVENT_DETAIL_STANDARD,
        "member_run_cancelled": EVENT_DETAIL_STANDARD,
        "member_run_paused": EVENT_DETAIL_STANDARD,
        "member_run_continued": EVENT_DETAIL_STANDARD,
        "task_created": EVENT_DETAIL_STANDARD,
        "task_updated": EVENT_DETAIL_STANDARD,
        "task_state_updated": EVENT_DETAIL_STANDARD,
        "task_iteration_started": EVENT_DETAIL_STANDARD,
        "task_iteration_completed": EVENT_DETAIL_STANDARD,
        "custom": EVENT_DETAIL_STANDARD,
        # The inner phases of an agent.
        "intermediate_content": EVENT_DETAIL_ALL,
        "model_request_started": EVENT_DETAIL_ALL,
        "pre_hook_started": EVENT_DETAIL_ALL,
        "pre_hook_completed": EVENT_DETAIL_ALL,
        "post_hook_started": EVENT_DETAIL_ALL,
        "post_hook_completed": EVENT_DETAIL_ALL,
        "memory_update_started": EVENT_DETAIL_ALL,
        "memory_update_completed": EVENT_DETAIL_ALL,
        "session_summary_started": EVENT_DETAIL_ALL,
        "session_summary_completed": EVENT_DETAIL_ALL,
        "parser_model_started": EVENT_DETAIL_ALL,
        "parser_model_completed": EVENT_DETAIL_ALL,
        "output_model_started": EVENT_DETAIL_ALL,
        "output_model_completed": EVENT_DETAIL_ALL,
        "compression_started": EVENT_DETAIL_ALL,
        "compression_completed": EVENT_DETAIL_ALL,
        "compaction_started": EVENT_DETAIL_ALL,
        "compaction_completed": EVENT_DETAIL_ALL,
        "followups_started": EVENT_DETAIL_ALL,
        "followups_completed": EVENT_DETAIL_ALL,
        "unmapped": EVENT_DETAIL_ALL,
    }
)


def wanted(detail: EventDetail.ValueType) -> Callable[[RunEvent], bool] | None:
    """Tells which events to send at this level; None: all of them, without looking."""
    level = EVENT_DETAIL_STANDARD if detail == EVENT_DETAIL_UNSPECIFIED else detail
    if level == EVENT_DETAIL_ALL:
        return None
    # An event whose oneof is unset (the log may hold events of a newer server) is none of the inner phases.
    passing = frozenset((*(name for name, least in LEVELS.items() if least <= level), None))

    def wants(event: RunEvent) -> bool:
        return event.WhichOneof("event") in passing

    return wants
