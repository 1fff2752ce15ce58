"""The arithmetic of budgets: periods that follow on each other, and a figure that is the ledger's plus what is on its way."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from dragoman import ids
from dragoman.engine.budgets import SETTLED, SETTLED_FOR, Account, Subject, window
from dragoman.engine.ports import BudgetPeriod, Spending, SpendingQuery
from dragoman.records import Cost, ModelCall

from .engine_fakes import call

DAY, MONTH = BudgetPeriod.DAY, BudgetPeriod.MONTH
ZERO = Decimal(0)
YEAR = 31_557_600


@pytest.mark.parametrize(
    ("period", "zone", "now", "start", "end"),
    [
        (DAY, "UTC", "2026-03-04T00:00:00", "2026-03-04T00:00", "2026-03-05T00:00"),
        (DAY, "UTC", "2026-03-04T23:59:59", "2026-03-04T00:00", "2026-03-05T00:00"),
        (MONTH, "UTC", "2026-12-31T23:59:59", "2026-12-01T00:00", "2027-01-01T00:00"),
        (MONTH, "Africa/Johannesburg", "2026-02-28T22:00:00", "2026-02-28T22:00", "2026-03-31T22:00"),
        (DAY, "Europe/Berlin", "2026-03-29T12:00:00", "2026-03-28T23:00", "2026-03-29T22:00"),
        (DAY, "Europe/Berlin", "2026-10-25T12:00:00", "2026-10-24T22:00", "2026-10-25T23:00"),
        (DAY, "America/Sao_Paulo", "2018-11-04T03:00:00", "2018-11-04T03:00", "2018-11-05T02:00"),
        (DAY, "Pacific/Apia", "2011-12-30T10:00:00", "2011-12-30T10:00", "2011-12-31T10:00"),
    ],
)
def test_periods(period: BudgetPeriod, zone: str, now: str, start: str, end: str) -> None:
    found = window(period, zone, datetime.fromisoformat(now).replace(tzinfo=UTC))
    assert [f"{moment:%Y-%m-%dT%H:%M}" for moment in found] == [start, end]


@given(
    period=st.sampled_from(BudgetPeriod),
    zone=st.sampled_from(["UTC", "Europe/Berlin", "America/St_Johns", "Pacific/Apia", "Africa/Cairo"]),
    now=st.integers(20 * YEAR, 110 * YEAR).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
    | st.integers(-7200, 7200).map(
        lambda seconds: datetime(2010, 11, 7, 2, 31, tzinfo=UTC) + timedelta(seconds=seconds)
    ),
)
def test_one_period_begins_where_the_other_ends(period: BudgetPeriod, zone: str, now: datetime) -> None:
    start, end = window(period, zone, now)
    assert start <= now < end
    assert window(period, zone, end)[0] == end
    assert window(period, zone, start) == (start, end)
    assert window(period, zone, start - timedelta(microseconds=1))[1] == start
    if zone in ("UTC", "Europe/Berlin"):
        same = {moment.astimezone(ZoneInfo(zone)).date() for moment in (start, end - timedelta(seconds=1))}
        assert len(same) == 1 or period is MONTH


def cost(amount: int) -> Cost:
    value = Decimal(amount)
    return Cost(value, value, "ZAR", "test", Decimal(1), datetime(2026, 1, 1, tzinfo=UTC).date(), {})


class Ledger(RuleBasedStateMachine):
    """Calls of this process and of others, booked sooner or later, over several days, and an account that follows."""

    @initialize()
    def begin(self) -> None:
        self.now = datetime(2026, 3, 4, 12, tzinfo=UTC)
        self.account = Account(Subject("local", "", DAY, "UTC"), "ZAR")
        self.booked: dict[UUID, ModelCall] = {}
        self.own: dict[UUID, ModelCall] = {}
        self.under_way: set[UUID] = set()
        self.asked: SpendingQuery | None = None
        self.read()

    @rule(minutes=st.sampled_from([0, 1, 5, 9, 11, 30, 61, 700]))
    def wait(self, minutes: int) -> None:
        # Calls do not take longer than the account believes; those of others are booked by then.
        if minutes >= SETTLED / timedelta(minutes=1):
            for call_id in list(self.under_way):
                self.end(call_id, 1)
            self.flush()
        self.now += timedelta(minutes=minutes)

    @rule(amount=st.integers(0, 9))
    def others_spend(self, amount: int) -> None:
        made = replace(call(ids.new_id()), cost=cost(amount), start_time=self.now)
        self.booked[made.id] = made

    @rule(amount=st.integers(0, 9))
    def spend(self, amount: int) -> None:
        made = replace(call(ids.new_id()), cost=cost(amount), start_time=self.now)
        self.own[made.id] = made
        self.under_way.add(made.id)
        self.account.note(made, under_way=True)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), more=st.integers(0, 9))
    def spend_more(self, data: st.DataObject, more: int) -> None:
        call_id = data.draw(st.sampled_from(sorted(self.under_way)))
        self.own[call_id] = replace(self.own[call_id], cost=cost(int(self.amount(self.own[call_id])) + more))
        self.account.note(self.own[call_id], under_way=True)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), more=st.integers(0, 9))
    def call_ends(self, data: st.DataObject, more: int) -> None:
        self.end(data.draw(st.sampled_from(sorted(self.under_way))), more)

    def end(self, call_id: UUID, more: int) -> None:
        self.under_way.discard(call_id)
        self.own[call_id] = replace(self.own[call_id], cost=cost(int(self.amount(self.own[call_id])) + more))
        self.account.note(self.own[call_id], under_way=False)

    @rule()
    def flush(self) -> None:
        """What is known here is booked."""
        self.booked |= self.own

    @rule()
    def run_ends(self) -> None:
        """Its end books all of its calls, and then it is heard of no more."""
        self.flush()
        self.account.release(list(self.own))
        self.under_way.clear()

    @rule()
    def read(self) -> None:
        query = self.account.query(self.now)
        assert self.account.take(query, self.answer(query), self.now)
        assert not self.account.is_stale(self.now, timedelta(seconds=1))

    @rule(amount=st.integers(0, 9))
    def a_call_becomes_known_while_the_ledger_is_read(self, amount: int) -> None:
        query = self.account.query(self.now)
        self.spend(amount)
        self.flush()
        assert not self.account.take(query, self.answer(query), self.now)

    def answer(self, query: SpendingQuery) -> Spending:
        rest = [each for each in self.booked.values() if each.id not in query.own]
        settled = [each for each in rest if query.start_time <= each.start_time < query.split_time]
        recent = [each for each in rest if query.split_time <= each.start_time < query.end_time]
        return Spending(
            sum(map(self.amount, settled), ZERO),
            sum(map(self.amount, recent), ZERO),
            {each.id: self.amount(each) for each in self.booked.values() if each.id in query.own},
        )

    @staticmethod
    def amount(made: ModelCall) -> Decimal:
        assert made.cost is not None
        return made.cost.amount

    def spent(self, calls: dict[UUID, ModelCall]) -> Decimal:
        start, end = window(DAY, "UTC", self.now)
        return sum((self.amount(each) for each in calls.values() if start <= each.start_time < end), ZERO)

    @invariant()
    def own_calls_count_at_once(self) -> None:
        if hasattr(self, "account"):
            own = self.spent(self.own)
            everything = self.spent(self.booked | self.own)
            assert own <= self.account.spent(self.now) <= everything

    @rule()
    def after_a_reading_it_is_exact(self) -> None:
        self.read()
        assert self.account.spent(self.now) == self.spent(self.booked | self.own)


TestLedger = Ledger.TestCase


def test_what_is_settled_is_read_once_an_hour() -> None:
    account = Account(Subject("local", "", MONTH, "UTC"), "ZAR")
    now = datetime(2026, 3, 20, 12, tzinfo=UTC)
    first = account.query(now)
    assert (first.start_time, first.split_time) == (datetime(2026, 3, 1, tzinfo=UTC), now - SETTLED)
    account.take(first, Spending(Decimal(5), Decimal(1), {}), now)
    now += timedelta(minutes=1)
    second = account.query(now)
    assert (second.start_time, second.split_time) == (first.split_time, now - SETTLED)
    account.take(second, Spending(Decimal(1), Decimal(2), {}), now)
    assert account.spent(now) == Decimal(8)
    now += SETTLED_FOR
    assert account.query(now).start_time == first.start_time


def test_a_call_that_the_ledger_never_gets_is_forgotten_in_the_end() -> None:
    account = Account(Subject("local", "", MONTH, "UTC"), "ZAR")
    now = datetime(2026, 3, 20, 12, tzinfo=UTC)
    made = replace(call(ids.new_id()), cost=cost(3), start_time=now)
    account.note(made, under_way=True)
    account.release([made.id])
    for wait, expected in ((timedelta(0), 3), (SETTLED_FOR, 0)):
        account.take(account.query(now + wait), Spending(ZERO, ZERO, {}), now + wait)
        assert account.spent(now + wait) == Decimal(expected)


def test_a_clock_that_is_set_back_makes_no_figure_fresh() -> None:
    account = Account(Subject("local", "", DAY, "UTC"), "ZAR")
    now = datetime(2026, 3, 20, 12, tzinfo=UTC)
    account.take(account.query(now), Spending(Decimal(4), ZERO, {}), now)
    assert account.is_stale(now - timedelta(minutes=1), timedelta(seconds=1))
    assert account.spent(now - timedelta(days=1)) == ZERO
