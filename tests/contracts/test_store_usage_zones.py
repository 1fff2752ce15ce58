"""Days in any time zone: the same as Python counts them, whatever the clocks there do, page by page."""

from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Page, UsageDimension, UsageQuery, UsageRow
from dragoman.records import Owner
from dragoman.storage import SqlStore

DAY, AGENT = UsageDimension.DAY, UsageDimension.AGENT
EVERY: Page[tuple[str, ...]] = Page(1000)
SECOND = timedelta(seconds=1)

# Where clocks do something remarkable, and when, in UTC.
ODD = [
    ("Africa/Johannesburg", "2026-03-04T22:00"),
    ("Europe/Berlin", "2026-03-29T01:00"),
    ("Europe/Berlin", "2026-10-25T01:00"),
    ("Europe/Berlin", "2026-12-31T23:00"),
    ("America/New_York", "2026-11-01T06:00"),
    ("America/Sao_Paulo", "2018-11-04T03:00"),  # its midnight was skipped
    ("America/St_Johns", "2010-11-07T02:31"),  # at one past midnight back to 23:01: a day begins twice
    ("Pacific/Apia", "2011-12-30T10:00"),  # a whole day was skipped
    ("Australia/Lord_Howe", "2026-04-04T15:00"),  # by half an hour
    ("Asia/Kathmandu", "2026-03-04T18:15"),
    ("Africa/Casablanca", "2026-02-15T02:00"),
    ("Pacific/Kiritimati", "2026-03-04T10:00"),
    ("UTC", "2026-03-05T00:00"),
]

near = st.integers(-3 * 86400, 3 * 86400).map(lambda seconds: seconds * SECOND) | st.sampled_from(
    [timedelta(0), -timedelta(microseconds=1), timedelta(microseconds=1), SECOND - timedelta(microseconds=1)]
)


async def ledger(store: SqlStore, times: list[datetime], agents: tuple[str, ...] = ("example",)) -> Owner:
    """A new owner's, with calls at these times by these agents in turn."""
    owner = Owner(str(ids.new_id()))
    for place, agent in enumerate(agents):
        session = make.session(owner, agent)
        run = make.run(session)
        calls = [replace(make.call(run), start_time=time) for time in times[place :: len(agents)]]
        await store.start_run(run, session)
        await store.end_run(make.end(run, calls=calls))
    return owner


async def pages(store: SqlStore, owner: Owner, query: UsageQuery, size: int) -> list[UsageRow]:
    found: list[UsageRow] = []
    after: tuple[str, ...] | None = None
    while page := await store.query_usage(owner, query, Page(size, after)):
        found += page
        after = (*page[-1].key, page[-1].currency)
    return found


@on_one_fixture(60)
@given(
    odd=st.sampled_from(ODD),
    spans=st.lists(near, min_size=1, max_size=12),
    bounds=st.tuples(st.none() | near, st.none() | near),
    size=st.integers(1, 5),
)
async def test_days_are_those_of_the_zone(
    store: SqlStore,
    odd: tuple[str, str],
    spans: list[timedelta],
    bounds: tuple[timedelta | None, timedelta | None],
    size: int,
) -> None:
    name, moment = odd
    at = datetime.fromisoformat(moment).replace(tzinfo=UTC)
    times = [at + span for span in spans]
    start, end = (None if span is None else at + span for span in bounds)
    owner = await ledger(store, times)
    wanted = [time for time in times if (start is None or time >= start) and (end is None or time < end)]
    expected = Counter(time.astimezone(ZoneInfo(name)).date().isoformat() for time in wanted)
    query = UsageQuery((DAY,), start_time=start, end_time=end, time_zone=name)
    rows = await pages(store, owner, query, size)
    assert [(row.key, row.model_calls) for row in rows] == [
        ((day,), n) for day, n in sorted(expected.items())
    ]


async def test_years_of_days_beside_another_dimension(store: SqlStore) -> None:
    first = datetime(2019, 1, 1, 4, 59, 59, 999999, tzinfo=UTC)
    times = [first + timedelta(days=13 * number, hours=number % 24) for number in range(200)]
    owner = await ledger(store, times, ("one", "two", "three"))
    zone = "America/New_York"
    expected = Counter(
        (("one", "two", "three")[place % 3], time.astimezone(ZoneInfo(zone)).date().isoformat())
        for place, time in enumerate(times)
    )
    for group_by in ((AGENT, DAY), (DAY, AGENT)):
        rows = await pages(store, owner, UsageQuery(group_by, time_zone=zone), 17)
        keys = [row.key if group_by[0] is AGENT else row.key[::-1] for row in rows]
        assert Counter(keys) == expected
        assert [row.key for row in rows] == sorted(row.key for row in rows)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kathmandu"])
async def test_without_calls_there_are_no_days(store: SqlStore, zone: str) -> None:
    owner = Owner(str(ids.new_id()))
    assert await store.query_usage(owner, UsageQuery((DAY,), time_zone=zone), EVERY) == []
