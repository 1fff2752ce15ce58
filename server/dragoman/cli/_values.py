"""Values given on a command line: `key=value` pairs and dates."""

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from dragoman.cli._report import USAGE, Failure


def pairs(given: Sequence[str], option: str) -> dict[str, str]:
    """`key=value` texts as a dictionary. Raises Failure for anything else and for a key that comes twice."""
    found: dict[str, str] = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise Failure(f"{option} wants key=value, not {text!r}", code=USAGE)
        if key in found:
            raise Failure(f"{option} gives {key!r} twice", code=USAGE)
        found[key] = value
    return found


def inputs(given: Sequence[str], option: str) -> dict[str, object] | None:
    """Inputs for an agent. A value is JSON where it can be (`3`, `true`, `["a"]`), else text; None without any."""
    if not given:
        return None
    return {key: _json(value) for key, value in pairs(given, option).items()}


def _json(text: str) -> object:
    try:
        value: object = json.loads(text)
    except ValueError:
        return text
    return value


def moment(text: str | None, option: str) -> datetime | None:
    """`2026-01-31` or `2026-01-31T08:00` (UTC unless it says otherwise). Raises Failure."""
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise Failure(
            f"{option} wants a date or time such as 2026-01-31 or 2026-01-31T08:00, not {text!r}", code=USAGE
        ) from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


_DURATION = re.compile(r"(\d{1,6})([smhdw])")
_UNITS = {
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
    "w": timedelta(weeks=1),
}


def duration(text: str, option: str) -> timedelta:
    """`90s`, `15m`, `12h`, `30d` or `4w`. Raises Failure."""
    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise Failure(f"{option} wants a time such as 15m, 12h or 30d, not {text!r}", code=USAGE)
    return int(found[1]) * _UNITS[found[2]]
