"""Importing: what a file of prices or rates brings is merged into the operator's own, and nothing that held is forgotten.

Prices. A file to be imported looks like the operator's (see overrides.py), as TOML or as JSON:

    {"anthropic": {"claude-sonnet-4-5": {"input": "2.70", "output": "13.50", "from": "2026-12-01"}}}

A price holds from its `from` on, and without one from the day that the import names. Periods that it meets end there, or
are cut to what is left of them: calls of the time before keep their prices. Without an `until` it takes the place of all
that was to follow. Neighbouring periods with the same prices become one, so to import a file twice changes nothing.

Rates. Tables of rates by day (see rates.py), or the European Central Bank's (see ecb.py). A rate of a day that the file
has already is replaced, and told apart from new ones.

Nothing here writes; `Merged.text` is what to write.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from pathlib import Path

from dragoman.pricing import ecb
from dragoman.pricing.files import (
    Comments,
    PriceFileError,
    plain_decimal,
    read_document,
    read_text,
    read_toml,
    table_name,
)
from dragoman.pricing.names import provider_key
from dragoman.pricing.overrides import Models, Period, read_models
from dragoman.pricing.rates import BASE, ExchangeRate, read_series


@dataclass(frozen=True, slots=True)
class Merged:
    """A file as it is and as it would be."""

    before: str
    """Empty when there is none yet."""
    text: str

    @property
    def changed(self) -> bool:
        """Whether there is anything to write."""
        return self.before != self.text


@dataclass(frozen=True, slots=True)
class MergedRates(Merged):
    """Likewise, of rates, with what is new in words shorter than the file's."""

    added: Mapping[str, tuple[date, ...]]
    """New days, by currency."""
    replaced: Mapping[str, tuple[tuple[ExchangeRate, ExchangeRate], ...]]
    """Old and new rates of days that had another one, by currency."""


def merge_prices(file: Path, source: Path, *, since: date) -> Merged:
    """`file` with the prices of `source`, those without a `from` as of the day `since`. Raises PriceFileError."""
    before = read_text(file)
    models = read_models(file, read_toml(file)[0]) if before else {}
    brought = read_models(source, read_document(source))
    spelt = {provider_key(provider): provider for provider in models}
    changed = False
    for provider, new in brought.items():
        known = models.setdefault(spelt.get(provider_key(provider), provider), {})
        names = {name.lower(): name for name in known}
        for pattern, periods in new.items():
            name = names.get(pattern.lower(), pattern)
            old = known.get(name, ())
            dated = [_dated(source, period, since, provider, pattern) for period in periods]
            known[name] = _merged(old, dated)
            changed = changed or set(map(_figures, old)) != set(map(_figures, known[name]))
    if not changed:
        return Merged(before, before)
    text = _prices_text(models, Comments(before))
    if read_models(file, tomllib.loads(text, parse_float=Decimal)) != models:
        raise PriceFileError(file, "cannot be written so that it reads the same")
    return Merged(before, text)


def _dated(file: Path, period: Period, since: date, provider: str, pattern: str) -> Period:
    if period.start != date.min:
        return period
    if since >= period.end:
        problem = f"is not later than {since}, from which on it would hold"
        raise PriceFileError(file, problem, table=table_name(provider, pattern), key="until")
    return replace(period, start=since)


def _merged(old: Iterable[Period], new: Iterable[Period]) -> tuple[Period, ...]:
    """The periods, the new ones before the old ones where they meet, in order of time."""
    periods = list(old)
    for period in new:
        kept = []
        for each in periods:
            if not each.overlaps(period):
                kept.append(each)
                continue
            if each.start < period.start:
                kept.append(replace(each, end=period.start))
            if each.end > period.end:
                kept.append(replace(each, start=period.end))
        periods = [*kept, period]
    joined: list[Period] = []
    for each in sorted(periods, key=lambda period: period.start):
        if joined and joined[-1].end == each.start and joined[-1].prices == each.prices:
            joined[-1] = replace(joined[-1], end=each.end)
        else:
            joined.append(each)
    return tuple(joined)


def _figures(period: Period) -> tuple[object, ...]:
    return period.start, period.end, *sorted(period.prices.items())


def _prices_text(models: Models, comments: Comments) -> str:
    blocks = [comments.head] if comments.head else []
    for provider, of_provider in models.items():
        if comments.above(provider):
            blocks.append(comments.above(provider))
        for pattern, periods in of_provider.items():
            name = table_name(provider, pattern)
            above = comments.above(provider, pattern)
            for number, period in enumerate(periods):
                header = name if len(periods) == 1 else f"[{name}]"
                blocks.append([*(above if number == 0 else []), header, *_period_lines(period)])
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"


def _period_lines(period: Period) -> Iterable[str]:
    if period.start != date.min:
        yield f"from = {period.start.isoformat()}"
    if period.end != date.max:
        yield f"until = {period.end.isoformat()}"
    for key, price in period.prices.items():
        yield f'{key} = "{plain_decimal(price)}"'


def merge_rates(file: Path, source: Path, *, currencies: Iterable[str], since: date | None) -> MergedRates:
    """`file` with the rates of `source`, of the days from `since` on (None: all).

    `currencies`: those that are taken besides those that `file` has. Of a TOML file all are taken. Raises PriceFileError.
    """
    before = read_text(file)
    known = {code: _by_day(series) for code, series in read_series(file).items()} if before else {}
    wanted = {*known, *currencies} - {BASE}
    from_ecb = source.suffix.lower() == ".csv"
    brought = ecb.read_rates(source, sorted(wanted)) if from_ecb else read_series(source)
    added: dict[str, tuple[date, ...]] = {}
    replaced: dict[str, tuple[tuple[ExchangeRate, ExchangeRate], ...]] = {}
    for code, series in brought.items():
        old = known.get(code, {})
        new = {rate.day: rate for rate in series if since is None or rate.day >= since}
        if days := tuple(sorted(new.keys() - old.keys())):
            added[code] = days
        others = [day for day in sorted(new.keys() & old.keys()) if new[day].per_usd != old[day].per_usd]
        if others:
            replaced[code] = tuple((old[day], new[day]) for day in others)
        if new:
            known[code] = {**old, **new}
    if not added and not replaced:
        return MergedRates(before, before, {}, {})
    return MergedRates(before, _rates_text(known, Comments(before)), added, replaced)


def _by_day(series: Iterable[ExchangeRate]) -> dict[date, ExchangeRate]:
    return {rate.day: rate for rate in series}


def _rates_text(rates: Mapping[str, Mapping[date, ExchangeRate]], comments: Comments) -> str:
    blocks = [comments.head] if comments.head else []
    for code, series in rates.items():
        lines = (f'{day.isoformat()} = "{plain_decimal(series[day].per_usd)}"' for day in sorted(series))
        blocks.append([*comments.above("rates", code), table_name("rates", code), *lines])
    return "\n\n".join("\n".join(lines) for lines in blocks) + "\n"
