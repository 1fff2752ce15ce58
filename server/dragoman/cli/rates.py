"""`dragoman rates`: the exchange rates at which costs become the reporting currency. Needs no server."""

from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._console import clean, stdout, table
from dragoman.cli._pricing import (
    DryRunOption,
    JsonOption,
    RatesOption,
    day,
    load_pricer,
    named,
    plain,
    print_json,
    today,
    told,
)
from dragoman.cli._report import USAGE, Failure
from dragoman.cli._settings import load_settings

if TYPE_CHECKING:
    from dragoman.pricing import ExchangeRate, MergedRates

app = typer.Typer(no_args_is_help=True, help="Show and import exchange rates.")

_REPLACED = 20
"""Replaced rates that are shown one by one."""


@app.command("list")
def list_(
    currency: Annotated[
        str, typer.Option(metavar="CODE", help="Only this currency.", show_default="all")
    ] = "",
    last: Annotated[int, typer.Option(min=1, help="How many of each currency, the newest first.")] = 5,
    as_json: JsonOption = False,
    rates_file: RatesOption = None,
) -> None:
    """Shows how much of a currency one US dollar is worth. A call takes the newest rate that is not younger than itself.

    \b
    dragoman rates list
    dragoman rates list --currency ZAR --last 30
    """
    settings = load_settings({"rates_file": rates_file})
    rates = load_pricer(settings).rates
    codes = [currency.upper()] if currency else sorted(rates.currencies - {"USD"})
    rows = [(code, rate) for code in codes for rate in reversed(rates.series(code)[-last:])]
    if as_json:
        print_json([_as_json(code, rate) for code, rate in rows])
        return
    console = stdout()
    console.print(f"rates: {settings.rates_file or 'those that are shipped, which are indicative'}")
    if not rows:
        console.print("there are none")
        return
    shown = table("", "currency", "day", "per US dollar", "age", right=("per US dollar", "age"))
    for code, rate in rows:
        shown.add_row(code, rate.day.isoformat(), plain(rate.per_usd), _age(rate.day))
    console.print(shown)


def _age(of: date) -> str:
    days = (today() - of).days
    return "in the future" if days < 0 else f"{days:,} day{'' if days == 1 else 's'}"


def _as_json(code: str, rate: "ExchangeRate") -> dict[str, str]:
    return {"currency": code, "day": rate.day.isoformat(), "per_usd": plain(rate.per_usd)}


@app.command("import")
def import_(
    source: Annotated[
        Path, typer.Argument(metavar="FILE", help="The European Central Bank's CSV, or TOML by day.")
    ],
    currency: Annotated[
        str,
        typer.Option(
            metavar="CODE,...",
            help="Currencies to take from a CSV besides those of your file.",
            show_default="the reporting currency",
        ),
    ] = "",
    since: Annotated[
        str | None, typer.Option(metavar="DATE", help="Only days from then on.", show_default="all")
    ] = None,
    dry_run: DryRunOption = False,
    rates_file: RatesOption = None,
) -> None:
    """Merges exchange rates into your own file, by day; other days stay.

    The European Central Bank publishes euros: `eurofxref-hist.csv` has all days, `eurofxref.csv` the last one. A dollar
    was worth ZAR / USD rands of a line, at 12 decimal places. Servers read your file when they start; calls that are
    booked keep their costs (see `dragoman usage reprice`).

    \b
    dragoman rates import eurofxref-hist.csv --since 2026-01-01 --rates-file rates.toml
    dragoman rates import eurofxref.csv --currency ZAR,EUR --dry-run
    """
    settings = load_settings({"rates_file": rates_file})
    file = named(settings.rates_file, "rates")
    codes = _codes(currency) or [settings.currency]
    from dragoman.pricing import merge_rates, write_text

    with told():
        merged = merge_rates(file, source, currencies=codes, since=day(since, "--since"))
        _show(merged)
        console = stdout()
        if not merged.changed:
            console.print("nothing changes")
        elif dry_run:
            console.print("not written: this was a dry run")
        else:
            write_text(file, merged.text)
            console.print(f"written: {file}")


def _codes(text: str) -> list[str]:
    codes = [part.strip().upper() for part in text.split(",") if part.strip()]
    for code in codes:
        if not (len(code) == 3 and code.isascii() and code.isalpha()):
            raise Failure(f"--currency wants codes such as ZAR,EUR, not {code!r}", code=USAGE)
    return codes


def _show(merged: "MergedRates") -> None:
    console = stdout()
    for code, days in merged.added.items():
        span = f"{days[0]}" if len(days) == 1 else f"{days[0]} to {days[-1]}"
        console.print(f"{clean(code)}: {len(days):,} new, {span}", style="green")
    for code, pairs in merged.replaced.items():
        console.print(f"{clean(code)}: {len(pairs):,} replaced", style="red")
        for old, new in pairs[-_REPLACED:]:
            console.print(f"  {new.day}: {plain(old.per_usd)} becomes {plain(new.per_usd)}")
