"""The unit prices of one model, and what a usage costs by them.

A `PriceSheet` holds US dollars per million tokens by kind; a kind is the name of the `TokenUsage` field it prices.
`charge` splits a usage into parts that do not overlap, takes the price of each part, and adds up: exactly, because
tokens are integers and the arithmetic runs in a context far wider than any product needs. A part without a price, a
usage that contradicts itself, or a model whose bill depends on something a usage does not tell raises `Unpriced`:
half a cost would be worse than none.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import (
    ROUND_HALF_EVEN,
    Context,
    Decimal,
    DivisionByZero,
    InvalidOperation,
    Overflow,
    localcontext,
)

from dragoman.records import TokenUsage, money

EXACT = Context(prec=100, rounding=ROUND_HALF_EVEN, traps=[InvalidOperation, DivisionByZero, Overflow])
"""Wide enough that no product or sum below is ever rounded, and independent of whatever context the caller has."""

_PER_MILLION = -6


class Unpriced(Exception):
    """A call cannot be priced: an outcome within this room, never raised out of it. The text is the reason, for the log."""


@dataclass(frozen=True, slots=True)
class UnitPrice:
    """US dollars per million tokens."""

    base: Decimal
    tiers: tuple[tuple[int, Decimal], ...] = ()
    """(input tokens, price), ascending: the price that holds for *all* tokens of a request with more input."""

    def of(self, request_input: int) -> Decimal:
        """The price in a request whose whole input (cached or not) is `request_input` tokens."""
        price = self.base
        for above, tier_price in self.tiers:
            if request_input > above:
                price = tier_price
        return price


@dataclass(frozen=True, slots=True)
class PriceSheet:
    """What one model costs at one time."""

    prices: Mapping[str, UnitPrice]
    """By the `TokenUsage` field that the price belongs to."""
    unknowable: tuple[str, ...] = ()
    """Priced by the provider, but not told by a usage (video, fees per request): no call can be priced."""
    cached_apart: frozenset[str] = frozenset()
    """Kinds of input (sound, pictures) that cost something else in the cache than text there does: a usage does not
    tell how much of the cache they were."""

    def charge(self, usage: TokenUsage) -> tuple[Decimal, dict[str, Decimal]]:
        """US dollars at `MONEY_SCALE`, rounded once, and the unit prices used. Raises Unpriced."""
        if self.unknowable:
            raise Unpriced(f"the price depends on what a usage does not tell: {', '.join(self.unknowable)}")
        for kind in self.cached_apart:
            if usage.cache_read_tokens and getattr(usage, kind):
                raise Unpriced(
                    f"cached {kind} have their own price, and a usage does not tell how much of the cache they are"
                )
        request_input = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        unit_prices: dict[str, Decimal] = {}
        with localcontext(EXACT):
            total = Decimal(0)
            for kind, tokens in self._parts(usage).items():
                if tokens < 0:
                    raise Unpriced(f"the usage contradicts itself: {kind} leaves {tokens} tokens")
                if tokens == 0:
                    continue
                price = self.prices.get(kind)
                if price is None:
                    raise Unpriced(f"{kind} have no price")
                unit_prices[kind] = price.of(request_input)
                total += tokens * unit_prices[kind]
            return money(total.scaleb(_PER_MILLION)), unit_prices

    def _parts(self, usage: TokenUsage) -> dict[str, int]:
        """The usage as disjoint parts: a token is in exactly one of them.

        Sound and pictures are parts of input and output, where a provider tells them apart, and always need their own
        price: taking the text price instead would be a guess. Reasoning is a part of output and billed as such, but for the few models
        whose provider lists a price for it.
        """
        reasoning = usage.reasoning_tokens if "reasoning_tokens" in self.prices else 0
        return {
            "input_tokens": usage.input_tokens - usage.input_audio_tokens - usage.input_image_tokens,
            "output_tokens": usage.output_tokens
            - usage.output_audio_tokens
            - usage.output_image_tokens
            - reasoning,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "cache_write_1h_tokens": usage.cache_write_1h_tokens,
            "reasoning_tokens": reasoning,
            "input_audio_tokens": usage.input_audio_tokens,
            "output_audio_tokens": usage.output_audio_tokens,
            "input_image_tokens": usage.input_image_tokens,
            "output_image_tokens": usage.output_image_tokens,
        }
