"""The ledger: every field is kept, and sums are exact to the last digit."""

from dataclasses import fields, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Page, UsageDimension, UsageQuery, UsageRow
from dragoman.errors import PageTokenInvalid
from dragoman.records import CallStatus, ModelCall, Owner, Run, TokenUsage
from dragoman.storage import SqlStore
from dragoman.storage.tables import model_calls

EVERY: Page[tuple[str, ...]] = Page(1000)

calls = st.builds(
    ModelCall,
    id=st.builds(ids.new_id),
    run_id=st.builds(ids.new_id),
    parent_run_id=st.none() | st.builds(ids.new_id),
    agent_name=make.names,
    kind=st.sampled_from(["model", "parser_model", "memory_model"]),
    provider=make.names,
    model=make.names,
    usage=make.usages,
    cost=st.none() | make.costs,
    status=st.sampled_from(CallStatus),
    stop_reason=make.names,
    start_time=make.moments,
    duration=make.durations,
    time_to_first_token=st.none() | make.durations,
)


async def ended(store: SqlStore, *spent: ModelCall, run: Run | None = None) -> Run:
    """A run in a new session that has made the calls."""
    session = make.session() if run is None else replace(make.session(run.owner), id=run.session_id)
    run = make.run(session) if run is None else run
    await store.start_run(run, replace(session, agent_name=run.agent_name))
    await store.end_run(make.end(run, calls=spent))
    return run


@on_one_fixture()
@given(call=calls)
async def test_the_ledger_keeps_every_field(store: SqlStore, call: ModelCall) -> None:
    run = await ended(store, call)
    row = await store._database.read(
        lambda c: c.execute(sa.select(model_calls).where(model_calls.c.id == call.id)).mappings().one()
    )
    expected: dict[str, object] = {
        field.name: getattr(call, field.name)
        for field in fields(call)
        if field.name not in ("usage", "cost", "duration", "time_to_first_token", "failure")
    }
    expected |= {field.name: getattr(call.usage, field.name) for field in fields(call.usage)}
    expected |= {
        "principal": "service",
        "user": "alice",
        "session_id": run.session_id,
        "root_run_id": run.id,
        "root_agent_name": run.agent_name,
        "duration_us": call.duration // timedelta(microseconds=1),
        "time_to_first_token_us": call.time_to_first_token
        and call.time_to_first_token // timedelta(microseconds=1),
    }
    if call.cost is None:
        unpriced = ["usd", "amount", "price_version", "exchange_rate", "rate_date", "unit_prices"]
        expected |= {**dict.fromkeys(unpriced), "currency": "ZAR"}
    else:
        expected |= {field.name: getattr(call.cost, field.name) for field in fields(call.cost)}
        expected["exchange_rate"] = str(call.cost.exchange_rate)
        expected["unit_prices"] = {name: str(price) for name, price in call.cost.unit_prices.items()}
    if call.time_to_first_token == timedelta(0):
        expected["time_to_first_token_us"] = 0
    assert dict(row) == expected


# Thirty calls of one run must not exceed what a run's total on SQLite holds.
shares = st.decimals(Decimal(-300_000), Decimal(300_000), places=12)


@on_one_fixture()
@given(spent=st.lists(st.none() | st.tuples(shares, shares, make.usages), min_size=1, max_size=30))
async def test_sums_are_exact(
    store: SqlStore, spent: list[tuple[Decimal, Decimal, TokenUsage] | None]
) -> None:
    owner = Owner(str(ids.new_id()))
    session = make.session(owner)
    run = make.run(session)
    made = []
    for item in spent:
        call = make.call(run)
        if item is not None:
            call = replace(call, cost=make.cost(item[0], item[1]), usage=item[2])
        made.append(call)
    await ended(store, *made, run=run)
    [row] = await store.query_usage(owner, UsageQuery(), EVERY)
    priced = [item for item in spent if item is not None]
    assert Fraction(row.usd) == sum(Fraction(usd) for usd, _, _ in priced)
    assert Fraction(row.amount) == sum(Fraction(amount) for _, amount, _ in priced)
    assert (row.runs, row.model_calls, row.unpriced_calls) == (1, len(spent), len(spent) - len(priced))
    assert row.usage == sum((call.usage for call in made), TokenUsage())
    assert (row.key, row.currency) == ((), "ZAR")


