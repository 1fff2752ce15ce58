"""`dragoman usage reprice`: prices booked calls again, by the prices and rates known now. Works on the database itself.

The ledger is read stretch by stretch. A call is priced as of the moment when it ended, in the currency in which it was
booked; it changes when any figure of its cost does. One that has a cost keeps it when none is known now. Changes are written
in small batches, each a transaction (see storage/reprice.py), so servers may run, and what is interrupted is simply done
again: it goes on where it stopped.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._console import amount_text, clean, stderr, stdout, table
from dragoman.cli._pricing import PricesOption, RatesOption, load_pricer
from dragoman.cli._report import USAGE, Failure
from dragoman.cli._settings import DatabaseOption, load_settings
from dragoman.cli._values import moment

if TYPE_CHECKING:
    from rich.table import Table

    from dragoman.config import Settings
    from dragoman.pricing import Pricer
    from dragoman.records import Cost
    from dragoman.storage import Change, Chosen, LedgerRow, SqlStore

BATCH = 200
"""Calls that one transaction changes at most: on SQLite all other writers wait for it."""


def reprice(
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only calls from then on, in UTC.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only calls before, in UTC.")] = None,
    agent: Annotated[str, typer.Option(metavar="NAME", help="Only runs of this agent.")] = "",
    model: Annotated[str, typer.Option(metavar="NAME", help="Only calls of this model.")] = "",
    only_unpriced: Annotated[
        bool, typer.Option("--only-unpriced", help="Only calls without a cost.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    database_url: DatabaseOption = None,
    prices_file: PricesOption = None,
    rates_file: RatesOption = None,
) -> None:
    """Prices booked model calls again, with the prices and exchange rates known now for the time of each call.

    Changes the ledger, and with it the totals of runs and the costs of messages; keeps the old figures in
    model_call_prices. The events of runs stay as they were sent. A call never loses its cost, and keeps its currency.
    Calls of runs that have not ended are left alone. Needs no server, and servers may run.

    \b
    dragoman usage reprice --dry-run
    dragoman usage reprice --only-unpriced --yes
    dragoman usage reprice --since 2026-01-01 --model claude-sonnet-4-5 --dry-run
    """
    if dry_run and yes:
        raise Failure("--dry-run and --yes do not go together", code=USAGE)
    if not (dry_run or yes or can_ask()):
        raise Failure("nobody can be asked here: give --dry-run or --yes", code=USAGE)
    settings = load_settings(
        {"database_url": database_url, "prices_file": prices_file, "rates_file": rates_file}
    )
    from dragoman.storage import Chosen
    from dragoman.telemetry import configure_logging

    # That a call has no price is told in the table.
    configure_logging("ERROR", settings.log_format)
    chosen = Chosen(moment(since, "--since"), moment(until, "--until"), agent, model, only_unpriced)
    pricing = Pricing(settings)
    _check_schema(settings)
    if yes:
        tally = asyncio.run(_go_through(settings, chosen, pricing, write=True))
        _show(tally, "changed")
        return
    planned = asyncio.run(_go_through(settings, chosen, pricing, write=False))
    _show(planned, "to change")
    if dry_run or not planned.changes:
        return
    if not typer.confirm("Change them?"):
        raise typer.Abort
    tally = asyncio.run(_go_through(settings, chosen, pricing, write=True))
    _show_written(tally)


def can_ask() -> bool:
    """Whether there is somebody at a terminal."""
    return sys.stdin.isatty()


class Pricing:
    """What a call costs by the prices and rates of now, in any currency."""

    def __init__(self, settings: "Settings") -> None:
        """Raises Failure when a file is wrong."""
        self._settings = settings
        self._pricers: dict[str, Pricer | None] = {settings.currency: load_pricer(settings)}

    def change(self, row: "LedgerRow") -> "Change | None":
        """The call's other cost; None when it stays as it is."""
        from dragoman.storage import Change

        call, pricer = row.call, self._pricer(row.currency)
        if pricer is None:
            return None
        cost = pricer.price(call.provider, call.model, call.usage, call.start_time + call.duration)
        return None if cost is None or _same(cost, call.cost) else Change(row, cost)

    def _pricer(self, currency: str) -> "Pricer | None":
        """None when there is no rate to the currency."""
        if currency not in self._pricers:
            try:
                self._pricers[currency] = load_pricer(self._settings, currency)
            except Failure:  # the files are sound: they have been read before
                self._pricers[currency] = None
        return self._pricers[currency]


def _same(new: "Cost", old: "Cost | None") -> bool:
    """Whether all figures are. The version alone changes with every line of the file it names."""
    return old is not None and replace(new, price_version=old.price_version) == old


@dataclass(slots=True)
class Line:
    """The chosen calls of one model."""

    calls: int = 0
    changed: int = 0
    priced: int = 0
    """Of those that change: had no cost before."""
    unpriced: int = 0
    """Have no cost, and get none."""
    before: Decimal = Decimal(0)
    after: Decimal = Decimal(0)
    """The sums of costs in the reporting currency."""


