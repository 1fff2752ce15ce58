"""Figures of several levels as one; buckets and slots, whatever is done with them in whatever order."""

import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from pydantic import ValidationError

from dragoman.config import PrincipalQuotas, QuotaSettings, Settings
from dragoman.quotas import (
    NO_QUOTAS,
    SLACK,
    QuotaRule,
    Quotas,
    QuotaTable,
    Slot,
    Slots,
    TokenBucket,
    TokenBuckets,
)


@pytest.mark.parametrize(
    ("own", "wider", "found"),
    [
        (NO_QUOTAS, NO_QUOTAS, NO_QUOTAS),
        (NO_QUOTAS, Quotas(1, 2, 3.0, 4), Quotas(1, 2, 3.0, 4)),
        (Quotas(max_runs=9), Quotas(1, 2, 3.0, 4), Quotas(9, 2, 3.0, 4)),
        # A rate without a burst does not get that of another rate.
        (Quotas(request_rate=0.5), Quotas(1, 2, 3.0, 400), Quotas(1, 2, 0.5, None)),
        (Quotas(request_burst=7), Quotas(1, 2, 3.0, 4), Quotas(1, 2, 3.0, 7)),
        (Quotas(request_rate=0.0), Quotas(request_rate=5.0), Quotas(request_rate=0.0)),
        (Quotas(budget_day=Decimal(0)), Quotas(budget_day=Decimal(5)), Quotas(budget_day=Decimal(0))),
    ],
)
def test_what_is_not_said_is_for_the_wider_level(own: Quotas, wider: Quotas, found: Quotas) -> None:
    assert own.over(wider) == found


@pytest.mark.parametrize(
    ("quotas", "burst"),
    [
        (Quotas(request_rate=20.0), 40),
        (Quotas(request_rate=0.1), 1),
        (Quotas(request_rate=1.2), 3),
        (Quotas(request_rate=20.0, request_burst=5), 5),
    ],
)
def test_a_burst_that_is_not_said(quotas: Quotas, burst: int) -> None:
    assert quotas.burst == burst


def test_the_first_rule_that_fits_counts_and_credentials_win() -> None:
    rules = [QuotaRule("batch-*", Quotas(max_runs=2)), QuotaRule("*", Quotas(max_runs=5, max_streams=6))]
    table = QuotaTable(Quotas(7, 8, 9.0), rules)
    assert table.of("batch-a", NO_QUOTAS) == Quotas(2, 8, 9.0)
    assert table.of("web", NO_QUOTAS) == Quotas(5, 6, 9.0)
    assert table.of("web", Quotas(max_runs=50)) == Quotas(50, 6, 9.0)
    assert QuotaTable().of("web", NO_QUOTAS) == NO_QUOTAS


def test_brackets_are_never_special() -> None:
    table = QuotaTable(NO_QUOTAS, [QuotaRule("team[ab]-?", Quotas(max_runs=2))])
    assert table.of("team[ab]-1", NO_QUOTAS) == Quotas(max_runs=2)
    assert table.of("teama-1", NO_QUOTAS) == NO_QUOTAS


def test_settings_become_a_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRAGOMAN_QUOTAS", '[{"principal": "batch-*", "max_runs": 2, "request_rate": 0.5}]')
    table = Settings(max_runs_per_principal=9, request_burst_per_principal=70).quota_table()
    assert table.of("web", NO_QUOTAS) == Quotas(9, None, 1000.0, 70)
    assert table.of("batch-x", NO_QUOTAS) == Quotas(2, None, 0.5, None)
    assert QuotaSettings.model_validate({"max_streams": 3, "budget_day": "1.50"}).quotas() == Quotas(
        max_streams=3, budget_day=Decimal("1.50")
    )


