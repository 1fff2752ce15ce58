"""Time zones: by their IANA names, and as what a database needs of them.

A database that knows no zones (SQLite; MariaDB, unless somebody has loaded its tables) can still say what day it was somewhere:
it adds the zone's offset to UTC, which is the same for months on end. `offsets` gives the moments at which it changes.
"""

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_NAME = re.compile(r"(?!posix/|right/)[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+){0,2}")
_NOT_IANA = frozenset({"localtime", "posixrules"})
"""Files that systems have beside the zones. (Those below `right/` count leap seconds.)"""

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def zone(name: str) -> ZoneInfo:
    """The zone of that IANA name. Raises ValueError when there is none."""
    if len(name) <= 64 and _NAME.fullmatch(name) and name not in _NOT_IANA:
        try:
            return ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError):  # no file, another kind of file, a folder
            pass
    raise ValueError("is not a time zone such as Africa/Johannesburg, Europe/Berlin or UTC")


def offsets(name: str, first: datetime, last: datetime) -> list[tuple[datetime, int]]:
    """The zone's offsets from UTC, in seconds, between two aware times: each with the moment from which it holds.

    The first one holds from `first` on. Raises ValueError for an unknown zone.
    """
    first, last = first.astimezone(UTC), last.astimezone(UTC)
    found = [(first, _offset(zone(name), first))]
    for year in range(first.year, last.year + 1):
        found += [change for change in _changes(name, year) if first < change[0] <= last]
    return found


def start_of(day: date, at: ZoneInfo) -> datetime:
    """When a day begins there, in UTC: at its midnight or, where the clock skips that, when it does."""
    return datetime(day.year, day.month, day.day, tzinfo=at).astimezone(UTC)


@lru_cache(4096)
def _changes(name: str, year: int) -> tuple[tuple[datetime, int], ...]:
    """The moments of one year (of UTC) at which the offset changes, each with the new one."""
    return tuple(_find_changes(zone(name), year))


def _find_changes(at: ZoneInfo, year: int) -> Iterator[tuple[datetime, int]]:
    # From the last second of the year before, so that a change at New Year is one of this year.
    here = datetime(year, 1, 1, tzinfo=UTC) - (_SECOND if year > 1 else timedelta(0))
    end = datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    before = _offset(at, here)
    while here < end:
        there = min(here + _DAY, end)
        after = _offset(at, there)
        if after != before:
            yield _change(at, here, there, before), after
        here, before = there, after


def _change(at: ZoneInfo, here: datetime, there: datetime, before: int) -> datetime:
    """The first second of the new offset, which lies after `here` and not after `there`."""
    while there - here > _SECOND:
        middle = here + timedelta(seconds=(there - here) // _SECOND // 2)
        if _offset(at, middle) == before:
            here = middle
        else:
            there = middle
    return there


def _offset(at: ZoneInfo, moment: datetime) -> int:
    # By way of the local time: ZoneInfo.utcoffset wants one.
    return (moment.astimezone(at).utcoffset() or timedelta(0)) // _SECOND