@dataclass(slots=True)
class Tally:
    """What was found, and what became of it."""

    lines: dict[tuple[str, str, str], Line] = field(default_factory=dict)
    """By provider, model and currency."""
    unended: int = 0
    meanwhile: int = 0
    """Not changed after all: their runs have not ended; somebody else changed them."""

    @property
    def changes(self) -> int:
        """Calls that change."""
        return sum(line.changed for line in self.lines.values())

    def note(self, row: "LedgerRow", change: "Change | None") -> None:
        """A call, and its change if there is one."""
        key = (row.call.provider, row.call.model, row.currency)
        line = self.lines.setdefault(key, Line())
        old = row.call.cost
        new = old if change is None else change.cost
        line.calls += 1
        line.changed += change is not None
        line.priced += change is not None and old is None
        line.unpriced += new is None
        line.before += Decimal(0) if old is None else old.amount
        line.after += Decimal(0) if new is None else new.amount


def _check_schema(settings: "Settings") -> None:
    """Raises Failure when the database cannot be used, or not yet."""
    from dragoman import storage

    try:
        state = storage.schema_state(settings.database_url)
    except (RuntimeError, ValueError) as error:
        raise Failure(str(error)) from error
    if not state.up_to_date:
        raise Failure("the database's schema is not up to date", hint="Run `dragoman migrate` first.")


async def _go_through(settings: "Settings", chosen: "Chosen", pricing: Pricing, *, write: bool) -> Tally:
    """Prices the chosen calls; writes what changes when it is to."""
    from dragoman.errors import StorageUnavailable
    from dragoman.records import utcnow

    tally, now = Tally(), utcnow()
    try:
        async with _store(settings) as store, _progress() as progress:
            after, looked_at = None, 0
            while True:
                stretch = await store.scan_calls(chosen, after)
                changes = {row.call.id: pricing.change(row) for row in stretch.rows}
                due = [change for change in changes.values() if change is not None]
                done = await _write(store, due, now, tally) if write else {each.row.call.id for each in due}
                for row in stretch.rows:
                    tally.note(row, changes[row.call.id] if row.call.id in done else None)
                looked_at += len(stretch.rows)
                progress(
                    f"{looked_at:,} calls, {tally.changes:,} of them {'changed' if write else 'to change'}"
                )
                if stretch.last is None:
                    return tally
                after = stretch.last
    except StorageUnavailable as error:
        raise Failure(
            "the database does not answer any more",
            hint="What was written stays. The same command goes on where it stopped.",
        ) from error


async def _write(store: "SqlStore", due: "Sequence[Change]", now: datetime, tally: Tally) -> "set[object]":
    """Writes changes, a batch at a time. Returns the ids of the calls that were changed."""
    done: set[object] = set()
    for start in range(0, len(due), BATCH):
        replaced = await store.replace_costs(due[start : start + BATCH], now)
        done |= replaced.done
        tally.unended += len(replaced.unended)
        tally.meanwhile += len(replaced.changed)
    return done


@asynccontextmanager
async def _store(settings: "Settings") -> "AsyncIterator[SqlStore]":
    from dragoman.storage import open_store

    store = open_store(settings.database_url, connections=1, sqlite_synchronous=settings.sqlite_synchronous)
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@asynccontextmanager
async def _progress() -> AsyncIterator[Callable[[str], None]]:
    """A line on a terminal that says how far it is; nothing elsewhere."""
    console = stderr()
    if not console.is_terminal:
        yield lambda _text: None
        return
    with console.status("") as status:
        yield status.update


def _show(tally: Tally, heading: str) -> None:
    """A row for each model, and what there is to say besides."""
    console = stdout()
    if not tally.lines:
        console.print("no such calls")
        return
    console.print(reprice_table(tally, heading))
    _show_rest(tally)


def _show_written(tally: Tally) -> None:
    stdout().print(f"{tally.changes:,} changed")
    _show_rest(tally)


def _show_rest(tally: Tally) -> None:
    console = stdout()
    unpriced = sum(line.unpriced for line in tally.lines.values())
    for count, what in (
        (unpriced, "without a price or a rate still"),
        (tally.unended, "left alone: their runs have not ended"),
        (tally.meanwhile, "left alone: changed by somebody else meanwhile"),
    ):
        if count:
            console.print(f"{count:,} {what}")


def reprice_table(tally: Tally, heading: str) -> "Table":
    """A row for each model: its calls, those that change, and the sums of costs before and after."""
    figures = ("calls", heading, "before", "after", "difference")
    shown = table("", "provider", "model", *figures, right=figures)
    for (provider, model, currency), line in sorted(tally.lines.items()):
        newly = f" ({line.priced:,} had no cost)" if line.priced else ""
        shown.add_row(
            clean(provider),
            clean(model),
            f"{line.calls:,}",
            f"{line.changed:,}{newly}",
            amount_text(line.before, currency),
            amount_text(line.after, currency),
            f"{line.after - line.before:+,.6f}",
        )
    return shown
