"""From Python's values to the protos of requests."""

import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal, TypeAlias

from google.protobuf import json_format
from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from dragoman.v1 import message_pb2, run_service_pb2, session_service_pb2, usage_service_pb2

Inputs: TypeAlias = Mapping[str, object]
"""JSON for the agent's own model: None, booleans, numbers, strings, lists, and dicts with text keys."""

EventDetail: TypeAlias = Literal["content", "standard", "all"]
"""Which events are sent: text and the end; also reasoning, tools and model calls; everything."""

MessageOrder: TypeAlias = Literal["oldest", "newest"]
"""Which messages come first."""

RunState: TypeAlias = Literal["queued", "running", "paused", "completed", "failed", "cancelled"]
"""Where a run stands."""

SessionConflict: TypeAlias = Literal["reject", "queue", "interrupt"]
"""While another run holds the session's turn: be refused (SESSION_BUSY), wait in line, or end that run."""

DisconnectPolicy: TypeAlias = Literal["detach", "cancel"]
"""What becomes of a run that nobody follows any more: it goes on, or it is cancelled."""

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
    "queued": run_service_pb2.RUN_STATUS_QUEUED,
    "running": run_service_pb2.RUN_STATUS_RUNNING,
    "paused": run_service_pb2.RUN_STATUS_PAUSED,
    "completed": run_service_pb2.RUN_STATUS_COMPLETED,
    "failed": run_service_pb2.RUN_STATUS_FAILED,
    "cancelled": run_service_pb2.RUN_STATUS_CANCELLED,
}
CONFLICTS: Mapping[SessionConflict, run_service_pb2.SessionConflict.ValueType] = {
    "reject": run_service_pb2.SESSION_CONFLICT_REJECT,
    "queue": run_service_pb2.SESSION_CONFLICT_QUEUE,
    "interrupt": run_service_pb2.SESSION_CONFLICT_INTERRUPT,
}
DISCONNECTS: Mapping[DisconnectPolicy, run_service_pb2.DisconnectPolicy.ValueType] = {
    "detach": run_service_pb2.DISCONNECT_POLICY_DETACH,
    "cancel": run_service_pb2.DISCONNECT_POLICY_CANCEL,
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


def request_id_or_new(request_id: str) -> str:
    """The caller's own id of a request, or a new one: with it, the request can be made again."""
    return request_id or str(uuid.uuid4())


def limits_of(
    max_cost: Decimal | str | int | None, max_total_tokens: int, max_duration: timedelta | float | None
) -> run_service_pb2.RunLimits | None:
    """What a run may spend; None without any limit. Raises ValueError for a cost that is no amount."""
    if max_cost is None and not max_total_tokens and max_duration is None:
        return None
    limits = run_service_pb2.RunLimits(max_total_tokens=max_total_tokens)
    if max_cost is not None:
        limits.max_cost.CopyFrom(_money(max_cost))
    if max_duration is not None:
        span = max_duration if isinstance(max_duration, timedelta) else timedelta(seconds=max_duration)
        duration = Duration()
        duration.FromTimedelta(span)
        limits.max_duration.CopyFrom(duration)
    return limits


def _money(cost: Decimal | str | int) -> Money:
    """The amount in the server's own currency, exactly."""
    try:
        nanos = Decimal(cost).scaleb(9)
        if nanos != nanos.to_integral_value():
            raise ValueError(f"max_cost has more than nine decimal places: {cost}")
    except ArithmeticError as error:
        raise ValueError(f"max_cost must be an amount, not {cost!r}") from error
    sign = -1 if nanos < 0 else 1
    units, rest = divmod(abs(int(nanos)), 1_000_000_000)
    return Money(units=sign * units, nanos=sign * rest)


def run_request(
    agent: str,
    message: str,
    session: session_service_pb2.Session | str | None,
    media: Sequence[message_pb2.MediaInput],
    inputs: Inputs | None,
    metadata: Mapping[str, str] | None,
    detail: EventDetail,
    limits: run_service_pb2.RunLimits | None,
    conflict: SessionConflict,
    on_disconnect: DisconnectPolicy,
    request_id: str,
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
        request_id=request_id_or_new(request_id),
        limits=limits,
        session_conflict=CONFLICTS[conflict],
        disconnect_policy=DISCONNECTS[on_disconnect],
    )
