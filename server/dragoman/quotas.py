"""How much a caller may do at once, and how often: the figures, and what counts.

    Quotas        figures of one level: of the server, of `[[quotas]]`, of credentials; None is for the next level to say
    QuotaTable    the levels, the narrowest first, as the figures that hold for one call
    TokenBucket   calls a second, with a burst
    Slots         what is open at a moment, by principal

All of it counts per principal and in this process alone. Figures of a key hold for the calls that are made with it. What is
counted against them is all that the principal has open here, whichever of its keys it came by; calls a second are counted
with those of the same figures.

Everything is used on one event loop and waits for nothing, so that between looking and counting nobody else gets a turn.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from functools import lru_cache
from typing import Final

from dragoman.patterns import matches

CACHED: Final = 4096
"""Callers whose figures are kept ready."""

SLACK: Final = 1e-6
"""Seconds by which a token may come early: who waits as long as it was told is not sent away for a rounding error."""


@dataclass(frozen=True, slots=True)
class Quotas:
    """What somebody may do; None: what the next wider level says, in the end anything."""

    max_runs: int | None = None
    """Runs under way or waiting for their turn."""
    max_streams: int | None = None
    """Open streams."""
    request_rate: float | None = None
    """Calls a second, lastingly; 0: any number."""
    request_burst: int | None = None
    """Calls at once, after a rest; None: what two seconds bring, at least one."""
    budget_day: Decimal | None = None
    """What may be spent in a day, in the reporting currency, by runs that these credentials start."""
    budget_month: Decimal | None = None
    """Likewise in a month."""

    @property
    def burst(self) -> int:
        """Calls at once, said or not."""
        if self.request_burst is not None:
            return self.request_burst
        return max(1, math.ceil(2 * (self.request_rate or 0)))

    def over(self, wider: "Quotas") -> "Quotas":
        """These figures, and those of a wider level where there are none. A rate brings its burst along."""
        found = {
            each.name: own if (own := getattr(self, each.name)) is not None else getattr(wider, each.name)
            for each in fields(Quotas)
        }
        if self.request_rate is not None:
            found["request_burst"] = self.request_burst
        return Quotas(**found)


NO_QUOTAS: Final = Quotas()
"""Nothing of one's own: what wider levels say holds."""


@dataclass(frozen=True, slots=True)
class QuotaRule:
    """Figures for the principals that a pattern (`batch-*`) fits."""

    principal: str
    quotas: Quotas


class QuotaTable:
    """Which figures hold. `defaults`: for everybody; `rules`: of those that fit a principal the first counts."""

    def __init__(self, defaults: Quotas = NO_QUOTAS, rules: Sequence[QuotaRule] = ()) -> None:
        self._defaults = defaults
        self._rules = tuple(rules)
        self._cached = lru_cache(CACHED)(self._find)

    def of(self, principal: str, own: Quotas) -> Quotas:
        """The figures of a call that a principal makes with credentials that say `own`."""
        return self._cached(principal, own)

    def _find(self, principal: str, own: Quotas) -> Quotas:
        for rule in self._rules:
            if matches(principal, rule.principal):
                return own.over(rule.quotas).over(self._defaults)
        return own.over(self._defaults)


class TokenBucket:
    """Fills with `rate` tokens a second up to `burst`, and gives one to each call.

    Kept is only the moment when it is full again.
    """

    __slots__ = ("full_at",)

    def __init__(self) -> None:
        self.full_at = -math.inf

    def wait(self, rate: float, burst: int, now: float) -> float:
        """Seconds until the next token comes; 0 when there is one."""
        wait = max(self.full_at - now, 0.0) + (1 - burst) / rate
        return wait if wait > SLACK else 0.0

    def take(self, rate: float, now: float) -> None:
        """Takes a token, which there must be."""
        self.full_at = max(self.full_at, now) + 1 / rate


class TokenBuckets:
    """A bucket for each name, and for each pair of rate and burst that it calls with: what fills slowly would else be in
    the way of what fills fast. Those that are full are forgotten, so there are no more than were used of late."""

    KEPT: Final = 1024

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, float, int], TokenBucket] = {}
        self._sweep_at = self.KEPT

    def __len__(self) -> int:
        return len(self._buckets)

    def wait(self, name: str, quotas: Quotas) -> float:
        """Seconds until there is a token; 0 when there is one. Takes none."""
        if not (rate := quotas.request_rate):
            return 0.0
        bucket = self._buckets.get((name, rate, quotas.burst))
        return 0.0 if bucket is None else bucket.wait(rate, quotas.burst, self._clock())

    def take(self, name: str, quotas: Quotas) -> None:
        """Takes a token, which there must be."""
        if not (rate := quotas.request_rate):
            return
        key, now = (name, rate, quotas.burst), self._clock()
        bucket = self._buckets.get(key)
        if bucket is None:
            if len(self._buckets) >= self._sweep_at:
                self._sweep(now)
            bucket = self._buckets[key] = TokenBucket()
        bucket.take(rate, now)

    def _sweep(self, now: float) -> None:
        self._buckets = {key: each for key, each in self._buckets.items() if each.full_at > now}
        self._sweep_at = max(self.KEPT, 2 * len(self._buckets))


class Slot:
    """A place that is taken until it is released; once more does no harm."""

    __slots__ = ("_name", "_slots")

    def __init__(self, slots: "Slots", name: str) -> None:
        self._slots: Slots | None = slots
        self._name = name

    def release(self) -> None:
        """Gives the place back."""
        slots, self._slots = self._slots, None
        if slots is not None:
            slots.give_back(self._name)


class Slots:
    """How many places are taken: by each name, and altogether."""

    def __init__(self) -> None:
        self._taken: dict[str, int] = {}
        self._total = 0

    @property
    def total(self) -> int:
        """Of all together."""
        return self._total

    def of(self, name: str) -> int:
        """Of one."""
        return self._taken.get(name, 0)

    def names(self) -> frozenset[str]:
        """Who has any."""
        return frozenset(self._taken)

    def take(self, name: str) -> Slot:
        """Takes a place. Whether there is one is for the caller to look."""
        self._taken[name] = self.of(name) + 1
        self._total += 1
        return Slot(self, name)

    def give_back(self, name: str) -> None:
        """For `Slot.release` alone."""
        left = self._taken[name] - 1
        self._total -= 1
        if left:
            self._taken[name] = left
        else:
            del self._taken[name]