async def test_a_sum_that_does_not_fit_into_64_bits(store: SqlStore) -> None:
    """9 million to the 12th place is nearly all that one row on SQLite holds; their sum is many times that."""
    amount = Decimal("8999999.999999999999")
    for _ in range(50):
        run = make.run(make.session())
        await ended(store, make.call(run, priced=make.cost(amount, -amount)), run=run)
    [row] = await store.query_usage(make.ALICE, UsageQuery(), EVERY)
    assert (row.usd, row.amount) == (amount * 50, amount * -50)


@pytest.fixture
async def filled(store: SqlStore) -> list[tuple[Run, ModelCall]]:
    """A ledger of two agents, a member, two models, three days and two sessions; every call costs a different power."""
    entries: list[tuple[Run, ModelCall]] = []
    for number in range(12):
        agent = ("one", "two")[number % 2]
        day = make.NOW + timedelta(days=number % 3)
        session = make.session(agent_name=agent, time=day)
        run = make.run(session, day)
        usd = Decimal(2**number).scaleb(-9)
        own = make.call(run, priced=make.cost(usd, usd * 18))
        member = replace(
            make.call(run),
            run_id=ids.new_id(),
            parent_run_id=run.id,
            agent_name="member",
            model=("claude-x", "claude-y")[number % 2],
            start_time=day + timedelta(hours=1),
        )
        await ended(store, own, member, run=run)
        entries += [(run, own), (run, member)]
    return entries


def expected_rows(
    entries: list[tuple[Run, ModelCall]], group_by: tuple[UsageDimension, ...]
) -> list[UsageRow]:
    """The sums, computed in Python."""

    def key(run: Run, call: ModelCall) -> tuple[str, ...]:
        places: dict[UsageDimension, tuple[str, ...]] = {
            UsageDimension.DAY: (call.start_time.date().isoformat(),),
            UsageDimension.AGENT: (run.agent_name,),
            UsageDimension.MEMBER: (call.agent_name,),
            UsageDimension.MODEL: (call.provider, call.model),
            UsageDimension.USER: (run.owner.user,),
            UsageDimension.SESSION: (str(run.session_id),),
            UsageDimension.PRINCIPAL: (run.owner.principal,),
        }
        return tuple(text for dimension in group_by for text in places[dimension])

    groups: dict[tuple[str, ...], list[tuple[Run, ModelCall]]] = {}
    for run, call in entries:
        groups.setdefault(key(run, call), []).append((run, call))
    return [
        UsageRow(
            key=group,
            runs=len({run.id for run, _ in members}),
            model_calls=len(members),
            unpriced_calls=sum(call.cost is None for _, call in members),
            usage=sum((call.usage for _, call in members), TokenUsage()),
            usd=sum((call.cost.usd for _, call in members if call.cost), Decimal(0)),
            amount=sum((call.cost.amount for _, call in members if call.cost), Decimal(0)),
            currency="ZAR",
        )
        for group, members in sorted(groups.items())
    ]


GROUPINGS = [
    (),
    *((dimension,) for dimension in UsageDimension),
    (UsageDimension.AGENT, UsageDimension.DAY),
    (UsageDimension.MODEL, UsageDimension.MEMBER),
    (UsageDimension.DAY, UsageDimension.SESSION, UsageDimension.MODEL),
    tuple(UsageDimension),
]


async def test_groups_by_any_dimensions_in_pages(
    store: SqlStore, filled: list[tuple[Run, ModelCall]]
) -> None:
    for group_by in GROUPINGS:
        expected = expected_rows(filled, group_by)
        query = UsageQuery(group_by)
        assert await store.query_usage(make.ALICE, query, EVERY) == expected
        for with_currency in (False, True):
            found: list[UsageRow] = []
            after: tuple[str, ...] | None = None
            while page := await store.query_usage(make.ALICE, query, Page(5, after)):
                assert len(page) <= 5
                found += page
                last = page[-1]
                after = (*last.key, last.currency) if with_currency else last.key
            assert found == expected


