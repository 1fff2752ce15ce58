"""Usage: exact sums over the ledger.

A page begins after a key, so calls of groups that have been shown are not summed again. A group is of one currency: when
the reporting currency has changed in between, what was priced before stands in a row of its own, behind the same key.

Times lie in the ledger as UTC. A day somewhere else is that of the time with the zone's offset added to it, which the
statement spells out as a CASE over the changes of the offset while the owner has made calls: so it takes no tables of time
zones in the database, and every page of a query has the same days.
"""

from datetime import date, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dragoman import zones
from dragoman.engine.ports import Page, UsageDimension, UsageQuery, UsageRow
from dragoman.errors import PageTokenInvalid
from dragoman.records import AllOwners, Owner, TokenUsage
from dragoman.storage.rows import of_whom, of_whose
from dragoman.storage.tables import TOKENS, model_calls
from dragoman.storage.types import MYSQL, unscaled

_calls = model_calls.c

_KEYS: dict[UsageDimension, tuple[sa.ColumnElement[Any], ...]] = {
    UsageDimension.DAY: (sa.func.date(_calls.start_time, type_=sa.String()),),
    UsageDimension.AGENT: (_calls.root_agent_name,),
    UsageDimension.MEMBER: (_calls.agent_name,),
    UsageDimension.MODEL: (_calls.provider, _calls.model),
    UsageDimension.USER: (_calls.user,),
    UsageDimension.SESSION: (_calls.session_id,),
    UsageDimension.PRINCIPAL: (_calls.principal,),
}

_HALF = 10**6
"""On SQLite, where a sum of integers must fit into 64 bits, an amount is summed in two parts: in 10**-6 of a unit, and
the rest."""


def select(
    connection: sa.Connection, owner: Owner | AllOwners, query: UsageQuery, page: Page[tuple[str, ...]]
) -> list[UsageRow]:
    """A page of groups in the order of their keys.

    `page.after` is a row's key, with or without its currency behind it. Raises PageTokenInvalid for another grouping's.
    """
    columns = dict(_KEYS)
    if UsageDimension.DAY in query.group_by and query.time_zone != "UTC":
        columns[UsageDimension.DAY] = (_day(connection, owner, query),)
    keys = [column for dimension in query.group_by for column in columns[dimension]]
    grouped = [*keys, _calls.currency]
    statement = (
        sa.select(
            *(key.label(f"key_{place}") for place, key in enumerate(keys)),
            _calls.currency,
            sa.func.count(sa.distinct(_calls.root_run_id)).label("runs"),
            sa.func.count().label("calls"),
            sa.func.count(_calls.usd).label("priced"),
            *(sa.func.sum(_calls[name]).label(name) for name in TOKENS),
            *money_sums("usd", connection),
            *money_sums("amount", connection),
        )
        .where(*of_whom(model_calls, owner), *_filters(query))
        .group_by(*grouped)
        .order_by(*grouped)
        .limit(page.size)
    )
    if page.after is not None:
        statement = statement.where(_after(query, keys, page.after))
    return [
        _row(row, len(keys), connection) for row in connection.execute(statement, of_whose(owner)).mappings()
    ]


def _filters(query: UsageQuery) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if query.start_time is not None:
        conditions.append(_calls.start_time >= query.start_time)
    if query.end_time is not None:
        conditions.append(_calls.start_time < query.end_time)
    if query.agent_name:
        conditions.append(_calls.root_agent_name == query.agent_name)
    if query.session_id is not None:
        conditions.append(_calls.session_id == query.session_id)
    return conditions


