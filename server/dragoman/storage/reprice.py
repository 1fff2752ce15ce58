"""Other costs for calls that are booked: when prices or rates were wrong, or were not known.

Who prices again goes through the ledger stretch by stretch (`scan`), asks what the calls would cost, and hands over those
that would cost something else (`replace_costs`). Servers may run meanwhile. Each batch is one transaction: the old figures
go to `model_call_prices`, the new ones to the call; then the run's totals and the costs of its messages are made to agree
with the ledger again. The event that ended a run stays as it was sent: it is what callers were told at the time.

Left alone: calls of runs that have not ended, whose process keeps their sums and will write them; and calls that have
changed since they were read. To do everything again finds nothing left to do.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias
from uuid import UUID

import sqlalchemy as sa

from dragoman.records import Cost, ModelCall, RunStatus, TokenUsage, totals
from dragoman.storage.rows import Values, call_of, cost_of, cost_values, usage_of
from dragoman.storage.tables import TOKENS, chat_events, model_call_prices, model_calls, runs, sessions

STRETCH = 1000
"""Calls that one query looks at: it must end soon however few of them are chosen."""

_calls = model_calls.c

_STRETCH = sa.select(_calls.id).order_by(_calls.id)
_IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
_RUNS = sa.select(runs.c.id, runs.c.session_id).where(runs.c.id.in_(_IDS))
_LOCK_SESSIONS = (
    sa.select(sessions.c.id).where(sessions.c.id.in_(_IDS)).order_by(sessions.c.id).with_for_update()
)
_LOCK_RUNS = (
    sa.select(runs.c.id, runs.c.status, runs.c.currency)
    .where(runs.c.id.in_(_IDS))
    .order_by(runs.c.id)
    .with_for_update()
)
_LOCK_CALLS = sa.select(model_calls).where(_calls.id.in_(_IDS)).order_by(_calls.id).with_for_update()
_UPDATE_CALL = sa.update(model_calls).where(_calls.id == sa.bindparam("call"))
_KEEP = sa.insert(model_call_prices)
_CALLS_OF_RUNS = (
    sa.select(model_calls).where(_calls.root_run_id.in_(_IDS)).order_by(_calls.start_time, _calls.id)
)
_UPDATE_RUN = sa.update(runs).where(runs.c.id == sa.bindparam("run"))
_MESSAGES = (
    sa.select(
        *(
            chat_events.c[name]
            for name in (
                "id",
                "root_run_id",
                "run_id",
                "model_provider_slug",
                "model",
                *TOKENS,
                *cost_values(None),
                "currency",
            )
        )
    )
    .where(chat_events.c.root_run_id.in_(_IDS), chat_events.c.input_tokens.is_not(None))
    .order_by(chat_events.c.root_run_id, chat_events.c.sequence)
)
_UPDATE_MESSAGE = sa.update(chat_events).where(chat_events.c.id == sa.bindparam("message"))


@dataclass(frozen=True, slots=True)
class Chosen:
    """Which calls are meant: those for which all of it holds."""

    start_time: datetime | None = None
    """Begun then or later."""
    end_time: datetime | None = None
    """Begun before."""
    agent_name: str = ""
    """Of runs of this agent, its members' calls included."""
    model: str = ""
    only_unpriced: bool = False


