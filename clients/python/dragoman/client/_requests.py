"""From Python's values to the protos of requests."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from dragoman.v1 import message_pb2, run_service_pb2, session_service_pb2, usage_service_pb2

Inputs: TypeAlias = Mapping[str, object]
"""JSON for the agent's own model: None, booleans, numbers, strings, lists, and dicts with text keys."""

EventDetail: TypeAlias = Literal["content", "standard", "all"]
"""Which events are sent: text and the end; also reasoning, tools and model calls; everything."""

MessageOrder: TypeAlias = Literal["oldest", "newest"]
"""Which messages come first."""

RunState: TypeAlias = Literal["running", "paused", "completed", "failed", "cancelled"]
"""Where a run stands."""

UsageDimension: TypeAlias = Literal["day", "agent", "member", "model", "user", "session", "principal"]
"""By what usage is grouped."""

DETAILS: Mapping[EventDetail, run_service_pb2.EventDetail.ValueType] = {
    "content": run_service_pb2.EVENT_DETAIL_CONTENT,
    "standard": run_service_pb2.EVENT_DETAIL_STANDARD,
    "all": run_service_pb2.EVENT_DETAIL_ALL,
}
ORDERS: Mapping[MessageOrder, session_service_pb2.MessageOrder.ValueType] = {
    "oldest": session_service_pb2.MESSAGE_ORDER_OLDEST_FIRST,
    "newest": session_service_pb2.MESSAGE_ORDER_NEWEST_FIRST,
}
STATES: Mapping[RunState, run_service_pb2.RunStatus.ValueType] = {
    "running": run_service_pb2.RUN_STATUS_RUNNING,
    "paused": run_service_pb2.RUN_STATUS_PAUSED,
    "completed": run_service_pb2.RUN_STATUS_COMPLETED,
    "failed": run_service_pb2.RUN_STATUS_FAILED,
    "cancelled": run_service_pb2.RUN_STATUS_CANCELLED,
}
DIMENSIONS: Mapping[UsageDimension, usage_service_pb2.UsageDimension.ValueType] = {
    "day": usage_service_pb2.USAGE_DIMENSION_DAY,
    "agent": usage_service_pb2.USAGE_DIMENSION_AGENT,
    "member": usage_service_pb2.USAGE_DIMENSION_MEMBER,
    "model": usage_service_pb2.USAGE_DIMENSION_MODEL,
    "user": usage_service_pb2.USAGE_DIMENSION_USER,
    "session": usage_service_pb2.USAGE_DIMENSION_SESSION,
    "principal": usage_service_pb2.USAGE_DIMENSION_PRINCIPAL,
}


def struct(inputs: Inputs | None) -> Struct | None:
    """`inputs` as a Struct; None stays unset. Raises TypeError for what is not JSON."""
    if inputs is None:
        return None
    try:
        return json_format.ParseDict(dict(inputs), Struct())
    except (
        json_format.ParseError,
        TypeError,
        AttributeError,
    ) as error:  # what protobuf raises varies by the value
        raise TypeError(
            "inputs must be JSON: None, booleans, finite numbers, strings, lists and dicts with text keys"
        ) from error


def timestamp(at: datetime | None) -> Timestamp | None:
    """An aware datetime as a Timestamp; None stays unset. Raises ValueError for a naive one: its zone is a guess."""
    if at is None:
        return None
    if at.tzinfo is None:
        raise ValueError("a time needs a time zone, for example datetime.now(UTC)")
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def session_id(session: session_service_pb2.Session | str | None) -> str:
    """The id of a session, or the id itself; empty for None."""
    if session is None:
        return ""
    return session if isinstance(session, str) else session.id


def run_request(
    agent: str,
    message: str,
    session: session_service_pb2.Session | str | None,
    media: Sequence[message_pb2.MediaInput],
    inputs: Inputs | None,
    metadata: Mapping[str, str] | None,
    detail: EventDetail = "standard",
) -> run_service_pb2.RunRequest:
    """The request of Run and Execute."""
    return run_service_pb2.RunRequest(
        agent_name=agent,
        session_id=session_id(session),
        message=message,
        media=media,
        inputs=struct(inputs),
        metadata=metadata,
        detail=DETAILS[detail],
    )
