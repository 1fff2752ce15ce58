"""Records as the protos of the services. Tokens, money and times are spelled by `dragoman.wire`."""

from collections.abc import Mapping, Sequence
from decimal import Decimal
from types import MappingProxyType

from dragoman import records, wire
from dragoman.engine.ports import BudgetPeriod, BudgetState, MediaKind, UsageDimension, UsageRow
from dragoman.transport.structs import to_struct
from dragoman.v1 import event_pb2, message_pb2, run_service_pb2, session_service_pb2, usage_service_pb2

RUN_STATUS: Mapping[records.RunStatus, run_service_pb2.RunStatus.ValueType] = MappingProxyType(
    {
        records.RunStatus.QUEUED: run_service_pb2.RUN_STATUS_QUEUED,
        records.RunStatus.RUNNING: run_service_pb2.RUN_STATUS_RUNNING,
        records.RunStatus.PAUSED: run_service_pb2.RUN_STATUS_PAUSED,
        records.RunStatus.COMPLETED: run_service_pb2.RUN_STATUS_COMPLETED,
        records.RunStatus.FAILED: run_service_pb2.RUN_STATUS_FAILED,
        records.RunStatus.CANCELLED: run_service_pb2.RUN_STATUS_CANCELLED,
    }
)
STATUS_FILTER: Mapping[int, records.RunStatus | None] = MappingProxyType(
    {run_service_pb2.RUN_STATUS_UNSPECIFIED: None} | {value: key for key, value in RUN_STATUS.items()}
)
SESSION_CONFLICT: Mapping[int, records.SessionConflict] = MappingProxyType(
    {
        run_service_pb2.SESSION_CONFLICT_UNSPECIFIED: records.SessionConflict.REJECT,
        run_service_pb2.SESSION_CONFLICT_REJECT: records.SessionConflict.REJECT,
        run_service_pb2.SESSION_CONFLICT_QUEUE: records.SessionConflict.QUEUE,
        run_service_pb2.SESSION_CONFLICT_INTERRUPT: records.SessionConflict.INTERRUPT,
    }
)
CANCEL_ON_DISCONNECT: Mapping[int, bool] = MappingProxyType(
    {
        run_service_pb2.DISCONNECT_POLICY_UNSPECIFIED: False,
        run_service_pb2.DISCONNECT_POLICY_DETACH: False,
        run_service_pb2.DISCONNECT_POLICY_CANCEL: True,
    }
)
MEDIA_KIND: Mapping[int, MediaKind | None] = MappingProxyType(
    {
        message_pb2.MEDIA_KIND_UNSPECIFIED: None,
        message_pb2.MEDIA_KIND_IMAGE: MediaKind.IMAGE,
        message_pb2.MEDIA_KIND_FILE: MediaKind.FILE,
        message_pb2.MEDIA_KIND_AUDIO: MediaKind.AUDIO,
        message_pb2.MEDIA_KIND_VIDEO: MediaKind.VIDEO,
    }
)
USAGE_DIMENSION: Mapping[int, UsageDimension] = MappingProxyType(
    {
        usage_service_pb2.USAGE_DIMENSION_DAY: UsageDimension.DAY,
        usage_service_pb2.USAGE_DIMENSION_AGENT: UsageDimension.AGENT,
        usage_service_pb2.USAGE_DIMENSION_MEMBER: UsageDimension.MEMBER,
        usage_service_pb2.USAGE_DIMENSION_MODEL: UsageDimension.MODEL,
        usage_service_pb2.USAGE_DIMENSION_USER: UsageDimension.USER,
        usage_service_pb2.USAGE_DIMENSION_SESSION: UsageDimension.SESSION,
        usage_service_pb2.USAGE_DIMENSION_PRINCIPAL: UsageDimension.PRINCIPAL,
    }
)
BUDGET_PERIOD: Mapping[BudgetPeriod, usage_service_pb2.BudgetPeriod.ValueType] = MappingProxyType(
    {
        BudgetPeriod.DAY: usage_service_pb2.BUDGET_PERIOD_DAY,
        BudgetPeriod.MONTH: usage_service_pb2.BUDGET_PERIOD_MONTH,
    }
)
_GROUP_FIELDS: Mapping[UsageDimension, tuple[str, ...]] = MappingProxyType(
    {
        UsageDimension.DAY: ("day",),
        UsageDimension.AGENT: ("agent_name",),
        UsageDimension.MEMBER: ("member_name",),
        UsageDimension.MODEL: ("provider", "model"),
        UsageDimension.USER: ("user",),
        UsageDimension.SESSION: ("session_id",),
        UsageDimension.PRINCIPAL: ("principal",),
    }
)


