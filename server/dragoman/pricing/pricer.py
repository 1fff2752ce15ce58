"""What a model call costs: asked once per call, on the event loop, and answered from memory.

`Pricer.load` reads everything at start-up and raises on any mistake in a file; after that `price` reads no file,
opens no socket and does not raise on what a run can bring. The look-up of a model is cached per provider, model and
day; the rest is a handful of decimal operations. A call that cannot be priced in full gives None; it is counted in
`unpriced`, and the first one of each model is logged with the reason.
"""

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal, localcontext
from functools import lru_cache
from pathlib import Path

from dragoman.pricing.files import PriceFileError, table_name
from dragoman.pricing.library import LibraryPrices
from dragoman.pricing.names import provider_key
from dragoman.pricing.overrides import OverridePrices
from dragoman.pricing.rates import ExchangeRate, ExchangeRates
from dragoman.pricing.sheet import EXACT, PriceSheet, Unpriced
from dragoman.records import Cost, TokenUsage, money

_log = logging.getLogger(__name__)

_DATA = Path(__file__).with_name("data")


@dataclass(frozen=True, slots=True)
class PriceLine:
    """One unit price, as `Pricer.explain` tells it."""

    kind: str
    """The `TokenUsage` field that it prices."""
    usd_per_million: Decimal
    above_input_tokens: int
    """It holds for requests whose whole input is larger than this; 0 for the base price."""
    price_version: str


@dataclass(frozen=True, slots=True)
class _Quote:
    """Where a model's prices come from on one day; within the day some models are dearer at certain hours."""

    version: str
    sheet: Callable[[datetime], PriceSheet]


class Pricer:
    """Prices model calls in US dollars and in the reporting currency.

    `overrides` are asked in order before the library. Use `Pricer.load`, which reads the files.
    """

    def __init__(
        self,
        *,
        currency: str,
        overrides: tuple[OverridePrices, ...],
        library: LibraryPrices,
        rates: ExchangeRates,
    ) -> None:
        self.currency = currency
        """The reporting currency: ISO 4217, upper case."""
        self.version = " + ".join([*(source.version for source in overrides), library.version])
        """All sources, the strongest first; a `Cost.price_version` is the one of them that was used."""
        self.unpriced: Counter[tuple[str, str]] = Counter()
        """Calls without a cost since the start, by (provider, model) as they were given."""
        self._overrides = overrides
        self._library = library
        self._rates = rates
        self._quote = lru_cache(maxsize=1024)(self._find_quote)

    @classmethod
    def load(
        cls,
        *,
        currency: str = "ZAR",
        prices_file: Path | None = None,
        rates_file: Path | None = None,
        max_rate_age_days: int | None = None,
    ) -> "Pricer":
        """Read all prices and rates.

        `prices_file` adds overrides; `rates_file` replaces the shipped, indicative rates; `max_rate_age_days` sets
        the age over which a rate is worth a warning (None: never). Raises PriceFileError when a file is wrong, or
        when there is no rate at all to `currency`.
        """
        currency = currency.upper()
        rates_file = rates_file or _DATA / "rates.toml"
        rates = ExchangeRates.load(rates_file, max_age_days=max_rate_age_days)
        if currency not in rates.currencies:
            raise PriceFileError(rates_file, "is missing", table=table_name("rates", currency))
        overrides = [OverridePrices.load(prices_file)] if prices_file is not None else []
        overrides.append(OverridePrices.load(_DATA / "builtin.toml", label="builtin"))
        return cls(currency=currency, overrides=tuple(overrides), library=LibraryPrices(), rates=rates)

    def price(self, provider: str, model: str, usage: TokenUsage, at: datetime) -> Cost | None:
        """The cost of one call that ended at `at` (aware), or None when any part of it has no price or no rate.

        `provider` and `model` are Agno's names, in any case. `usd` is tokens times unit prices, rounded once to
        `MONEY_SCALE`; `amount` is that stored `usd` times the rate, rounded once: a row checks itself.
        """
        try:
            return self._cost(provider, model, usage, at)
        except Unpriced as reason:
            self._note_unpriced(provider, model, str(reason))
            return None

    def explain(self, provider: str, model: str, at: datetime) -> list[PriceLine]:
        """The unit prices that hold for a model at `at`, one line per kind and tier; empty when there are none."""
        quote = self._quote(provider, model, at.astimezone(UTC).date())
        if quote is None:
            return []
        return [
            PriceLine(kind, price, above, quote.version)
            for kind, unit_price in quote.sheet(at).prices.items()
            for above, price in ((0, unit_price.base), *unit_price.tiers)
        ]

    def own_names(self) -> list[tuple[str, str]]:
        """Provider key and name (or glob) of the models that overrides price, each once, the strongest source first."""
        return list(dict.fromkeys(name for source in self._overrides for name in source.names))

    def library_names(self) -> list[tuple[str, str]]:
        """Likewise of the models that the price library knows."""
        return self._library.names

    @property
    def rates(self) -> ExchangeRates:
        """All exchange rates."""
        return self._rates

    def rate(self, day: date) -> ExchangeRate | None:
        """The rate at which calls of that day are converted to `currency`, or None."""
        return self._rates.at(self.currency, day)

    def _cost(self, provider: str, model: str, usage: TokenUsage, at: datetime) -> Cost:
        day = at.astimezone(UTC).date()
        quote = self._quote(provider, model, day)
        if quote is None:
            raise Unpriced("no price is known")
        usd, unit_prices = quote.sheet(at).charge(usage)
        rate = self._rates.at(self.currency, day)
        if rate is None:
            raise Unpriced(f"no exchange rate to {self.currency} is that old")
        with localcontext(EXACT):
            amount = money(usd * rate.per_usd)
        return Cost(
            usd=usd,
            amount=amount,
            currency=self.currency,
            price_version=quote.version,
            exchange_rate=rate.per_usd,
            rate_date=rate.day,
            unit_prices=unit_prices,
        )

    def _find_quote(self, provider: str, model: str, day: date) -> _Quote | None:
        key = provider_key(provider)
        for source in self._overrides:
            sheet = source.find(key, model, day)
            if sheet is not None:
                return _Quote(source.version, _always(sheet))
        known = self._library.find(key, model)
        return _Quote(self._library.version, known.sheet) if known is not None else None

    def _note_unpriced(self, provider: str, model: str, reason: str) -> None:
        first = (provider, model) not in self.unpriced
        self.unpriced[provider, model] += 1
        if first:
            _log.warning(
                "a model call has no cost: %s", reason, extra={"model_provider": provider, "model_id": model}
            )


def _always(sheet: PriceSheet) -> Callable[[datetime], PriceSheet]:
    return lambda _at: sheet