@dataclass(frozen=True, slots=True)
class LedgerRow:
    """A call as it is booked."""

    call: ModelCall
    root_run_id: UUID
    """The run that a caller started."""
    currency: str
    """In which its run is counted, whether it has a price or not."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """Some consecutive calls of the ledger, by id."""

    rows: tuple[LedgerRow, ...]
    """The chosen ones among them."""
    last: UUID | None
    """After which the next stretch begins; None when the ledger ends here."""


@dataclass(frozen=True, slots=True)
class Change:
    """Another cost for a call, in the currency of its row."""

    row: LedgerRow
    cost: Cost


@dataclass(frozen=True, slots=True)
class Replaced:
    """What became of some changes, by the ids of their calls."""

    done: frozenset[UUID]
    unended: frozenset[UUID]
    """Not done: their runs have not ended."""
    changed: frozenset[UUID]
    """Not done: they are no longer what they were when they were read."""


def scan(connection: sa.Connection, chosen: Chosen, after: UUID | None, limit: int) -> Stretch:
    """The chosen ones among the next `limit` calls after an id."""
    stretch = _STRETCH if after is None else _STRETCH.where(_calls.id > after)
    last = connection.execute(stretch.offset(limit - 1).limit(1)).scalar()
    query = sa.select(model_calls).where(*_conditions(chosen)).order_by(_calls.id)
    if after is not None:
        query = query.where(_calls.id > after)
    if last is not None:
        query = query.where(_calls.id <= last)
    rows = (LedgerRow(call_of(row), row.root_run_id, row.currency) for row in connection.execute(query))
    return Stretch(tuple(rows), last)


def _conditions(chosen: Chosen) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    # Not the columns themselves: their indexes would lead through all calls of the time, or of the agent, in every stretch.
    time = sa.func.coalesce(_calls.start_time, _calls.start_time)
    if chosen.start_time is not None:
        conditions.append(time >= chosen.start_time)
    if chosen.end_time is not None:
        conditions.append(time < chosen.end_time)
    if chosen.agent_name:
        conditions.append(sa.func.coalesce(_calls.root_agent_name, "") == chosen.agent_name)
    if chosen.model:
        conditions.append(_calls.model == chosen.model)
    if chosen.only_unpriced:
        conditions.append(_calls.usd.is_(None))
    return conditions


def replace_costs(connection: sa.Connection, changes: Sequence[Change], time: datetime) -> Replaced:
    """Writes the changes that can be made. A second time it finds them done. `time`: of the replacement.

    Raises ValueError for a change of the currency: the sums of a run are in one.
    """
    if any(change.cost.currency != change.row.currency for change in changes):
        raise ValueError("a call keeps its currency when it is priced again")
    stored = _lock_runs(connection, {change.row.root_run_id for change in changes})
    unended = frozenset(
        change.row.call.id
        for change in changes
        if (status := stored.get(change.row.root_run_id)) is not None and not status.final
    )
    current = _lock_calls(connection, [change.row.call.id for change in changes])
    done: set[UUID] = set()
    due: list[Change] = []
    for change in changes:
        found = current.get(change.row.call.id)
        if found is None or change.row.call.id in unended or found.usage != change.row.call.usage:
            continue
        if found.cost == change.cost:
            done.add(found.id)  # by an earlier attempt whose commit was not heard of
        elif found.cost == change.row.call.cost:
            done.add(found.id)
            due.append(change)
    if due:
        _write_calls(connection, due, time)
        roots = {change.row.root_run_id for change in due} & stored.keys()
        if roots:
            _settle_runs(connection, roots, due)
    everything = frozenset(change.row.call.id for change in changes)
    return Replaced(frozenset(done), unended, everything - done - unended)


def _lock_runs(connection: sa.Connection, run_ids: set[UUID]) -> dict[UUID, RunStatus]:
    """The status of those that there are still; sessions are locked first, as everywhere."""
    places = connection.execute(_RUNS, {"ids": sorted(run_ids)}).all()
    if not places:
        return {}
    connection.execute(_LOCK_SESSIONS, {"ids": sorted({row.session_id for row in places})}).all()
    locked = connection.execute(_LOCK_RUNS, {"ids": sorted(row.id for row in places)})
    return {row.id: RunStatus(row.status) for row in locked}


def _lock_calls(connection: sa.Connection, call_ids: list[UUID]) -> dict[UUID, ModelCall]:
    return {row.id: call_of(row) for row in connection.execute(_LOCK_CALLS, {"ids": sorted(call_ids)})}


def _write_calls(connection: sa.Connection, due: Sequence[Change], time: datetime) -> None:
    connection.execute(
        _KEEP,
        [
            {
                "call_id": change.row.call.id,
                "replace_time": time,
                "currency": change.row.currency,
                **cost_values(change.row.call.cost),
            }
            for change in due
        ],
    )
    connection.execute(
        _UPDATE_CALL, [{"call": change.row.call.id, **cost_values(change.cost)} for change in due]
    )


_Key: TypeAlias = tuple[UUID, str, str, TokenUsage]
"""What a message has of the call that wrote it: run, provider, model, tokens; and besides the cost."""


def _settle_runs(connection: sa.Connection, roots: set[UUID], due: Sequence[Change]) -> None:
    """Makes totals and messages of the runs agree with their calls."""
    before = {change.row.call.id: change.row.call.cost for change in due}
    booked: defaultdict[UUID, list[ModelCall]] = defaultdict(list)
    currency: dict[UUID, str] = {}
    for row in connection.execute(_CALLS_OF_RUNS, {"ids": sorted(roots)}):
        booked[row.root_run_id].append(call_of(row))
        currency[row.root_run_id] = row.currency
    sums = {root: totals(calls, currency[root]) for root, calls in booked.items()}
    connection.execute(
        _UPDATE_RUN,
        [
            {"run": root, "usd": total.usd, "amount": total.amount, "unpriced_calls": total.unpriced_calls}
            for root, total in sorted(sums.items())
        ],
    )
    written = _messages(connection.execute(_MESSAGES, {"ids": sorted(roots)}))
    updates: list[Values] = []
    for call in (call for calls in booked.values() for call in calls):
        # In the order of calls, those without a change too: each takes the message that it wrote away from later ones.
        old = before.get(call.id, call.cost)
        candidates = written.get((call.run_id, call.provider, call.model, call.usage), [])
        place = next((place for place, (_, cost) in enumerate(candidates) if cost == old), None)
        if place is None:
            continue  # a call that wrote no message, or none that is kept
        message_id, _ = candidates.pop(place)
        if call.id in before and call.cost is not None:
            updates.append({"message": message_id, "currency": call.cost.currency, **cost_values(call.cost)})
    if updates:
        connection.execute(_UPDATE_MESSAGE, updates)


def _messages(rows: Iterable[sa.Row[Any]]) -> dict[_Key, list[tuple[UUID, Cost | None]]]:
    """The messages of models with their costs, in order, by what tells whose they are."""
    found: dict[_Key, list[tuple[UUID, Cost | None]]] = {}
    for row in rows:
        key = (row.run_id, row.model_provider_slug, row.model, usage_of(row))
        found.setdefault(key, []).append((row.id, None if row.usd is None else cost_of(row)))
    return found
