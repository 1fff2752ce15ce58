"""Reading the operator's TOML strictly: every mistake names the file, the table and the key, and stops the start-up.

Numbers are decimals from the first byte on: TOML floats are parsed as `Decimal`, and a string is as good as a number.

What is imported is merged into such a file, which is then written anew: whole or not at all. Comments above the first table
and above the table of a model or a currency stay; those between or behind values do not.
"""

import hashlib
import json
import os
import re
import tempfile
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


def read_document(file: Path) -> dict[str, object]:
    """A file to be imported: TOML, or JSON when its name ends so. Raises PriceFileError."""
    if file.suffix.lower() != ".json":
        return read_toml(file)[0]
    try:
        document = json.loads(file.read_bytes(), parse_float=Decimal)
        json.dumps(document, ensure_ascii=False, default=str).encode()  # JSON may hold half of a character
    except OSError as error:
        raise PriceFileError(file, f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise PriceFileError(file, f"is not valid JSON: {error}") from error
    if not isinstance(document, dict):
        raise PriceFileError(file, "must hold an object")
    return document


def read_text(file: Path) -> str:
    """A file's text; empty when there is no such file. Raises PriceFileError."""
    try:
        return file.read_bytes().decode("utf-8")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise PriceFileError(file, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise PriceFileError(file, "is not UTF-8") from error


def write_text(file: Path, text: str) -> None:
    """Writes the file, so that whoever reads it meanwhile has the old text or the new one. Raises PriceFileError."""
    target = file.resolve()  # a link stays a link
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as written:
                written.write(text)
                written.flush()
                os.fsync(written.fileno())
            Path(name).chmod(target.stat().st_mode & 0o777 if target.exists() else 0o644)
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise PriceFileError(file, f"cannot be written: {error.strerror}") from error


class Comments:
    """The comments of a TOML text that are kept when it is written anew."""

    def __init__(self, text: str) -> None:
        self._above: dict[tuple[str, ...], list[str]] = {}
        block: list[str] = []
        head: list[str] | None = None
        for line in map(str.strip, text.splitlines()):
            if line.startswith("#"):
                block.append(line)
            elif not line:
                # At the top of the file the first block is the file's own.
                if head is None and block:
                    head, block = block, []
                block = [*block, ""] if block else []
            elif line.startswith("["):
                self._above.setdefault(_header(line), []).extend(block)
                head, block = head or [], []
            else:
                head, block = head or [], []
        self.head = head if head is not None else block
        """The file's own: above the first empty line."""

    def above(self, *path: str) -> list[str]:
        """Those directly above the table of this name, or above its first one."""
        lines = self._above.get(path, [])
        while lines and not lines[-1]:
            lines = lines[:-1]
        return lines


def _header(line: str) -> tuple[str, ...]:
    """`[a."b.c"]` or `[[a."b.c"]]` as `("a", "b.c")`."""
    try:
        table: object = tomllib.loads(line)
    except ValueError:  # a list that goes over several lines
        return ()
    path: list[str] = []
    while isinstance(table, dict | list) and table:
        if isinstance(table, dict):
            path.append(next(iter(table)))
            table = table[path[-1]]
        else:
            table = table[0]
    return tuple(path)


def table_name(*path: str) -> str:
    """A table's header as the operator would write it: `[anthropic."claude-*"]`."""
    return "[" + ".".join(part if _BARE_KEY.fullmatch(part) else _quoted(part) for part in path) + "]"


def _quoted(text: str) -> str:
    """As a TOML string in quotes: JSON's are such, but for what TOML does not allow as it is."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def plain_decimal(number: Decimal) -> str:
    """`3.75`, `0.000001`, `10`: never with an exponent, and no zeros at the end that say nothing."""
    text = format(number, "f")
    return text.rstrip("0").rstrip(".") if "." in text else text


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