def session(record: records.Session) -> session_service_pb2.Session:
    """A session."""
    return session_service_pb2.Session(
        id=str(record.id),
        agent_name=record.agent_name,
        title=record.title,
        metadata=record.metadata,
        inputs=to_struct(record.inputs),
        create_time=wire.timestamp(record.create_time),
        update_time=wire.timestamp(record.update_time),
        message_count=record.message_count,
        run_count=record.run_count,
        active_run_id=str(record.active_run_id or ""),
    )


def run(record: records.Run) -> run_service_pb2.Run:
    """A run; its outcome is the message of its last event."""
    shown = run_service_pb2.Run(
        id=str(record.id),
        session_id=str(record.session_id),
        agent_name=record.agent_name,
        model=record.model,
        provider=record.provider,
        status=RUN_STATUS[record.status],
        metadata=record.metadata,
        create_time=wire.timestamp(record.create_time),
        last_sequence=record.last_sequence,
        usage=wire.token_usage(record.totals.usage),
        model_calls=record.totals.model_calls,
    )
    if record.end_time is not None:
        shown.end_time.CopyFrom(wire.timestamp(record.end_time))
    if record.totals.currency:
        shown.cost.CopyFrom(wire.total_cost(record.totals))
    if record.last_event:
        _set_outcome(shown, event_pb2.RunEvent.FromString(record.last_event))
    return shown


def anybodys_run(record: records.Run) -> run_service_pb2.Run:
    """A run as an administrator sees it: whose it is and how it stands, and nothing of what was said in it."""
    shown = run(record)
    shown.principal, shown.user = record.owner.principal, record.owner.user
    shown.ClearField("metadata")
    if shown.HasField("cancelled"):
        why = event_pb2.RunCancelled(reason=shown.cancelled.reason, cancelled_by=shown.cancelled.cancelled_by)
        shown.cancelled.CopyFrom(why)
    else:
        shown.ClearField("outcome")
    return shown


def content(shown: run_service_pb2.Run) -> str:
    """The text that an ended run has written; empty for one that goes on or waits."""
    match shown.WhichOneof("outcome"):
        case "completed":
            return shown.completed.content
        case "failed":
            return shown.failed.content
        case "cancelled":
            return shown.cancelled.content
        case _:
            return ""


def usage_group(row: UsageRow, group_by: Sequence[UsageDimension]) -> usage_service_pb2.UsageGroup:
    """The sums of one group; of its key, the fields of the dimensions asked for are set."""
    fields = [name for dimension in group_by for name in _GROUP_FIELDS[dimension]]
    group = usage_service_pb2.UsageGroup(
        model_calls=row.model_calls,
        runs=row.runs,
        usage=wire.token_usage(row.usage),
        cost=wire.money_cost(row.amount, row.currency, row.usd, row.unpriced_calls),
    )
    for name, value in zip(fields, row.key, strict=True):
        setattr(group, name, value)
    return group


def budget(state: BudgetState) -> usage_service_pb2.Budget:
    """A budget; what is left of it is never below 0."""
    return usage_service_pb2.Budget(
        principal=state.principal,
        agent_name=state.agent_name,
        period=BUDGET_PERIOD[state.period],
        limit=wire.to_money(state.limit, state.currency),
        spent=wire.to_money(state.spent, state.currency),
        remaining=wire.to_money(max(state.limit - state.spent, Decimal(0)), state.currency),
        reset_time=wire.timestamp(state.reset_time),
    )


def _set_outcome(shown: run_service_pb2.Run, event: event_pb2.RunEvent) -> None:
    match event.WhichOneof("event"):
        case "run_completed":
            shown.completed.CopyFrom(event.run_completed)
        case "run_failed":
            shown.failed.CopyFrom(event.run_failed)
        case "run_cancelled":
            shown.cancelled.CopyFrom(event.run_cancelled)
        case "run_paused":
            shown.paused.CopyFrom(event.run_paused)
        case other:
            raise ValueError(f"run {shown.id} is stored with {other} as its last event")


def kind_of_type(mime_type: str) -> message_pb2.MediaKind.ValueType:
    """What sort of medium a MIME type is."""
    found = {
        "image": message_pb2.MEDIA_KIND_IMAGE,
        "audio": message_pb2.MEDIA_KIND_AUDIO,
        "video": message_pb2.MEDIA_KIND_VIDEO,
    }
    return found.get(mime_type.partition("/")[0], message_pb2.MEDIA_KIND_FILE)
