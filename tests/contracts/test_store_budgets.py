"""What was spent, for budgets: over all users of a principal, of an agent, of both; exact, and split in two."""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Spending, SpendingQuery
from dragoman.records import ModelCall, Owner, RunCalls
from dragoman.storage import SqlStore

HOUR = timedelta(hours=1)
ALWAYS = (make.NOW - HOUR, make.NOW - HOUR, make.NOW + HOUR)


def query(
    principal: str = "",
    agent: str = "",
    times: tuple[datetime, datetime, datetime] = ALWAYS,
    own: frozenset[UUID] = frozenset(),
) -> SpendingQuery:
    start, split, end = times
    return SpendingQuery(principal, agent, "ZAR", start, split, end, own)


async def spend(
    store: SqlStore, owner: Owner, agent: str, *calls: tuple[str | None, timedelta]
) -> list[ModelCall]:
    """A run of the owner's with calls that cost so much and began so long after NOW."""
    session = make.session(owner, agent)
    run = make.run(session)
    made = [
        replace(
            make.call(run, priced=None if amount is None else make.cost(Decimal(0), Decimal(amount))),
            start_time=make.NOW + after,
        )
        for amount, after in calls
    ]
    await store.start_run(run, session)
    await store.end_run(make.end(run, calls=made))
    return made


async def test_whose_spending_it_is(store: SqlStore) -> None:
    now = timedelta(0)
    await spend(store, Owner("one", "a"), "x", ("1", now), (None, now))
    await spend(store, Owner("one", "b"), "x", ("2", now))
    await spend(store, Owner("one"), "y", ("4", now))
    await spend(store, Owner("two", "a"), "x", ("8", now))
    await spend(store, Owner("ONE"), "X", ("16", now))
    asked = [query("one"), query(agent="x"), query("one", "x"), query("two", "y"), query("three")]
    found = await store.spending(asked)
    assert [each.recent for each in found] == [Decimal(sum_) for sum_ in (7, 11, 3, 0, 0)]
    assert {each.settled for each in found} == {Decimal(0)}
    assert await store.spending([]) == []


async def test_calls_of_a_member_are_those_of_the_team(store: SqlStore) -> None:
    session = make.session(agent_name="team")
    run = make.run(session)
    one = make.cost(Decimal(0), Decimal(1))
    member = replace(
        make.call(run, priced=one), agent_name="member", run_id=ids.new_id(), parent_run_id=run.id
    )
    await store.start_run(run, session)
    await store.end_run(make.end(run, calls=[make.call(run, priced=one), member]))
    team, alone = await store.spending([query(agent="team"), query(agent="member")])
    assert (team.recent, alone.recent) == (Decimal(2), Decimal(0))


async def test_another_currency_is_not_counted(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    await store.end_run(
        make.end(run, calls=[make.call(run, priced=make.cost(Decimal(1), Decimal(5), "EUR"))])
    )
    [found] = await store.spending([query("service")])
    assert found == Spending(Decimal(0), Decimal(0), {})


shares = st.decimals(Decimal(0), Decimal(9_000_000), places=12)


@on_one_fixture()
@given(
    spent=st.lists(
        st.tuples(st.none() | shares, st.integers(-70, 70), st.booleans()), min_size=1, max_size=20
    ),
    bounds=st.tuples(st.integers(-70, 70), st.integers(-70, 70), st.integers(-70, 70)).map(sorted),
)
async def test_sums_are_exact(
    store: SqlStore, spent: list[tuple[Decimal | None, int, bool]], bounds: list[int]
) -> None:
    """Each call: what it cost, how many minutes after NOW it began, whether it is told by itself."""
    owner = Owner(str(ids.new_id()))
    made: list[ModelCall] = []
    for amount, minutes, _ in spent:
        text = None if amount is None else str(amount)
        made += await spend(store, owner, "x", (text, timedelta(minutes=minutes)))
    own = {call.id: amount or Decimal(0) for call, (amount, _, told) in zip(made, spent, strict=True) if told}
    start, split, end = bounds
    rest = [(amount or Decimal(0), minutes) for amount, minutes, told in spent if not told]
    first, middle, last = (make.NOW + timedelta(minutes=minutes) for minutes in bounds)
    unknown = ids.new_id()
    asked = query(owner.principal, times=(first, middle, last), own=frozenset({*own, unknown}))
    [found] = await store.spending([asked])
    assert found.settled == sum((amount for amount, at in rest if start <= at < split), Decimal(0))
    assert found.recent == sum((amount for amount, at in rest if split <= at < end), Decimal(0))
    assert found.own == own


async def test_what_a_running_run_has_booked_counts(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    made = make.call(run, priced=make.cost(Decimal(0), Decimal(3)))
    await store.append_events([], [RunCalls(run.id, session.id, run.owner, run.agent_name, "ZAR", (made,))])
    [found] = await store.spending([query("service")])
    assert found.recent == 3


async def test_many_calls_can_be_told_one_by_one(store: SqlStore) -> None:
    made = await spend(store, make.ALICE, "x", *[("1", timedelta(0))] * 600, ("7", timedelta(0)))
    own = frozenset({*(call.id for call in made[:-1]), *(ids.new_id() for _ in range(5000))})
    [found] = await store.spending([query("service", own=own)])
    assert found.recent == 7
    assert len(found.own) == 600


async def test_months_are_summed_up_day_by_day(store: SqlStore) -> None:
    days = [timedelta(days=-day, microseconds=offset) for day in range(40) for offset in (-1, 0)]
    await spend(store, make.ALICE, "x", *[("1", day) for day in days])
    for start, split in ((30, 0), (12, 5), (1, 1)):
        times = (make.NOW - timedelta(days=start), make.NOW - timedelta(days=split), make.NOW)
        [found] = await store.spending([query("service", times=times)])
        assert found.settled == 2 * (start - split)
        assert found.recent == 2 * split
