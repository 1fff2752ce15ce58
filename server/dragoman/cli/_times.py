"""Times given on a command line, as people say them, and the zone that they mean."""

import re
from datetime import UTC, datetime, time, timedelta
from typing import Annotated, TypeAlias
from zoneinfo import ZoneInfo

import typer

from dragoman import zones
from dragoman.cli._report import USAGE, Failure

_AGO = re.compile(r"([1-9]\d{0,4})(h|d|w)")
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


TimeZoneOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--time-zone",
        metavar="ZONE",
        help="IANA name of the zone of days and times.",
        show_default="this machine's",
    ),
]


def zone_of(name: str) -> ZoneInfo:
    """The zone of that name; without one that of this machine. Raises Failure."""
    from dragoman.config import local_time_zone

    try:
        return zones.zone(name or local_time_zone())
    except ValueError as error:
        raise Failure(f"--time-zone: {name!r} {error}", code=USAGE) from error


def when(text: str | None, option: str, zone: ZoneInfo, now: datetime) -> datetime | None:
    """A date or time as `moment`, in `zone` unless it says otherwise; or when a day, week or month there begins (`today`,
    `yesterday`, `this-week`, `this-month`, `last-month`, `this-year`); or so long before `now` (`12h`, `7d`, `4w`).

    Raises Failure.
    """
    if text is None:
        return None
    today = now.astimezone(zone).date()
    month = today.replace(day=1)
    days = {
        "today": today,
        "yesterday": today - timedelta(days=1),
        "this-week": today - timedelta(days=today.weekday()),
        "this-month": month,
        "last-month": (month - timedelta(days=1)).replace(day=1),
        "this-year": today.replace(month=1, day=1),
    }
    if text in days:
        return datetime.combine(days[text], time(), zone).astimezone(UTC)
    try:
        if (ago := _AGO.fullmatch(text)) is not None:
            return now - int(ago[1]) * _UNITS[ago[2]]
        at = datetime.fromisoformat(text)
        return (at if at.tzinfo else at.replace(tzinfo=zone)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Failure(
            f"{option} wants a date or time such as 2026-01-31 or 2026-01-31T08:00, one of {', '.join(days)}, "
            f"or so long ago, such as 12h or 7d, not {text!r}",
            code=USAGE,
        ) from error
