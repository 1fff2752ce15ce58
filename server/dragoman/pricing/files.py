"""Reading the operator's TOML strictly: every mistake names the file, the table and the key, and stops the start-up.

Numbers are decimals from the first byte on: TOML floats are parsed as `Decimal`, and a string is as good as a number.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

_PLAIN_DECIMAL = re.compile(r"-?[0-9]{1,30}(\.[0-9]{1,30})?")
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


class PriceFileError(ValueError):
    """A price or rate file cannot be used. The message names `file`, `table` and `key` (empty where none applies)."""

    def __init__(self, file: Path, problem: str, *, table: str = "", key: str = "") -> None:
        place = " ".join(part for part in (table, key) if part)
        super().__init__(f"{file}: {place}: {problem}" if place else f"{file}: {problem}")
        self.file = file
        self.table = table
        self.key = key
        self.problem = problem


def read_toml(file: Path) -> tuple[dict[str, object], str]:
    """The parsed file and the first 8 hex digits of its SHA-256. Raises PriceFileError."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise PriceFileError(file, f"cannot be read: {error.strerror}") from error
    try:
        document = tomllib.loads(content.decode("utf-8"), parse_float=Decimal)
    except ValueError as error:  # covers bad UTF-8, bad TOML and impossible dates
        raise PriceFileError(file, f"is not valid TOML: {error}") from error
    return document, hashlib.sha256(content).hexdigest()[:8]


def table_name(*path: str) -> str:
    """A table's header as the operator would write it: `[anthropic."claude-*"]`."""
    return "[" + ".".join(part if _BARE_KEY.fullmatch(part) else f'"{part}"' for part in path) + "]"


def as_table(file: Path, value: object, *path: str) -> Mapping[str, object]:
    """`value` as a table, or PriceFileError."""
    if not isinstance(value, dict):
        raise PriceFileError(file, "must be a table", table=table_name(*path))
    return value


def as_decimal(file: Path, value: object, *, table: str, key: str, places: int, below: int) -> Decimal:
    """A number or numeric string in 0 <= n < `below` with at most `places` decimal places, or PriceFileError."""
    number = _to_decimal(value)
    if number is None or not number.is_finite():
        raise PriceFileError(file, 'must be a number such as 3.75 or "3.75"', table=table, key=key)
    if number.is_signed():
        raise PriceFileError(file, "must not be negative", table=table, key=key)
    if number >= below:
        raise PriceFileError(file, f"must be less than {below}", table=table, key=key)
    if number != round(number, places):
        raise PriceFileError(file, f"must not have more than {places} decimal places", table=table, key=key)
    return number


def _to_decimal(value: object) -> Decimal | None:
    if isinstance(value, Decimal):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, str) and _PLAIN_DECIMAL.fullmatch(value):
        return Decimal(value)
    return None


def as_date(file: Path, value: object, *, table: str, key: str) -> date:
    """A TOML date or an ISO 8601 string of one, or PriceFileError."""
    if isinstance(value, date) and not isinstance(value, datetime):
        return value
    if isinstance(value, str):
        try:
            day = date.fromisoformat(value)
        except ValueError:
            day = None
        if (
            day is not None and day.isoformat() == value
        ):  # not the compact or week forms: one day, one spelling
            return day
    raise PriceFileError(file, "must be a date such as 2026-11-20", table=table, key=key)
