"""`dragoman prices`: what model calls cost, and the operator's own prices. Needs no server."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._console import clean, stdout, table
from dragoman.cli._pricing import (
    DryRunOption,
    JsonOption,
    PricesOption,
    RatesOption,
    day,
    load_pricer,
    moment_of,
    named,
    plain,
    print_json,
    show_diff,
    today,
    told,
)
from dragoman.cli._report import FAILED
from dragoman.cli._settings import load_settings
from dragoman.patterns import matches

if TYPE_CHECKING:
    from rich.table import Table

    from dragoman.config import Settings
    from dragoman.pricing import PriceLine, Pricer
    from dragoman.v1 import agent_service_pb2

app = typer.Typer(no_args_is_help=True, help="Show, check and import the prices of models.")

_COLUMNS = {
    "input_tokens": "input",
    "output_tokens": "output",
    "cache_read_tokens": "cache read",
    "cache_write_tokens": "cache write",
    "cache_write_1h_tokens": "cache write 1h",
}
"""The kinds of tokens with a column of their own."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A model and its prices on a day."""

    provider: str
    model: str
    lines: "list[PriceLine]"


@app.command("list")
def list_(
    provider: Annotated[str, typer.Option(metavar="NAME", help="Only this provider's models.")] = "",
    model: Annotated[
        str, typer.Option(metavar="NAME", help="Only models with this in their names, or like it (*, ?).")
    ] = "",
    at: Annotated[
        str | None, typer.Option(metavar="DATE", help="Prices of that day, in UTC.", show_default="today")
    ] = None,
    as_json: JsonOption = False,
    prices_file: PricesOption = None,
) -> None:
    """Shows unit prices in US dollars per million tokens, and where they come from.

    Your own prices come first; all others are shown for a provider or a model only, as there are thousands.

    \b
    dragoman prices list
    dragoman prices list --provider anthropic --at 2026-01-31
    dragoman prices list --model "claude-haiku-*" --json
    """
    settings = load_settings({"prices_file": prices_file})
    on = day(at, "--at") or today()
    pricer = load_pricer(settings)
    names = pricer.own_names()
    every = bool(provider or model)
    if every:
        names = list(dict.fromkeys([*names, *pricer.library_names()]))
    found = list(_listed(pricer, names, provider, model, on))
    if as_json:
        print_json([_as_json(each, on) for each in found])
        return
    console = stdout()
    if found:
        console.print(prices_table(found))
    else:
        console.print("no such model")
    if not every:
        count = len(pricer.library_names())
        console.print(
            f"and {count:,} models of the price library: name a --provider or a --model", style="dim"
        )


def _listed(
    pricer: "Pricer", names: Iterable[tuple[str, str]], provider: str, model: str, on: date
) -> Iterator[Listed]:
    from dragoman.pricing.names import provider_key

    wanted = provider_key(provider)
    pattern = model.lower()
    pattern = pattern if set(pattern) & {"*", "?"} else f"*{pattern}*"
    at = moment_of(on)
    for key, name in names:
        if (wanted and key != wanted) or not matches(name.lower(), pattern):
            continue
        if lines := pricer.explain(key, name, at):
            yield Listed(key, name, lines)


def prices_table(found: Iterable[Listed]) -> "Table":
    """A row for each model: its price for each kind of tokens, and where these come from; below it a row for each size of
    a request from which on all tokens have other prices."""
    heads = tuple(_COLUMNS.values())
    shown = table("", "provider", "model", *heads, "other", "from", right=heads)
    for each in found:
        for above in sorted({line.above_input_tokens for line in each.lines}):
            prices = {line.kind: line for line in each.lines if line.above_input_tokens == above}
            others = [f"{_words(kind)} {_price(prices, kind)}" for kind in prices if kind not in _COLUMNS]
            shown.add_row(
                "" if above else clean(each.provider),
                f"  above {above:,} in" if above else clean(each.model),
                *(_price(prices, kind) for kind in _COLUMNS),
                ", ".join(others),
                "" if above else each.lines[0].price_version,
            )
    return shown


def _price(prices: "Mapping[str, PriceLine]", kind: str) -> str:
    """Empty when there is none."""
    return plain(prices[kind].usd_per_million) if kind in prices else ""


def _words(kind: str) -> str:
    return kind.removesuffix("_tokens").replace("_", " ")


