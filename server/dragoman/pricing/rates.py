"""Exchange rates: how much of a currency one US dollar was worth, by day.

    [rates.ZAR]
    2026-11-01 = "17.2345"
    2026-11-20 = "17.1010"

A call is converted at the newest rate whose day (UTC) is not after the call's; a call older than every rate has no
rate, and so no cost. A dollar is always one dollar, on the day of the call, and needs no table.
"""

import logging
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from pathlib import Path

from dragoman.pricing.files import PriceFileError, as_date, as_decimal, as_table, read_toml, table_name
from dragoman.records import MONEY_SCALE

_log = logging.getLogger(__name__)

BASE = "USD"
"""The currency of all unit prices."""

RATE_LIMIT = 1_000_000_000
"""A rate is less than this."""


@dataclass(frozen=True, slots=True)
class ExchangeRate:
    """Units of a currency per US dollar, and the day on which that was so."""

    per_usd: Decimal
    day: date


class ExchangeRates:
    """The rates of one TOML file.

    With `max_age_days`, the first use of a rate older than that is a warning in the log, once per currency: an old
    rate is still the best one known, so the call is priced.
    """

    def __init__(
        self, rates: Mapping[str, tuple[ExchangeRate, ...]], *, max_age_days: int | None = None
    ) -> None:
        self._rates = rates
        self._days = {currency: [rate.day for rate in series] for currency, series in rates.items()}
        self._max_age_days = max_age_days
        self._warned: set[str] = set()

    @classmethod
    def load(cls, file: Path, *, max_age_days: int | None = None) -> "ExchangeRates":
        """Read and check `file`. Raises PriceFileError."""
        return cls(read_series(file), max_age_days=max_age_days)

    @property
    def currencies(self) -> frozenset[str]:
        """The ISO 4217 codes to which there is any rate, the dollar included."""
        return frozenset(self._rates) | {BASE}

    def series(self, currency: str) -> tuple[ExchangeRate, ...]:
        """All rates to a currency, the oldest first; none for the dollar."""
        return self._rates.get(currency, ())

    def at(self, currency: str, day: date) -> ExchangeRate | None:
        """The newest rate that is not younger than `day`, or None."""
        if currency == BASE:
            return ExchangeRate(Decimal(1), day)
        older = bisect_right(self._days.get(currency, []), day)
        if older == 0:
            return None
        rate = self._rates[currency][older - 1]
        self._warn_if_old(currency, rate, day)
        return rate

    def _warn_if_old(self, currency: str, rate: ExchangeRate, day: date) -> None:
        if (
            self._max_age_days is None
            or currency in self._warned
            or (day - rate.day).days <= self._max_age_days
        ):
            return
        self._warned.add(currency)
        _log.warning(
            "the exchange rate is old",
            extra={
                "currency": currency,
                "rate_date": rate.day.isoformat(),
                "max_age_days": self._max_age_days,
            },
        )


def read_series(file: Path) -> dict[str, tuple[ExchangeRate, ...]]:
    """What a file says: by currency, the oldest rate first. Raises PriceFileError."""
    document, _ = read_toml(file)
    for key in document:
        if key != "rates":
            raise PriceFileError(
                file, "is unknown; the file holds [rates.CURRENCY] tables", table=table_name(key)
            )
    tables = as_table(file, document.get("rates", {}), "rates")
    return {code: _series(file, code, table) for code, table in tables.items()}


def _series(file: Path, currency: str, value: object) -> tuple[ExchangeRate, ...]:
    name = table_name("rates", currency)
    if not (len(currency) == 3 and currency.isascii() and currency.isalpha() and currency.isupper()):
        raise PriceFileError(file, "must be a currency code such as ZAR", table=name)
    if currency == BASE:
        raise PriceFileError(file, "rates are per US dollar, so the dollar has none", table=name)
    table = as_table(file, value, "rates", currency)
    if not table:
        raise PriceFileError(file, "holds no rate", table=name)
    rates = []
    for key, figure in table.items():
        day = as_date(file, key, table=name, key=key)
        rate = as_decimal(file, figure, table=name, key=key, places=MONEY_SCALE, below=RATE_LIMIT)
        if rate == 0:
            raise PriceFileError(file, "must not be zero", table=name, key=key)
        rates.append(ExchangeRate(rate, day))
    return tuple(sorted(rates, key=lambda rate: rate.day))
