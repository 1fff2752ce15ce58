"""What a caller lets a run spend: `RunLimits` as `records.Limits`, to the last nano unit."""

from datetime import timedelta
from decimal import Decimal
from typing import Final

from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money

from dragoman.records import Limits
from dragoman.transport.validation import Checks
from dragoman.v1 import run_service_pb2 as pb

MAX_COST = Decimal(10) ** 12
"""The largest limit of cost that can be kept, in any currency."""

MAX_DURATION = timedelta(days=30)
"""The largest limit of time."""

_BILLION: Final = 1_000_000_000


def read_limits(limits: pb.RunLimits, currency: str, checks: Checks) -> Limits:
    """The limits; `currency` is the one in which costs are reported. What is wrong is noted at `limits...`."""
    tokens = limits.max_total_tokens
    if tokens < 0:
        checks.add("limits.max_total_tokens", f"must not be negative, is {tokens}")
    return Limits(
        max_cost=_cost(limits.max_cost, currency, checks) if limits.HasField("max_cost") else None,
        max_total_tokens=tokens if tokens > 0 else None,
        max_duration=_duration(limits.max_duration, checks) if limits.HasField("max_duration") else None,
    )


def _cost(money: Money, currency: str, checks: Checks) -> Decimal | None:
    path = "limits.max_cost"
    if money.currency_code not in ("", currency):
        checks.add(f"{path}.currency_code", f"must be {currency}, in which costs are reported here, or empty")
    if not _consistent(money.units, money.nanos):
        checks.add(f"{path}.nanos", "must be of the sign of units, and less than one unit")
        return None
    amount = Decimal(money.units) + Decimal(money.nanos).scaleb(-9)
    if not 0 < amount <= MAX_COST:
        checks.add(path, f"must be more than 0 and at most {MAX_COST:f}")
        return None
    return amount


def _duration(duration: Duration, checks: Checks) -> timedelta | None:
    path = "limits.max_duration"
    if not _consistent(duration.seconds, duration.nanos):
        checks.add(f"{path}.nanos", "must be of the sign of seconds, and less than one second")
        return None
    nanos = duration.seconds * _BILLION + duration.nanos
    # In whole numbers: the seconds of a Duration may be too many for a timedelta.
    if not 0 < nanos <= MAX_DURATION // timedelta(microseconds=1) * 1000:
        checks.add(path, f"must be more than 0 and at most {MAX_DURATION.days} days")
        return None
    # Rounded up, so that the shortest is not nothing.
    return timedelta(microseconds=-(-nanos // 1000))


def _consistent(whole: int, nanos: int) -> bool:
    return abs(nanos) < _BILLION and not (whole > 0 > nanos or whole < 0 < nanos)
