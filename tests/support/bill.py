"""A provider that bills every request differently, and knows on whose account each one was made.

The figures of a request are like no other's, so that rows of a ledger and requests can be laid side by side, one by one.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

from dragoman.records import ModelCall, TokenUsage
from dragoman.testing.anthropic import FakeAnthropic, HttpError, Recorded, Turn, Usage

HAIKU_PRICES = {
    "input_tokens": Fraction(1),
    "output_tokens": Fraction(5),
    "cache_read_tokens": Fraction(1, 10),
    "cache_write_tokens": Fraction(5, 4),
    "cache_write_1h_tokens": Fraction(2),
}
"""Anthropic's price list for Claude Haiku 4.5: US dollars per million tokens."""


@dataclass(frozen=True)
class Reply:
    """What a request is answered with, and whose it is."""

    agent: str
    kind: str
    answer: Turn | HttpError


@dataclass
class Bill:
    """Answers a fake's requests, and keeps who made them."""

    fake: FakeAnthropic
    reply: Callable[[Recorded], Reply]
    made: list[tuple[str, str, Recorded]] = field(default_factory=list)
    """Agent, kind and request."""

    def __post_init__(self) -> None:
        self.fake.respond = self._respond

    def _respond(self, record: Recorded) -> Turn | HttpError:
        reply = self.reply(record)
        self.made.append((reply.agent, reply.kind, record))
        number = len(self.made)
        if isinstance(reply.answer, HttpError):
            return reply.answer
        usage = Usage(
            input_tokens=1000 + 7 * number,
            output_tokens=100 + 11 * number,
            cache_read_input_tokens=2000 + 13 * number,
            cache_creation_5m_tokens=300 + 17 * number,
            cache_creation_1h_tokens=40 + 19 * number,
            thinking_tokens=number,
        )
        return replace(reply.answer, usage=usage)

    def check(self, calls: Sequence[ModelCall], *, billed: bool = False) -> None:
        """Every request is in exactly one row: of the right agent and kind, with its own figures, at its price.

        `billed`: without those that the provider has not billed yet, as it has said nothing of them.
        """
        rows = Counter((call.agent_name, call.kind, call.usage) for call in calls)
        made = Counter((agent, kind, record.billed) for agent, kind, record in self.made)
        if billed:
            rows = Counter({row: count for row, count in rows.items() if row[2] != TokenUsage()})
            made = Counter({row: count for row, count in made.items() if row[2] != TokenUsage()})
        assert rows == made, f"in the ledger alone: {[*(rows - made)]}; billed alone: {[*(made - rows)]}"
        assert sum((call.usage for call in calls), TokenUsage()) == self.fake.billed
        for call in calls:
            assert call.cost is not None
            assert Fraction(call.cost.usd) == price(call.usage)
        total = sum((Fraction(call.cost.usd) for call in calls if call.cost), Fraction())
        assert total == price(self.fake.billed), "the whole bill, to the last digit"


def price(usage: TokenUsage) -> Fraction:
    """US dollars, exactly."""
    parts = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "cache_read_tokens": usage.cache_read_tokens,
        "cache_write_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
        "cache_write_1h_tokens": usage.cache_write_1h_tokens,
    }
    return sum((count * HAIKU_PRICES[kind] for kind, count in parts.items()), Fraction()) / 10**6
