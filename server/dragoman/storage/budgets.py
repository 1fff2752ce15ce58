"""What was spent in a time, over all users: for budgets.

The index begins with the principal, or else with the agent, and goes on with the time: what is read is what is summed up.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from dragoman.engine.ports import Spending, SpendingQuery
from dragoman.storage.sessions import BATCH
from dragoman.storage.tables import model_calls
from dragoman.storage.usage import money_of, money_sums

SLICE = timedelta(days=1)
"""The longest time that one statement sums up, of what is settled."""

_calls = model_calls.c
_BOOKED = sa.select(_calls.id, _calls.amount).where(_calls.id.in_(sa.bindparam("calls", expanding=True)))


def spending(connection: sa.Connection, queries: Sequence[SpendingQuery]) -> list[Spending]:
    """The sums of each query."""
    return [_spending(connection, query) for query in queries]


def _spending(connection: sa.Connection, query: SpendingQuery) -> Spending:
    # The calls that are told one by one come last: what is booked in between is in no sum, whichever moment counts.
    settled, start = Decimal(0), query.start_time
    # A day at a time: no statement takes long, however much was spent in a month.
    while start < query.split_time:
        end = min(start + SLICE, query.split_time)
        settled += _sum(connection, query, start, end)
        start = end
    recent = _sum(connection, query, query.split_time, query.end_time)
    own: dict[Any, Decimal] = {}
    ids = sorted(query.own)
    for place in range(0, len(ids), BATCH):
        found = connection.execute(_BOOKED, {"calls": ids[place : place + BATCH]})
        own.update((row.id, row.amount or Decimal(0)) for row in found)
    return Spending(settled, recent, own)


def _sum(connection: sa.Connection, query: SpendingQuery, start: datetime, end: datetime) -> Decimal:
    statement = sa.select(*money_sums("amount", connection)).where(
        _calls.start_time >= start, _calls.start_time < end, _calls.currency == query.currency
    )
    if query.principal:
        statement = statement.where(_calls.principal == query.principal)
    if query.agent_name:
        statement = statement.where(_calls.root_agent_name == query.agent_name)
    if query.own:
        statement = statement.where(_calls.id.not_in(sorted(query.own)))
    return money_of("amount", connection.execute(statement).mappings().one(), connection)
