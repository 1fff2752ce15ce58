"""Time zones by name, and the moments at which their clocks change."""

from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman import zones

NAMES = [
    "UTC",
    "Africa/Johannesburg",
    "Africa/Casablanca",
    "Africa/Cairo",
    "America/New_York",
    "America/Sao_Paulo",
    "America/St_Johns",
    "America/Argentina/Buenos_Aires",
    "Asia/Kathmandu",
    "Asia/Gaza",
    "Australia/Lord_Howe",
    "Europe/Berlin",
    "Pacific/Apia",
    "Etc/GMT+12",
]
YEAR = 31_557_600
moments = st.integers(5 * YEAR, 120 * YEAR).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))


@pytest.mark.parametrize("name", NAMES)
def test_a_zone_has_an_iana_name(name: str) -> None:
    assert zones.zone(name).key == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        " UTC",
        "Africa",
        "Mars/Olympus",
        "../UTC",
        "/etc/localtime",
        "localtime",
        "posixrules",
        "posix/UTC",
        "right/UTC",
        "tzdata.zi",
        "zone.tab",
        "+02:00",
        "a" * 65,
        "Europe/Berlin\n",
        "Europe/\0",
        "Ünited",
    ],
)
def test_nothing_else_is_one(name: str) -> None:
    with pytest.raises(ValueError, match="is not a time zone"):
        zones.zone(name)


@given(name=st.sampled_from(NAMES), bounds=st.tuples(moments, moments).map(sorted), share=st.floats(0, 1))
def test_the_offset_at_any_moment_is_the_last_one_before(
    name: str, bounds: list[datetime], share: float
) -> None:
    first, last = bounds
    at = first + (last - first) * share
    found = zones.offsets(name, first, last)
    assert [moment for moment, _ in found] == sorted({moment for moment, _ in found})
    assert found[0][0] == first
    assert found[-1][0] <= last
    offset = [seconds for moment, seconds in found if moment <= at][-1]
    assert timedelta(seconds=offset) == at.astimezone(ZoneInfo(name)).utcoffset()


@pytest.mark.parametrize(
    ("name", "year", "expected"),
    [
        ("UTC", 2026, []),
        ("Europe/Berlin", 2026, [("2026-03-29T01:00:00", 7200), ("2026-10-25T01:00:00", 3600)]),
        (
            "Pacific/Apia",
            2011,
            [
                ("2011-04-02T14:00:00", -39600),
                ("2011-09-24T14:00:00", -36000),
                ("2011-12-30T10:00:00", 50400),
            ],
        ),
        ("Australia/Lord_Howe", 2026, [("2026-04-04T15:00:00", 37800), ("2026-10-03T15:30:00", 39600)]),
    ],
)
def test_changes_are_found_to_the_second(name: str, year: int, expected: list[tuple[str, int]]) -> None:
    first, last = datetime(year, 1, 1, 0, 0, 1, tzinfo=UTC), datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    changes = [(f"{at:%Y-%m-%dT%H:%M:%S}", offset) for at, offset in zones.offsets(name, first, last)[1:]]
    assert changes == expected


@pytest.mark.parametrize(
    ("name", "day", "start"),
    [
        ("UTC", date(2026, 3, 4), "2026-03-04T00:00"),
        ("Africa/Johannesburg", date(2026, 3, 4), "2026-03-03T22:00"),
        ("Europe/Berlin", date(2026, 3, 30), "2026-03-29T22:00"),
        ("America/Sao_Paulo", date(2018, 11, 4), "2018-11-04T03:00"),  # it began at one in the morning
    ],
)
def test_when_a_day_begins(name: str, day: date, start: str) -> None:
    assert f"{zones.start_of(day, zones.zone(name)):%Y-%m-%dT%H:%M}" == start
