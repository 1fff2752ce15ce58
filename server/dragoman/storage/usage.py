"""Usage: exact sums over the ledger.

A page begins after a key, so calls of groups that have been shown are not summed again. A group is of one currency: when
the reporting currency has changed in between, what was priced before stands in a row of its own, behind the same key.
"""

from datetime import date
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import Page, UsageDimension, UsageQuery, UsageRow
from dragoman.errors import PageTokenInvalid
from dragoman.records import Owner, TokenUsage
from dragoman.storage.rows import of, owned
from dragoman.storage.tables import TOKENS, model_calls
from dragoman.storage.types import MYSQL, unscaled

_calls = model_calls.c

_DAY = sa.func.date(_calls.start_time, type_=sa.String())

_KEYS: dict[UsageDimension, tuple[sa.ColumnElement[Any], ...]] = {
    UsageDimension.DAY: (_DAY,),
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
    connection: sa.Connection, owner: Owner, query: UsageQuery, page: Page[tuple[str, ...]]
) -> list[UsageRow]:
    """A page of groups in the order of their keys.

    `page.after` is a row's key, with or without its currency behind it. Raises PageTokenInvalid for another grouping's.
    """
    keys = [column for dimension in query.group_by for column in _KEYS[dimension]]
    grouped = [*keys, _calls.currency]
    exact = connection.dialect.name in MYSQL
    statement = (
        sa.select(
            *(key.label(f"key_{place}") for place, key in enumerate(keys)),
            _calls.currency,
            sa.func.count(sa.distinct(_calls.root_run_id)).label("runs"),
            sa.func.count().label("calls"),
            sa.func.count(_calls.usd).label("priced"),
            *(sa.func.sum(_calls[name]).label(name) for name in TOKENS),
            *_sums("usd", exact),
            *_sums("amount", exact),
        )
        .where(owned(model_calls), *_filters(query))
        .group_by(*grouped)
        .order_by(*grouped)
        .limit(page.size)
    )
    if page.after is not None:
        statement = statement.where(_after(keys, page.after))
    return [_row(row, len(keys), exact) for row in connection.execute(statement, of(owner)).mappings()]


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


def _after(keys: list[sa.ColumnElement[Any]], after: tuple[str, ...]) -> sa.ColumnElement[bool]:
    columns = [*keys, _calls.currency] if len(after) == len(keys) + 1 else keys
    if len(after) != len(columns):
        raise PageTokenInvalid
    if not columns:
        return sa.false()  # one group, and it has been shown
    bounds = [
        sa.literal(_bound(column, text), column.type) for column, text in zip(columns, after, strict=True)
    ]
    return sa.tuple_(*columns) > sa.tuple_(*bounds)


def _bound(column: sa.ColumnElement[Any], text: str) -> object:
    """The value that a key's text stands for."""
    try:
        if column is _calls.session_id:
            return UUID(text)
        if column is _DAY:
            return date.fromisoformat(text).isoformat()
    except ValueError:
        raise PageTokenInvalid from None
    return text


def _sums(name: str, exact: bool) -> list[sa.ColumnElement[Any]]:
    """The sum of a money column, in one part or in two."""
    if exact:
        return [sa.func.coalesce(sa.func.sum(_calls[name]), 0).label(name)]
    units = sa.type_coerce(_calls[name], sa.BigInteger())
    whole, rest = sa.func.sum(units // _HALF), sa.func.sum(units % _HALF)
    return [
        sa.func.coalesce(whole, 0).label(f"{name}_whole"),
        sa.func.coalesce(rest, 0).label(f"{name}_rest"),
    ]


def _row(values: sa.RowMapping, places: int, exact: bool) -> UsageRow:
    def total(name: str) -> Any:
        if exact:
            return values[name]
        return unscaled(int(values[f"{name}_whole"]) * _HALF + int(values[f"{name}_rest"]))

    return UsageRow(
        key=tuple(str(values[f"key_{place}"]) for place in range(places)),
        runs=values["runs"],
        model_calls=values["calls"],
        unpriced_calls=values["calls"] - values["priced"],
        usage=TokenUsage(**{name: int(values[name]) for name in TOKENS}),
        usd=total("usd"),
        amount=total("amount"),
        currency=values["currency"],
    )
