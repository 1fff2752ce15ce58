"""Records as rows, and back. Both directions of each stand side by side; what is large goes through `Packer`.

Statements are made once wherever every run passes, as constants with named parameters: to build one often takes SQLAlchemy
longer than to run it. No parameter of a condition is named like a column: in an UPDATE that would be what to set.
"""

from collections.abc import Iterable, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa

from dragoman import ids
from dragoman.records import (
    AllOwners,
    CallStatus,
    Cancellation,
    Cost,
    EventChunk,
    Limits,
    Message,
    ModelCall,
    Owner,
    Run,
    RunStatus,
    Session,
    TokenUsage,
    Totals,
)
from dragoman.storage import codec
from dragoman.storage.tables import TOKENS, pieces

Values: TypeAlias = dict[str, Any]
"""Column names and values, as `insert()` takes them."""

AnyRow: TypeAlias = sa.Row[*tuple[Any, ...]]
"""A row of which some columns are read, by their names."""

_MICROSECOND = timedelta(microseconds=1)


_PIECES = (
    sa.select(pieces.c.value_id, pieces.c.data)
    .where(
        pieces.c.run_id.in_(sa.bindparam("runs", expanding=True)),
        pieces.c.value_id.in_(sa.bindparam("wanted", expanding=True)),
    )
    .order_by(pieces.c.value_id, pieces.c.position)
)
_DELETE_PIECES = sa.delete(pieces).where(
    pieces.c.run_id == sa.bindparam("run"), pieces.c.value_id.in_(sa.bindparam("unwanted", expanding=True))
)


class Packer:
    """Encodes the large values of one run. What is above `limit` bytes goes into pieces, gathered in `pieces`."""

    def __init__(self, run_id: UUID, limit: int) -> None:
        self._run_id = run_id
        self._limit = limit
        self.pieces: list[Values] = []

    def pack(self, value: bytes) -> bytes:
        """What to store in the value's own column."""
        stored = codec.encode(value)
        if len(stored) <= self._limit:
            return stored
        value_id = ids.new_id()
        self.pieces.extend(
            {"run_id": self._run_id, "value_id": value_id, "position": position, "data": data}
            for position, data in enumerate(codec.cut(stored, self._limit))
        )
        return codec.reference(value_id)


def unpack(connection: sa.Connection, run_ids: Iterable[UUID], stored: Iterable[bytes]) -> list[bytes]:
    """The values of `stored`, in order. Reads the pieces, of any of the runs, only when there are some."""
    columns = list(stored)
    wanted = {value_id for column in columns if (value_id := codec.referenced(column)) is not None}
    whole: dict[UUID, list[bytes]] = {}
    if wanted:
        for value_id, data in connection.execute(_PIECES, {"runs": set(run_ids), "wanted": wanted}):
            whole.setdefault(value_id, []).append(data)
    values = []
    for column in columns:
        value_id = codec.referenced(column)
        values.append(codec.decode(column if value_id is None else b"".join(whole[value_id])))
    return values


def delete_pieces(connection: sa.Connection, run_id: UUID, stored: Iterable[bytes]) -> None:
    """Deletes what values of a run have in pieces, if they have; the beginnings of the columns will do."""
    unwanted = {value_id for column in stored if (value_id := codec.referenced(column)) is not None}
    if unwanted:
        connection.execute(_DELETE_PIECES, {"run": run_id, "unwanted": unwanted})


def owner_values(owner: Owner) -> Values:
    """The two columns that everything of an owner has."""
    return {"principal": owner.principal, "user": owner.user}


def owned(table: sa.Table) -> sa.ColumnElement[bool]:
    """The condition that stands in every query. Which owner is meant is said when it runs: `**of(owner)`."""
    return sa.and_(
        table.c.principal == sa.bindparam("owner_principal"), table.c.user == sa.bindparam("owner_user")
    )


def of(owner: Owner) -> Values:
    """The parameters of `owned`."""
    return {"owner_principal": owner.principal, "owner_user": owner.user}


def of_whom(table: sa.Table, whose: Owner | AllOwners) -> list[sa.ColumnElement[bool]]:
    """Likewise, where an administrator may ask for others' rows. The parameters are `**of_whose(whose)`."""
    if isinstance(whose, Owner):
        return [owned(table)]
    named = {"principal": whose.principal, "user": whose.user}
    return [table.c[column] == value for column, value in named.items() if value]


def of_whose(whose: Owner | AllOwners) -> Values:
    """The parameters of `of_whom`."""
    return of(whose) if isinstance(whose, Owner) else {}


SPENT = frozenset(
    {*TOKENS, "usd", "amount", "price_version", "exchange_rate", "rate_date", "unit_prices", "currency"}
)
"""Columns of what has been used and paid."""


