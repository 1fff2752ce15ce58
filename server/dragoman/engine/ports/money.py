"""What tokens cost, what was used, and what may be spent."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import Protocol
from uuid import UUID

from dragoman.records import (
    Cost,
    TokenUsage,
)


class Pricer(Protocol):
    """What tokens cost."""

    @property
    def currency(self) -> str:
        """The reporting currency."""
        ...

    def price(self, provider: str, model: str, usage: TokenUsage, at: datetime) -> Cost | None:
        """The cost of a call that ended at `at`; None when no price or exchange rate is known. Never raises."""
        ...


class UsageDimension(StrEnum):
    """By what usage can be grouped."""

    DAY = "day"
    AGENT = "agent"
    MEMBER = "member"
    MODEL = "model"
    USER = "user"
    SESSION = "session"
    PRINCIPAL = "principal"


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which calls to sum and how to group them."""

    group_by: tuple[UsageDimension, ...] = ()
    start_time: datetime | None = None
    end_time: datetime | None = None
    agent_name: str = ""
    session_id: UUID | None = None
    time_zone: str = "UTC"
    """Whose days DAY means: an IANA name that `dragoman.zones` knows."""


@dataclass(frozen=True, slots=True)
class UsageRow:
    """The sums of one group."""

    key: tuple[str, ...]
    """One text per dimension, in order; DAY as YYYY-MM-DD; MODEL takes two places: provider, model."""
    runs: int
    model_calls: int
    unpriced_calls: int
    usage: TokenUsage
    usd: Decimal
    amount: Decimal
    currency: str


class BudgetPeriod(StrEnum):
    """Over what a budget is summed up; the values are those of the settings."""

    DAY = "day"
    MONTH = "month"


@dataclass(frozen=True, slots=True)
class BudgetRule:
    """A budget as it is set. At least one of the names is not empty."""

    principal: str
    """Whose it is. A name with `*` (any text) or `?` (any character) gives each principal that it fits one of its own."""
    agent_name: str
    """What it is for, likewise."""
    period: BudgetPeriod
    limit: Decimal
    """What may be spent in a period, in the reporting currency."""
    time_zone: str = "UTC"
    """Whose days and months are meant."""


@dataclass(frozen=True, slots=True)
class SpendingQuery:
    """Which calls to sum up: of whose runs, over all users, started in [start_time, end_time)."""

    principal: str
    """Empty: anybody's."""
    agent_name: str
    """Of the agent that was run; empty: any."""
    currency: str
    start_time: datetime
    split_time: datetime
    """What started before it is summed up apart from the rest."""
    end_time: datetime
    own: frozenset[UUID] = frozenset()
    """Calls to leave out of the sums and to tell one by one."""


@dataclass(frozen=True, slots=True)
class Spending:
    """What a query found. Calls without a price count as nothing."""

    settled: Decimal
    recent: Decimal
    """Of calls that started before the split, and since."""
    own: Mapping[UUID, Decimal]
    """Those of the query's own calls that are booked."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """A budget that holds for somebody, and how it stands."""

    principal: str
    """Whose it is; empty when it is an agent's, whoever runs it."""
    agent_name: str
    """What it is for; empty when it is a principal's, whatever is run."""
    period: BudgetPeriod
    limit: Decimal
    """In the reporting currency, as all its amounts."""
    spent: Decimal
    currency: str
    reset_time: datetime
    """When the next period begins."""