@pytest.mark.parametrize(
    "wrong",
    [{"max_runs": 0}, {"request_rate": -1}, {"request_burst": 0}, {"budget_day": 5}, {"principal": ""}],
)
def test_figures_that_are_none(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PrincipalQuotas.model_validate({"principal": "a", **wrong})


RATES = st.floats(0.01, 10_000)
BURSTS = st.integers(1, 500)


@given(RATES, BURSTS, st.floats(0, 1e7))
def test_a_bucket_gives_its_burst_and_then_as_it_was_told(rate: float, burst: int, now: float) -> None:
    bucket = TokenBucket()
    for _ in range(burst):
        assert bucket.wait(rate, burst, now) == 0
        bucket.take(rate, now)
    wait = bucket.wait(rate, burst, now)
    assert wait == pytest.approx(1 / rate, rel=0.01, abs=1e-5)
    assert bucket.wait(rate, burst, now + wait) == 0


class Buckets(RuleBasedStateMachine):
    """Beside a bucket that counts its tokens, as they are drawn in textbooks."""

    @initialize(rate=RATES, burst=BURSTS)
    def begin(self, rate: float, burst: int) -> None:
        self.now = 0.0
        self.quotas = Quotas(request_rate=rate, request_burst=burst)
        self.buckets = TokenBuckets(lambda: self.now)
        self.tokens = {"a": float(burst), "b": float(burst)}
        self.refused_until = {"a": 0.0, "b": 0.0}

    @rule(name=st.sampled_from("ab"))
    def call(self, name: str) -> None:
        wait = self.buckets.wait(name, self.quotas)
        if wait:
            assert self.tokens[name] < 1 + 1e-6
            self.refused_until[name] = max(self.refused_until[name], self.now + wait)
        else:
            assert self.tokens[name] > 1 - 1e-6 - SLACK * (self.quotas.request_rate or 0.0)
            self.buckets.take(name, self.quotas)
            self.tokens[name] -= 1
            self.refused_until[name] = 0.0  # the token that was promised is taken

    @rule(seconds=st.one_of(st.floats(0, 0.01), st.floats(0, 100)))
    def time_goes_by(self, seconds: float) -> None:
        self._go_on(seconds)

    @rule(name=st.sampled_from("ab"))
    def wait_as_told(self, name: str) -> None:
        self._go_on(max(self.refused_until[name] - self.now, 0))
        if self.refused_until[name]:
            assert self.buckets.wait(name, self.quotas) == 0
            self.refused_until[name] = 0.0

    def _go_on(self, seconds: float) -> None:
        self.now += seconds
        rate = self.quotas.request_rate or 0.0
        for name, tokens in self.tokens.items():
            self.tokens[name] = min(tokens + seconds * rate, float(self.quotas.burst))


Buckets.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestBuckets = Buckets.TestCase


def test_buckets_of_those_who_have_gone_are_forgotten() -> None:
    now = 0.0
    buckets = TokenBuckets(lambda: now)
    quotas = Quotas(request_rate=10.0, request_burst=10)
    for number in range(20 * TokenBuckets.KEPT):
        now += 0.01
        buckets.take(f"p{number}", quotas)
        assert len(buckets) <= TokenBuckets.KEPT
    assert buckets.wait(f"p{number}", quotas) == 0


def test_what_fills_slowly_is_not_in_the_way_of_what_fills_fast() -> None:
    """Two keys of one principal."""
    buckets = TokenBuckets(lambda: 0.0)
    slow, fast = Quotas(request_rate=0.001, request_burst=1), Quotas(request_rate=1000.0)
    buckets.take("a", slow)
    assert buckets.wait("a", slow) > 900
    assert buckets.wait("a", fast) == 0


def test_without_a_rate_nothing_is_counted() -> None:
    buckets = TokenBuckets(lambda: math.nan)
    for quotas in (NO_QUOTAS, Quotas(request_rate=0.0, request_burst=1)):
        for _ in range(3):
            buckets.take("a", quotas)
            assert buckets.wait("a", quotas) == 0
    assert not len(buckets)


class Places(RuleBasedStateMachine):
    """Slots are taken and released, some twice, in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.slots = Slots()
        self.open: list[tuple[str, Slot]] = []
        self.closed: list[Slot] = []

    @rule(name=st.sampled_from("abc"))
    def take(self, name: str) -> None:
        self.open.append((name, self.slots.take(name)))

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.open:
            _, slot = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
            slot.release()
            self.closed.append(slot)

    @rule()
    def release_again(self) -> None:
        for slot in self.closed:
            slot.release()

    @invariant()
    def counts(self) -> None:
        names = [name for name, _ in self.open]
        assert self.slots.total == len(names)
        assert self.slots.names() == set(names)
        assert [self.slots.of(name) for name in "abc"] == [names.count(name) for name in "abc"]


Places.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestPlaces = Places.TestCase