def session_values(session: Session) -> Values:
    """A row of `sessions`."""
    return {
        "id": session.id,
        **owner_values(session.owner),
        "agent_name": session.agent_name,
        "title": session.title,
        "metadata": dict(session.metadata),
        "inputs": dict(session.inputs),
        "create_time": session.create_time,
        "update_time": session.update_time,
        "message_count": session.message_count,
        "run_count": session.run_count,
        "active_run_id": session.active_run_id,
        "last_sequence": session.message_count,
    }


def session_of(row: sa.Row[Any]) -> Session:
    """The session of a row of `sessions`."""
    return Session(
        id=row.id,
        owner=Owner(row.principal, row.user),
        agent_name=row.agent_name,
        title=row.title,
        metadata=row.metadata,
        inputs=row.inputs,
        create_time=row.create_time,
        update_time=row.update_time,
        message_count=row.message_count,
        run_count=row.run_count,
        active_run_id=row.active_run_id,
    )


def run_values(run: Run, ticket: int | None) -> Values:
    """A row of `runs`, of a run that begins, but for its lease. `ticket`: its place in the session's queue."""
    return {
        "id": run.id,
        "session_id": run.session_id,
        **owner_values(run.owner),
        "agent_name": run.agent_name,
        "provider": run.provider,
        "model": run.model,
        "status": str(run.status),
        "metadata": dict(run.metadata),
        "create_time": run.create_time,
        "update_time": run.update_time,
        "end_time": run.end_time,
        "last_sequence": run.last_sequence,
        "last_message_sequence": None,
        **totals_values(run.totals),
        "last_event": None,
        "holder": run.holder,
        "ticket": ticket,
        "limits": _limits_value(run.limits),
    }


def run_of(row: sa.Row[Any], last_event: bytes) -> Run:
    """The run of a row of `runs`."""
    return Run(
        id=row.id,
        session_id=row.session_id,
        owner=Owner(row.principal, row.user),
        agent_name=row.agent_name,
        model=row.model,
        provider=row.provider,
        status=RunStatus(row.status),
        metadata=row.metadata,
        create_time=row.create_time,
        update_time=row.update_time,
        end_time=row.end_time,
        last_sequence=row.last_sequence,
        totals=Totals(usage_of(row), row.usd, row.amount, row.currency, row.model_calls, row.unpriced_calls),
        last_event=last_event,
        holder=row.holder,
        limits=_limits_of(row.limits),
    )


def cancellation_values(cancellation: Cancellation) -> Values:
    """The columns of `runs` that say that somebody wants it to end."""
    return {
        "cancel_reason": int(cancellation.reason),
        "cancel_by": cancellation.by,
        "cancel_note": cancellation.note,
    }


def cancellation_of(row: AnyRow) -> Cancellation | None:
    """The wish that a row of `runs` has; None when nobody wants it to end."""
    if row.cancel_reason is None:
        return None
    return Cancellation(row.cancel_reason, row.cancel_by, row.cancel_note)


def _limits_value(limits: Limits) -> Values | None:
    """NULL when there are none."""
    value: Values = {}
    if limits.max_cost is not None:
        value["max_cost"] = str(limits.max_cost)
    if limits.max_total_tokens is not None:
        value["max_total_tokens"] = limits.max_total_tokens
    if limits.max_duration is not None:
        value["max_duration_us"] = limits.max_duration // _MICROSECOND
    return value or None


def _limits_of(value: Mapping[str, Any] | None) -> Limits:
    if value is None:
        return Limits()
    cost, duration = value.get("max_cost"), value.get("max_duration_us")
    return Limits(
        None if cost is None else Decimal(cost),
        value.get("max_total_tokens"),
        None if duration is None else duration * _MICROSECOND,
    )


def totals_values(totals: Totals) -> Values:
    """The columns of a `Totals`."""
    return {
        **_usage_values(totals.usage),
        "usd": totals.usd,
        "amount": totals.amount,
        "currency": totals.currency,
        "model_calls": totals.model_calls,
        "unpriced_calls": totals.unpriced_calls,
    }


def message_values(
    message: Message, owner: Owner, session_id: UUID, root_run_id: UUID, packer: Packer
) -> Values:
    """A row of `chat_events`, but for its sequence."""
    return {
        "id": message.id,
        "session_id": session_id,
        **owner_values(owner),
        "root_run_id": root_run_id,
        "run_id": message.run_id,
        "parent_run_id": message.parent_run_id,
        "agent_name": message.agent_name,
        "role": message.role,
        "model_provider_slug": message.provider,
        "model": message.model,
        "message_parts": packer.pack(message.parts),
        "media_count": len(message.media),
        "created_at": message.create_time,
        **(dict.fromkeys(TOKENS) if message.usage is None else _usage_values(message.usage)),
        **cost_values(message.cost),
        "currency": None if message.cost is None else message.cost.currency,
    }


