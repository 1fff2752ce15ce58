"""The euro's reference rates as the European Central Bank publishes them: `eurofxref-hist.csv` and `eurofxref.csv`.

    Date,USD,JPY,...,ZAR,                         Date, USD, JPY, ..., ZAR,
    2026-11-20,1.1534,180.21,...,19.8732,         20 November 2026, 1.1534, 180.21, ..., 19.8732,

A figure is how much of the currency one euro was worth. So one dollar was worth `ZAR / USD` rands, and `1 / USD` euros: at
`MONEY_SCALE` decimal places, rounded half to even, once. Days without a figure for both (`N/A`) are left out.
"""

import csv
from collections.abc import Collection, Mapping
from datetime import date, datetime
from decimal import Decimal, localcontext
from pathlib import Path

from dragoman.pricing.files import PriceFileError, as_decimal, read_text
from dragoman.pricing.rates import BASE, RATE_LIMIT, ExchangeRate
from dragoman.pricing.sheet import EXACT
from dragoman.records import MONEY_SCALE, money

EURO = "EUR"

_NONE = frozenset({"", "N/A"})


def read_rates(file: Path, currencies: Collection[str]) -> dict[str, tuple[ExchangeRate, ...]]:
    """The rates per dollar of those of `currencies` that the file has, by day. Raises PriceFileError."""
    if not file.exists():
        raise PriceFileError(file, "cannot be read: No such file or directory")
    lines = list(csv.reader(read_text(file).removeprefix("\ufeff").splitlines()))
    head = [cell.strip() for cell in lines[0]] if lines else []
    if head[:1] != ["Date"] or BASE not in head:
        raise PriceFileError(file, f"has no first line such as Date,{BASE},JPY,...")
    rates: dict[str, dict[date, ExchangeRate]] = {}
    for number, cells in enumerate(lines[1:], 2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) > len(head):
            raise PriceFileError(file, "has more columns than the first line", table=f"line {number}")
        row = dict(zip(head, (cell.strip() for cell in cells), strict=False))
        day = _day(file, row["Date"], number)
        for code, per_usd in _per_usd(file, row, currencies, number).items():
            if day in rates.setdefault(code, {}):
                raise PriceFileError(file, f"has {day} twice", table=f"line {number}")
            rates[code][day] = ExchangeRate(per_usd, day)
    return {code: tuple(series[day] for day in sorted(series)) for code, series in rates.items()}


def _per_usd(
    file: Path, row: Mapping[str, str], currencies: Collection[str], number: int
) -> dict[str, Decimal]:
    if row.get(BASE, "") in _NONE:
        return {}
    dollars = _figure(file, row[BASE], BASE, number)
    found = {}
    for code in currencies:
        if code != EURO and row.get(code, "") in _NONE:
            continue
        figure = Decimal(1) if code == EURO else _figure(file, row[code], code, number)
        with localcontext(EXACT):
            found[code] = money(figure / dollars)
        if not 0 < found[code] < RATE_LIMIT:
            raise PriceFileError(file, "gives a rate that cannot be", table=f"line {number}", key=code)
    return found


def _figure(file: Path, text: str, code: str, number: int) -> Decimal:
    place = f"line {number}"
    figure = as_decimal(file, text, table=place, key=code, places=MONEY_SCALE, below=RATE_LIMIT)
    if figure == 0:
        raise PriceFileError(file, "must not be zero", table=place, key=code)
    return figure


def _day(file: Path, text: str, number: int) -> date:
    for form in ("%Y-%m-%d", "%d %B %Y"):
        try:
            return datetime.strptime(text, form).date()  # noqa: DTZ007 - a day has no time zone
        except ValueError:
            continue
    raise PriceFileError(
        file, "must be a day such as 2026-11-20 or 20 November 2026", table=f"line {number}", key="Date"
    )
