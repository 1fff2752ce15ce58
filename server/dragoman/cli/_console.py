"""Where text goes, and how tokens, money and times look in it.

Text of models, tools and callers is never taken for markup, and its control characters are made visible: an answer
must not be able to move the cursor or to retitle the terminal.
"""

import os
import re
import sys
from collections.abc import Iterable
from datetime import UTC
from decimal import Decimal
from typing import TYPE_CHECKING, NoReturn

from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from google.protobuf.timestamp_pb2 import Timestamp

    from dragoman.v1 import usage_pb2

BROKEN_PIPE = 141
"""Exit code when whoever read the output has gone (`| head`): what a shell tells of a process that SIGPIPE ended."""

_PIPED_WIDTH = 160
"""Columns when the output is not a terminal: tables are then read by programs or in logs."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def hang_up() -> NoReturn:
    """Ends the command because nobody reads it any more. Quietly: what the interpreter still flushes goes nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(nowhere, stream.fileno())
    raise SystemExit(BROKEN_PIPE)


class _Console(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Instead of Rich's own: with our exit code, and for standard error too."""
        self.quiet = True
        hang_up()


def stdout() -> Console:
    """What was asked for."""
    return _Console(
        markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else _PIPED_WIDTH
    )


def stderr() -> Console:
    """What is said besides: errors and hints."""
    return _Console(stderr=True, markup=False, highlight=False, emoji=False, soft_wrap=True)


def clean(text: str) -> str:
    """`text` with control characters other than newline and tab shown as their code."""
    return _CONTROL.sub(lambda match: f"\\x{ord(match.group()):02x}", text.replace("\r\n", "\n"))


def shorten(text: str, limit: int = 200) -> str:
    """The text on one line, clean, cut at `limit` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else f"{line[: limit - 1]}…"


def table(title: str, *columns: str, right: Iterable[str] = ()) -> Table:
    """A table with these columns; those named in `right` hold figures."""
    figures = frozenset(right)
    made = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold")
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in figures else "left",
            no_wrap=column in figures,
            overflow="fold",
        )
    return made


def money(cost: "usage_pb2.Cost") -> str:
    """`ZAR 0.104232`, with what is missing in it; `no price` when nothing was priced."""
    amount = Decimal(cost.exact_amount or 0)
    missing = cost.unpriced_calls
    if missing and not amount:
        return "no price"
    text = amount_text(amount, cost.amount.currency_code)
    return f"{text} + {missing} unpriced" if missing else text


def amount_text(amount: Decimal, currency: str) -> str:
    """Currency and amount with six places: a model call costs fractions of a cent."""
    return f"{currency} {amount:,.6f}".strip()


def tokens(usage: "usage_pb2.TokenUsage") -> str:
    """`1,200 in, 80 out`, with cache tokens where there were any."""
    parts = [f"{usage.input_tokens:,} in", f"{usage.output_tokens:,} out"]
    if usage.cache_read_tokens:
        parts.append(f"{usage.cache_read_tokens:,} cached")
    if usage.cache_write_tokens:
        parts.append(f"{usage.cache_write_tokens:,} to cache")
    return ", ".join(parts)


def calls(count: int) -> str:
    """`1 model call`, `2 model calls`."""
    return f"{count:,} model call{'' if count == 1 else 's'}"


def when(stamp: "Timestamp") -> str:
    """A time in UTC, to the second; empty when it is unset."""
    if not stamp.ByteSize():
        return ""
    return stamp.ToDatetime(tzinfo=UTC).strftime("%Y-%m-%d %H:%M:%S")


def lasted(start: "Timestamp", end: "Timestamp") -> str:
    """The time between, in seconds; empty while there is no end."""
    if not end.ByteSize():
        return ""
    span = end.ToDatetime(tzinfo=UTC) - start.ToDatetime(tzinfo=UTC)
    return f"{span.total_seconds():.2f} s"