@on_one_fixture()
@given(group_by=st.lists(st.sampled_from(UsageDimension), unique=True).map(tuple), size=st.integers(1, 30))
async def test_any_dimensions_in_any_order(
    store: SqlStore, filled: list[tuple[Run, ModelCall]], group_by: tuple[UsageDimension, ...], size: int
) -> None:
    found: list[UsageRow] = []
    after: tuple[str, ...] | None = None
    while page := await store.query_usage(make.ALICE, UsageQuery(group_by), Page(size, after)):
        found += page
        after = (*page[-1].key, page[-1].currency)
    assert found == expected_rows(filled, group_by)


async def test_filters_narrow_what_is_summed(store: SqlStore, filled: list[tuple[Run, ModelCall]]) -> None:
    moment = make.NOW + timedelta(days=1)
    run = filled[0][0]
    cases = [
        (UsageQuery(start_time=moment), [e for e in filled if e[1].start_time >= moment]),
        (UsageQuery(end_time=moment), [e for e in filled if e[1].start_time < moment]),
        (
            UsageQuery(start_time=moment, end_time=moment + timedelta(microseconds=1)),
            [e for e in filled if e[1].start_time == moment],
        ),
        (UsageQuery(agent_name="one"), [e for e in filled if e[0].agent_name == "one"]),
        (UsageQuery(session_id=run.session_id), filled[:2]),
        (UsageQuery(agent_name="two", session_id=run.session_id), []),
        (UsageQuery(agent_name="member"), []),
    ]
    for query, entries in cases:
        assert await store.query_usage(make.ALICE, query, EVERY) == expected_rows(entries, ())


async def test_another_currency_is_another_row_behind_the_same_key(store: SqlStore) -> None:
    for currency in ("ZAR", "EUR", "ZAR"):
        session = make.session()
        run = make.run(session)
        call = make.call(run, priced=make.cost(Decimal(1), Decimal(2), currency))
        await ended(store, call, run=run)
    query = UsageQuery((UsageDimension.AGENT,))
    rows = await store.query_usage(make.ALICE, query, EVERY)
    assert [(row.key, row.currency, row.amount) for row in rows] == [
        (("example",), "EUR", Decimal(2)),
        (("example",), "ZAR", Decimal(4)),
    ]
    first = await store.query_usage(make.ALICE, query, Page(1))
    rest = await store.query_usage(make.ALICE, query, Page(1, (*first[0].key, first[0].currency)))
    assert [*first, *rest] == rows


@pytest.mark.parametrize(
    ("group_by", "after"),
    [
        ((UsageDimension.SESSION,), ("not a uuid",)),
        ((UsageDimension.DAY,), ("yesterday",)),
        ((UsageDimension.MODEL,), ("anthropic",)),
        ((), ("one", "two")),
    ],
)
async def test_a_key_of_another_grouping_is_refused(
    store: SqlStore, group_by: tuple[UsageDimension, ...], after: tuple[str, ...]
) -> None:
    with pytest.raises(PageTokenInvalid):
        await store.query_usage(make.ALICE, UsageQuery(group_by), Page(5, after))


async def test_days_are_those_of_utc(store: SqlStore) -> None:
    midnight = datetime.combine(date(2026, 5, 1), datetime.min.time(), make.NOW.tzinfo)
    run = make.run(make.session())
    times = [midnight - timedelta(microseconds=1), midnight]
    await ended(store, *(replace(make.call(run), start_time=time) for time in times), run=run)
    rows = await store.query_usage(make.ALICE, UsageQuery((UsageDimension.DAY,)), EVERY)
    assert [row.key for row in rows] == [("2026-04-30",), ("2026-05-01",)]