def _as_json(each: Listed, on: date) -> dict[str, object]:
    return {
        "provider": each.provider,
        "model": each.model,
        "date": on.isoformat(),
        "source": each.lines[0].price_version,
        "prices": [
            {
                "kind": line.kind,
                "usd_per_million": plain(line.usd_per_million),
                "above_input_tokens": line.above_input_tokens,
            }
            for line in each.lines
        ],
    }


@app.command()
def check(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="Prices to check, instead of those of the settings."),
    ] = None,
    rates_file: RatesOption = None,
) -> None:
    """Checks your files of prices and rates, and that every model of your agents has a price and a rate today.

    Exits with 1 when a file is wrong or a model has no price: its calls would be booked without a cost.

    \b
    dragoman prices check
    dragoman prices check new-prices.toml
    """
    settings = load_settings({"prices_file": file, "rates_file": rates_file})
    pricer = load_pricer(settings)
    console = stdout()
    for what, name in (("prices", settings.prices_file), ("rates", settings.rates_file)):
        console.print(f"{what}: {name or 'those that are shipped'}")
    rate = pricer.rate(today())
    if rate is None:
        console.print(f"there is no exchange rate to {pricer.currency} yet", style="red")
    elif pricer.currency != "USD":
        console.print(f"1 USD is {plain(rate.per_usd)} {pricer.currency} since {rate.day}")
    models = list(_models(_agents(settings)))
    if not models:
        console.print("no agents are named: only the files were checked")
    else:
        unpriced = _show_models(pricer, models)
        if unpriced:
            console.print(f"without a price: {', '.join(unpriced)}", style="red")
            raise typer.Exit(FAILED)
    if rate is None:
        raise typer.Exit(FAILED)


def _agents(settings: "Settings") -> "Sequence[agent_service_pb2.Agent]":
    """What would be served. Raises Failure with all that is wrong with it."""
    from dragoman.cli.agents import load_catalog

    return load_catalog(settings).agents()


def _models(
    agents: "Iterable[agent_service_pb2.Agent]", above: str = ""
) -> "Iterator[tuple[str, agent_service_pb2.Agent]]":
    """Agents and members of teams, with the names of the teams before their own."""
    for agent in agents:
        name = f"{above}{agent.name}"
        if agent.model:
            yield name, agent
        yield from _models(agent.members, f"{name} / ")


def _show_models(pricer: "Pricer", models: "Iterable[tuple[str, agent_service_pb2.Agent]]") -> list[str]:
    """Prints a row for each; returns the models that have no price."""
    at = moment_of(today())
    shown = table("", "agent", "provider", "model", "input", "output", "from", right=("input", "output"))
    unpriced: dict[str, None] = {}
    for name, agent in models:
        lines = pricer.explain(agent.provider, agent.model, at)
        prices = {line.kind: line for line in lines if line.above_input_tokens == 0}
        if not lines:
            unpriced[f"{agent.provider} {agent.model}"] = None
        shown.add_row(
            clean(name),
            clean(agent.provider),
            clean(agent.model),
            _price(prices, "input_tokens"),
            _price(prices, "output_tokens"),
            lines[0].price_version if lines else "no price",
            style=None if lines else "red",
        )
    stdout().print(shown)
    return [clean(each) for each in unpriced]


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(metavar="FILE", help="Prices as TOML, or as JSON (.json).")],
    since: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="DATE",
            help="The first day, in UTC, of prices that name none.",
            show_default="today",
        ),
    ] = None,
    dry_run: DryRunOption = False,
    prices_file: PricesOption = None,
) -> None:
    """Merges prices into your own file: old ones stay for the calls of their time.

    FILE has the form of your own file: by provider and model, US dollars per million tokens; `from` and `until` if you
    like. In JSON: {"anthropic": {"claude-sonnet-4-5": {"input": "2.70", "output": "13.50"}}}. Your file is written anew:
    comments above a table stay, others do not. Servers read it when they start; calls that are booked keep their costs
    (see `dragoman usage reprice`).

    \b
    dragoman prices import new.json --dry-run
    dragoman prices import new.toml --from 2026-12-01 --prices-file prices.toml
    """
    settings = load_settings({"prices_file": prices_file})
    file = named(settings.prices_file, "prices")
    from dragoman.pricing import merge_prices, write_text

    with told():
        merged = merge_prices(file, source, since=day(since, "--from") or today())
        show_diff(file, merged.before, merged.text)
        console = stdout()
        if not merged.changed:
            console.print("nothing changes")
        elif dry_run:
            console.print("not written: this was a dry run")
        else:
            write_text(file, merged.text)
            console.print(f"written: {file}")
