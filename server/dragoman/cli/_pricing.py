"""What the commands about prices and rates share: the settings that name the files, and how their mistakes are told."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dragoman.cli._console import clean, stdout
from dragoman.cli._report import USAGE, Failure

if TYPE_CHECKING:
    from dragoman.config import Settings
    from dragoman.pricing import Pricer

PricesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--prices-file",
        metavar="FILE",
        help="Your own prices, TOML.",
        show_default="DRAGOMAN_PRICES_FILE",
    ),
]
RatesOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--rates-file",
        metavar="FILE",
        help="Your own exchange rates, TOML.",
        show_default="DRAGOMAN_RATES_FILE",
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON.")]
DryRunOption: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", help="Show what would change, and change nothing.")
]


@contextmanager
def told() -> Iterator[None]:
    """What is wrong with a file becomes a failure of the command."""
    from dragoman.pricing import PriceFileError

    try:
        yield
    except PriceFileError as error:
        raise Failure(str(error)) from error


def load_pricer(settings: "Settings", currency: str | None = None) -> "Pricer":
    """The prices and rates of the settings. Raises Failure."""
    from dragoman.pricing import Pricer

    with told():
        return Pricer.load(
            currency=currency or settings.currency,
            prices_file=settings.prices_file,
            rates_file=settings.rates_file,
        )


def named(file: Path | None, what: str) -> Path:
    """The operator's file. Raises Failure when the settings name none."""
    if file is None:
        raise Failure(
            f"no file of {what} is named",
            hint=f"Name one with --{what}-file FILE or DRAGOMAN_{what.upper()}_FILE; a new one is made.",
            code=USAGE,
        )
    return file


def day(text: str | None, option: str) -> date | None:
    """`2026-01-31`. Raises Failure."""
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise Failure(f"{option} wants a date such as 2026-01-31, not {text!r}", code=USAGE) from error


def today() -> date:
    """The day on which a call of now would be priced: in UTC."""
    return datetime.now(UTC).date()


def moment_of(at: date) -> datetime:
    """Now, when the day is today; else its noon: some prices depend on the hour."""
    return datetime.now(UTC) if at == today() else datetime.combine(at, time(12), UTC)


def print_json(value: object) -> None:
    """To standard output, as it is: neither wrapped nor coloured."""
    typer.echo(json.dumps(value, indent=2, ensure_ascii=False))


def plain(number: Decimal) -> str:
    """`3.75`, `10`: no exponent, and no zeros at the end."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


def show_diff(file: Path, before: str, after: str) -> None:
    """What would change in the file, line by line."""
    import difflib

    console = stdout()
    console.soft_wrap = True
    name = str(file)
    styles = {"+": "green", "-": "red", "@": "cyan"}
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), name, name, lineterm="")
    for line in lines:
        console.print(clean(line), style=styles.get(line[:1]))