def _day(connection: sa.Connection, owner: Owner | AllOwners, query: UsageQuery) -> sa.ColumnElement[str]:
    """The day of a call in the query's time zone, as YYYY-MM-DD."""
    time = _calls.start_time
    called = sa.select(time).where(*of_whom(model_calls, owner)).limit(1)
    first = connection.execute(called.order_by(time), of_whose(owner)).scalar()
    last = connection.execute(called.order_by(time.desc()), of_whose(owner)).scalar()
    if first is None or last is None:
        return _KEYS[UsageDimension.DAY][0]
    # No further than what is asked for, and a little beyond the last call: another one may be booked just now.
    first = first if query.start_time is None else max(first, query.start_time)
    last = (
        last + timedelta(days=1) if query.end_time is None else min(last, query.end_time) + timedelta(days=1)
    )
    changes = zones.offsets(query.time_zone, first, max(first, last))
    bounds = [time < at for at, _ in changes[1:]]
    if connection.dialect.name in MYSQL:
        shift = _by_time(bounds, [offset for _, offset in changes])
        return sa.func.date(sa.func.timestampadd(sa.text("SECOND"), shift, time), type_=sa.String())
    shift = _by_time(bounds, [f"{offset:+d} seconds" for _, offset in changes])
    # Whole seconds: SQLite would round the last half of a millisecond of a day up into the next one.
    second = sa.func.substr(sa.type_coerce(time, sa.String()), 1, 19)
    return sa.func.date(second, shift, type_=sa.String())


def _by_time(bounds: list[sa.ColumnElement[bool]], values: list[Any]) -> sa.ColumnElement[Any]:
    """The value before the first bound, between the first and the second, ..., after the last."""
    if not bounds:
        return sa.literal(values[0])
    return sa.case(*zip(bounds, values[:-1], strict=True), else_=values[-1])


def _after(
    query: UsageQuery, keys: list[sa.ColumnElement[Any]], after: tuple[str, ...]
) -> sa.ColumnElement[bool]:
    columns = [*keys, _calls.currency] if len(after) == len(keys) + 1 else keys
    if len(after) != len(columns):
        raise PageTokenInvalid
    if not columns:
        return sa.false()  # one group, and it has been shown
    places = [dimension for dimension in query.group_by for _ in _KEYS[dimension]]
    bounds = [
        sa.literal(value, column.type) for column, value in zip(columns, _values(places, after), strict=True)
    ]
    return sa.tuple_(*columns) > sa.tuple_(*bounds)


def _values(places: list[UsageDimension], after: tuple[str, ...]) -> list[object]:
    """What the texts of a key stand for; behind its places may be a currency."""
    values: list[object] = list(after)
    try:
        for place, dimension in enumerate(places):
            if dimension is UsageDimension.SESSION:
                values[place] = UUID(after[place])
            elif dimension is UsageDimension.DAY:
                values[place] = date.fromisoformat(after[place]).isoformat()
    except ValueError:
        raise PageTokenInvalid from None
    return values


def money_sums(name: str, connection: sa.Connection) -> list[sa.ColumnElement[Any]]:
    """The sum of a money column of the ledger, in one part or in two: for `money_of`."""
    if connection.dialect.name in MYSQL:
        return [sa.func.coalesce(sa.func.sum(_calls[name]), 0).label(name)]
    units = sa.type_coerce(_calls[name], sa.BigInteger())
    whole, rest = sa.func.sum(units // _HALF), sa.func.sum(units % _HALF)
    return [
        sa.func.coalesce(whole, 0).label(f"{name}_whole"),
        sa.func.coalesce(rest, 0).label(f"{name}_rest"),
    ]


def money_of(name: str, values: sa.RowMapping, connection: sa.Connection) -> Decimal:
    """What the columns of `money_sums` came to, to the last digit."""
    if connection.dialect.name in MYSQL:
        return Decimal(values[name])
    return unscaled(int(values[f"{name}_whole"]) * _HALF + int(values[f"{name}_rest"]))


def _row(values: sa.RowMapping, places: int, connection: sa.Connection) -> UsageRow:
    return UsageRow(
        key=tuple(str(values[f"key_{place}"]) for place in range(places)),
        runs=values["runs"],
        model_calls=values["calls"],
        unpriced_calls=values["calls"] - values["priced"],
        usage=TokenUsage(**{name: int(values[name]) for name in TOKENS}),
        usd=money_of("usd", values, connection),
        amount=money_of("amount", values, connection),
        currency=values["currency"],
    )