def message_of(row: sa.Row[Any], parts: bytes, media: tuple[bytes, ...], *, spent: bool = True) -> Message:
    """The message of a row of `chat_events`. `spent`: whether the row has the columns `SPENT`."""
    return Message(
        id=row.id,
        run_id=row.run_id,
        parent_run_id=row.parent_run_id,
        agent_name=row.agent_name,
        role=row.role,
        provider=row.model_provider_slug,
        model=row.model,
        parts=parts,
        create_time=row.created_at,
        media=media,
        usage=usage_of(row) if spent and row.input_tokens is not None else None,
        cost=cost_of(row) if spent and row.usd is not None else None,
        sequence=row.sequence,
    )


def call_values(
    call: ModelCall, owner: Owner, session_id: UUID, root_run_id: UUID, root_agent_name: str, currency: str
) -> Values:
    """A row of `model_calls`. `currency` is what an unpriced call is counted under."""
    first = call.time_to_first_token
    return {
        "id": call.id,
        **owner_values(owner),
        "session_id": session_id,
        "root_run_id": root_run_id,
        "root_agent_name": root_agent_name,
        "run_id": call.run_id,
        "parent_run_id": call.parent_run_id,
        "agent_name": call.agent_name,
        "kind": call.kind,
        "provider": call.provider,
        "model": call.model,
        **_usage_values(call.usage),
        **cost_values(call.cost),
        "currency": currency if call.cost is None else call.cost.currency,
        "status": str(call.status),
        "stop_reason": call.stop_reason,
        "start_time": call.start_time,
        "duration_us": call.duration // _MICROSECOND,
        "time_to_first_token_us": None if first is None else first // _MICROSECOND,
        "attempt": call.attempt,
    }


def call_of(row: sa.Row[Any]) -> ModelCall:
    """The call of a row of `model_calls`."""
    first = row.time_to_first_token_us
    return ModelCall(
        id=row.id,
        run_id=row.run_id,
        parent_run_id=row.parent_run_id,
        agent_name=row.agent_name,
        kind=row.kind,
        provider=row.provider,
        model=row.model,
        usage=usage_of(row),
        cost=None if row.usd is None else cost_of(row),
        status=CallStatus(row.status),
        stop_reason=row.stop_reason,
        start_time=row.start_time,
        duration=row.duration_us * _MICROSECOND,
        time_to_first_token=None if first is None else first * _MICROSECOND,
        attempt=row.attempt,
    )


def chunk_values(chunk: EventChunk, packer: Packer) -> Values:
    """A row of `run_events`."""
    return {
        "run_id": chunk.run_id,
        "first_sequence": chunk.first_sequence,
        "last_sequence": chunk.last_sequence,
        "size": codec.framed_size(chunk.events),
        "events": packer.pack(codec.frame(chunk.events)),
    }


def chunk_of(row: sa.Row[Any], events: bytes) -> EventChunk:
    """The chunk of a row of `run_events`."""
    return EventChunk(row.run_id, row.first_sequence, row.last_sequence, codec.unframe(events))


def after_sequence(chunk: EventChunk, sequence: int) -> EventChunk | None:
    """What of the chunk comes after the sequence; None when nothing does."""
    if sequence < chunk.first_sequence:
        return chunk
    if sequence >= chunk.last_sequence:
        return None
    skipped = sequence + 1 - chunk.first_sequence
    return EventChunk(chunk.run_id, sequence + 1, chunk.last_sequence, chunk.events[skipped:])


def _usage_values(usage: TokenUsage) -> Values:
    return {name: getattr(usage, name) for name in TOKENS}


def usage_of(row: sa.Row[Any]) -> TokenUsage:
    """The tokens of a row that has them."""
    # Rows of an earlier release have nothing in the columns that came later.
    return TokenUsage(**{name: getattr(row, name) or 0 for name in TOKENS})


def cost_values(cost: Cost | None) -> Values:
    """The columns of a `Cost`, but for its currency; all NULL when there is none."""
    if cost is None:
        names = ("usd", "amount", "price_version", "exchange_rate", "rate_date", "unit_prices")
        return dict.fromkeys(names)
    return {
        "usd": cost.usd,
        "amount": cost.amount,
        "price_version": cost.price_version,
        "exchange_rate": str(cost.exchange_rate),
        "rate_date": cost.rate_date,
        "unit_prices": {field: str(price) for field, price in cost.unit_prices.items()},
    }


def cost_of(row: sa.Row[Any]) -> Cost:
    """The cost of a row that has one, and its currency."""
    prices: Mapping[str, str] = row.unit_prices
    return Cost(
        usd=row.usd,
        amount=row.amount,
        currency=row.currency,
        price_version=row.price_version,
        exchange_rate=Decimal(row.exchange_rate),
        rate_date=row.rate_date,
        unit_prices={field: Decimal(price) for field, price in prices.items()},
    )
