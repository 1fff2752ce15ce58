"""The operator's own unit prices, which win over every other source.

    [anthropic."claude-sonnet-4-5"]      # a provider, and the name of a model or a glob (quote it: it holds dots)
    input = "2.70"                       # US dollars per million tokens, number or string, up to six decimal places
    output = "13.50"
    cache_read = "0.27"
    cache_write = "3.375"                # tokens that live five minutes in the cache
    cache_write_1h = "5.40"

    [[anthropic."claude-*"]]             # several periods: an array of tables
    until = 2026-07-01                   # the first day (UTC) on which it no longer holds
    input = 3
    output = 15

    [[anthropic."claude-*"]]
    from = 2026-07-01                    # the first day (UTC) on which it holds
    input = 2.5
    output = 12.5

`input` and `output` are required; `cache_read`, `cache_write`, `cache_write_1h`, `input_audio`, `output_audio`,
`input_image` and `output_image` only where such tokens occur: nothing is filled in from another source, so a call that
uses a kind left out has no price. `reasoning` is for the few models whose reasoning costs something else than their
output; left out, it is billed as output. Sound and pictures are told apart only where the provider does so: Anthropic
counts pictures as plain input. Among the entries that hold on the day of the call and match the model, the most specific wins: a name before a
glob, then the one with more literal characters, then the one with the longer literal start, then the first.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from itertools import combinations
from pathlib import Path
from typing import TypeAlias

from dragoman.pricing.files import PriceFileError, as_date, as_decimal, as_table, read_toml, table_name
from dragoman.pricing.names import provider_key
from dragoman.pricing.sheet import PriceSheet, UnitPrice

_REQUIRED = ("input", "output")
_OPTIONAL = (
    "cache_read",
    "cache_write",
    "cache_write_1h",
    "input_audio",
    "output_audio",
    "input_image",
    "output_image",
    "reasoning",
)
_PRICES = (*_REQUIRED, *_OPTIONAL)
_DATES = ("from", "until")
_WILDCARD = re.compile(r"[*?]")

_PRICE_PLACES = 6
"""A price with six places times whole tokens is exact at `MONEY_SCALE`: an overridden cost is never rounded."""
_PRICE_LIMIT = 1_000_000


@dataclass(frozen=True, slots=True)
class Period:
    """What a file says of a model for some days."""

    prices: Mapping[str, Decimal]
    """By the file's keys, always in the same order."""
    start: date
    """The first day; `date.min` when it has always held."""
    end: date
    """The first day on which it no longer holds; `date.max` when that is never."""

    def overlaps(self, other: "Period") -> bool:
        """Whether there is a day of both."""
        return self.start < other.end and other.start < self.end


Models: TypeAlias = dict[str, dict[str, tuple[Period, ...]]]
"""Provider, and name or glob of a model, as they are written; periods in their order in the file."""


@dataclass(frozen=True, slots=True)
class _Entry:
    pattern: str
    regex: re.Pattern[str]
    period: Period
    sheet: PriceSheet

    @property
    def specificity(self) -> tuple[bool, int, int]:
        literals = _WILDCARD.sub("", self.pattern)
        return self.pattern == literals, len(literals), len(_WILDCARD.split(self.pattern, maxsplit=1)[0])


class OverridePrices:
    """The prices of one TOML file."""

    def __init__(self, version: str, entries: Mapping[str, tuple[_Entry, ...]]) -> None:
        self.version = version
        self._entries = entries

    @classmethod
    def load(cls, file: Path, label: str = "overrides") -> "OverridePrices":
        """Read and check `file`; `version` becomes the label and the start of the file's hash. Raises PriceFileError."""
        document, digest = read_toml(file)
        entries: dict[str, tuple[_Entry, ...]] = {}
        for provider, models in read_models(file, document).items():
            found = [_entry(pattern, period) for pattern, periods in models.items() for period in periods]
            # Stable: entries that are equally specific stay in the order of the file.
            entries[provider_key(provider)] = tuple(
                sorted(found, key=lambda entry: entry.specificity, reverse=True)
            )
        return cls(f"{label} {digest}", entries)

    @property
    def names(self) -> list[tuple[str, str]]:
        """Provider key and name (or glob) of every model, each once."""
        return list(
            dict.fromkeys(
                (provider, entry.pattern) for provider, found in self._entries.items() for entry in found
            )
        )

    def find(self, provider: str, model: str, day: date) -> PriceSheet | None:
        """The sheet of the most specific entry for a provider key and a model name (any case), or None."""
        name = model.lower()
        for entry in self._entries.get(provider, ()):
            if entry.period.start <= day < entry.period.end and entry.regex.fullmatch(name):
                return entry.sheet
        return None


def read_models(file: Path, document: Mapping[str, object]) -> Models:
    """What a parsed file of prices says. Raises PriceFileError with what is wrong with it."""
    read: Models = {}
    keys: set[str] = set()
    for provider, models in document.items():
        key = provider_key(provider)
        if not key or key in keys:
            problem = "names a provider that an earlier table names already" if key else "names no provider"
            raise PriceFileError(file, problem, table=table_name(provider))
        keys.add(key)
        read[provider] = _provider_models(file, provider, as_table(file, models, provider))
    return read


def _provider_models(
    file: Path, provider: str, models: Mapping[str, object]
) -> dict[str, tuple[Period, ...]]:
    read: dict[str, tuple[Period, ...]] = {}
    seen: set[str] = set()
    for pattern, value in models.items():
        table = table_name(provider, pattern)
        if not pattern or pattern.lower() in seen:
            problem = "names a model that an earlier table names already" if pattern else "names no model"
            raise PriceFileError(file, problem, table=table)
        seen.add(pattern.lower())
        given = value if isinstance(value, list) else [value]
        periods = tuple(_period(file, as_table(file, one, provider, pattern), table) for one in given)
        if any(one.overlaps(other) for one, other in combinations(periods, 2)):
            raise PriceFileError(file, "two periods overlap", table=table)
        read[pattern] = periods
    return read


def _period(file: Path, table: Mapping[str, object], name: str) -> Period:
    for key in table:
        if key not in _PRICES and key not in _DATES:
            known = ", ".join((*_PRICES, *_DATES))
            problem = f"is unknown; known are {known} (a model's name that holds a dot needs quotes)"
            raise PriceFileError(file, problem, table=name, key=key)
    for key in _REQUIRED:
        if key not in table:
            raise PriceFileError(file, "is missing", table=name, key=key)
    prices = {
        key: as_decimal(file, table[key], table=name, key=key, places=_PRICE_PLACES, below=_PRICE_LIMIT)
        for key in _PRICES
        if key in table
    }
    start = as_date(file, table["from"], table=name, key="from") if "from" in table else date.min
    end = as_date(file, table["until"], table=name, key="until") if "until" in table else date.max
    if start >= end:
        raise PriceFileError(file, "must be later than from", table=name, key="until")
    return Period(prices, start, end)


def _entry(pattern: str, period: Period) -> _Entry:
    prices = {f"{key}_tokens": UnitPrice(price) for key, price in period.prices.items()}
    return _Entry(pattern, _glob(pattern), period, PriceSheet(prices))


def _glob(pattern: str) -> re.Pattern[str]:
    """`*` and `?` are wildcards; everything else, brackets too, stands for itself."""
    escaped = re.escape(pattern.lower())
    return re.compile(escaped.replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)
