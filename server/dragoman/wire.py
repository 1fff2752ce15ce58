"""Records as protos: tokens, money, times, errors. The one place where each of these is spelled.

Money goes out twice: as `google.type.Money`, rounded half to even to nano units, and as an exact decimal string.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from google.type.money_pb2 import Money

from dragoman import records
from dragoman.v1 import usage_pb2

_NANO = Decimal("1e-9")


def timestamp(at: datetime) -> Timestamp:
    """An aware datetime as a Timestamp, to the microsecond."""
    stamp = Timestamp()
    stamp.FromDatetime(at)
    return stamp


def moment(stamp: Timestamp) -> datetime:
    """A Timestamp as an aware datetime in UTC, to the microsecond."""
    return stamp.ToDatetime(tzinfo=UTC)


def duration(span: timedelta) -> Duration:
    """A timedelta as a Duration."""
    message = Duration()
    message.FromTimedelta(span)
    return message


def to_money(amount: Decimal, currency: str) -> Money:
    """The amount rounded half to even to nano units; both parts carry the sign, as google.type.Money wants it."""
    nanos = int((amount / _NANO).to_integral_value(ROUND_HALF_EVEN))
    sign = -1 if nanos < 0 else 1
    units, rest = divmod(abs(nanos), 1_000_000_000)
    return Money(currency_code=currency, units=sign * units, nanos=sign * rest)


def exact(amount: Decimal) -> str:
    """The amount in full, never in scientific notation."""
    return format(amount, "f")


def token_usage(usage: records.TokenUsage) -> usage_pb2.TokenUsage:
    """Tokens by kind, with their total."""
    return usage_pb2.TokenUsage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        cache_write_1h_tokens=usage.cache_write_1h_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        input_audio_tokens=usage.input_audio_tokens,
        output_audio_tokens=usage.output_audio_tokens,
        input_image_tokens=usage.input_image_tokens,
        output_image_tokens=usage.output_image_tokens,
        total_tokens=usage.total_tokens,
    )


def money_cost(amount: Decimal, currency: str, usd: Decimal, unpriced_calls: int = 0) -> usage_pb2.Cost:
    """A cost from its parts."""
    return usage_pb2.Cost(
        amount=to_money(amount, currency),
        usd=to_money(usd, "USD"),
        exact_amount=exact(records.money(amount)),
        exact_usd=exact(records.money(usd)),
        unpriced_calls=unpriced_calls,
    )


def call_cost(cost: records.Cost) -> usage_pb2.Cost:
    """The cost of one model call."""
    return money_cost(cost.amount, cost.currency, cost.usd)


def total_cost(totals: records.Totals) -> usage_pb2.Cost:
    """The cost of several model calls; those without a price are counted in it."""
    return money_cost(totals.amount, totals.currency, totals.usd, totals.unpriced_calls)


def ids(messages: Sequence[records.Message]) -> list[str]:
    """The messages' ids as text."""
    return [str(message.id) for message in messages]
