"""Usage as CSV and JSON: every figure exact, every page, for programs and spreadsheets.

A spreadsheet takes a text that begins like a formula for one, and runs it. Names of agents and users are chosen by others, so
such a text gets an apostrophe in front, which is what spreadsheets themselves do.
"""

import csv
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from dragoman.client import UsageDimension
    from dragoman.v1 import usage_service_pb2

Value: TypeAlias = str | int

STANDARD_OUTPUT = "-"

_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NAMES: "dict[UsageDimension, tuple[str, ...]]" = {
    "day": ("day",),
    "agent": ("agent_name",),
    "member": ("member_name",),
    "model": ("provider", "model"),
    "user": ("user",),
    "session": ("session_id",),
    "principal": ("principal",),
}
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_tokens",
    "cache_write_tokens",
    "cache_write_1h_tokens",
    "reasoning_tokens",
    "input_audio_tokens",
    "output_audio_tokens",
    "input_image_tokens",
    "output_image_tokens",
    "total_tokens",
)
_MONEY = ("currency", "cost", "cost_usd")


def columns(by: "list[UsageDimension]") -> list[str]:
    """The names of the columns: what is grouped by, counts, tokens, money."""
    names = [name for dimension in by for name in _NAMES[dimension]]
    return [*names, "runs", "model_calls", "unpriced_calls", *_TOKENS, *_MONEY]


def record(group: "usage_service_pb2.UsageGroup", by: "list[UsageDimension]") -> dict[str, Value]:
    """A group by the names of its columns. Amounts are texts, as exact as the ledger."""
    names = {name: str(getattr(group, name)) for dimension in by for name in _NAMES[dimension]}
    return {
        **names,
        "runs": group.runs,
        "model_calls": group.model_calls,
        "unpriced_calls": group.cost.unpriced_calls,
        **{name: int(getattr(group.usage, name)) for name in _TOKENS},
        "currency": group.cost.amount.currency_code,
        "cost": group.cost.exact_amount,
        "cost_usd": group.cost.exact_usd,
    }


async def write_csv(
    groups: "AsyncIterator[usage_service_pb2.UsageGroup]", by: "list[UsageDimension]", target: str
) -> int:
    """Writes all groups to the file, or to standard output for `-`; returns how many. RFC 4180, UTF-8.

    A file is there whole or not at all. Raises OSError.
    """
    if target == STANDARD_OUTPUT:
        return await _write(groups, by, sys.stdout)
    with _whole(Path(target)) as file:
        return await _write(groups, by, file)


@contextmanager
def _whole(path: Path) -> Iterator[IO[str]]:
    """A file that takes its name when all has been written."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with open(handle, "w", encoding="utf-8", newline="") as file:
            yield file
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


async def _write(
    groups: "AsyncIterator[usage_service_pb2.UsageGroup]", by: "list[UsageDimension]", file: IO[str]
) -> int:
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(columns(by))
    texts = {name for dimension in by for name in _NAMES[dimension]}
    count = 0
    async for group in groups:
        row = record(group, by)
        writer.writerow([harmless(str(value)) if name in texts else value for name, value in row.items()])
        count += 1
    return count


def harmless(text: str) -> str:
    """The text as no spreadsheet takes it for a formula."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def _umask() -> int:
    """That of this process: to read it is to set it."""
    mask = os.umask(0o077)
    os.umask(mask)
    return mask
