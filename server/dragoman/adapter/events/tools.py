"""Tool calls. A call that fails gives one event, though Agno tells of it twice.

A tool that the model made up gives no events at all, neither here nor in Agno.
"""

import math
from datetime import timedelta
from typing import Any, Final

from agno.models.response import ToolExecution
from agno.run import agent, team
from google.protobuf.duration_pb2 import Duration

from dragoman import wire
from dragoman.adapter.events.registry import A, T, on
from dragoman.adapter.events.sources import Source
from dragoman.adapter.pauses import tool_call
from dragoman.adapter.values import clean, cut, to_text
from dragoman.v1 import event_pb2
from dragoman.v1.event_pb2 import RunEvent

MAX_RESULT: Final = 64 * 1024
"""Bytes of a tool's result that its event keeps."""


@on(A.tool_call_started, T.tool_call_started, fills=["tool_call_started"])
def _tool_call_started(
    event: agent.ToolCallStartedEvent | team.ToolCallStartedEvent, _: Source
) -> list[RunEvent]:
    return [RunEvent(tool_call_started=event_pb2.ToolCallStarted(tool_call=tool_call(_tool(event))))]


@on(A.tool_call_completed, T.tool_call_completed, fills=["tool_call_completed"])
def _tool_call_completed(
    event: agent.ToolCallCompletedEvent | team.ToolCallCompletedEvent, source: Source
) -> list[RunEvent]:
    tool = _tool(event)
    if tool.tool_call_error:
        return _tool_call_failed(event, source)
    result, truncated = cut(to_text(tool.result), MAX_RESULT)
    message = event_pb2.ToolCallCompleted(
        tool_call_id=clean(tool.tool_call_id or ""),
        tool_name=clean(tool.tool_name or ""),
        result=result,
        duration=_tool_duration(tool),
        media=source.fresh(event.images, event.videos, event.audio, event.files),
        truncated=truncated,
    )
    return [RunEvent(tool_call_completed=message)]


@on(A.tool_call_error, T.tool_call_error, fills=["tool_call_failed"])
def _tool_call_failed(
    event: agent.ToolCallErrorEvent
    | team.ToolCallErrorEvent
    | agent.ToolCallCompletedEvent
    | team.ToolCallCompletedEvent,
    source: Source,
) -> list[RunEvent]:
    """Agno tells of a failure twice, as completed with an error and as an error: the first of the two counts."""
    tool = _tool(event)
    call = tool.tool_call_id or f"{id(tool)}"
    if call in source.half_failed:
        source.half_failed.remove(call)
        return []
    source.half_failed.add(call)
    message = event_pb2.ToolCallFailed(
        tool_call_id=clean(tool.tool_call_id or ""),
        tool_name=clean(tool.tool_name or ""),
        error="the tool call was declined" if tool.confirmed is False else "the tool raised an error",
        duration=_tool_duration(tool),
    )
    return [RunEvent(tool_call_failed=message)]


def _tool(event: Any) -> ToolExecution:
    if not isinstance(event.tool, ToolExecution):
        raise TypeError("the event names no tool")
    return event.tool


def _tool_duration(tool: ToolExecution) -> Duration | None:
    seconds = tool.metrics.duration if tool.metrics else None
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return None
    return wire.duration(timedelta(seconds=seconds))
