"""`dragoman usage` for people with small terminals, for spreadsheets and for programs; `dragoman budget`."""

import csv
import io
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.type import money_pb2
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from dragoman.cli._export import columns, harmless
from dragoman.cli._report import Failure
from dragoman.cli._times import when
from dragoman.cli.budget import share
from dragoman.cli.usage import bar, bar_width, usage_table
from dragoman.config import local_time_zone
from dragoman.v1 import usage_pb2, usage_service_pb2

TOKYO = ZoneInfo("Asia/Tokyo")
NOW = datetime(2026, 3, 31, 15, 30, tzinfo=UTC)
"""In Tokyo it is Wednesday, the first of April."""


def group(
    agent: str = "example", amount: str = "1.000000000001", currency: str = "ZAR", **fields: Any
) -> usage_service_pb2.UsageGroup:
    return usage_service_pb2.UsageGroup(
        agent_name=agent,
        model_calls=3,
        runs=2,
        usage=usage_pb2.TokenUsage(input_tokens=10, output_tokens=5, input_image_tokens=4, total_tokens=15),
        cost=usage_pb2.Cost(
            amount=money_pb2.Money(currency_code=currency),
            exact_amount=amount,
            exact_usd="0.100000000000",
            unpriced_calls=1,
        ),
        **fields,
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("today", "2026-03-31T15:00:00+00:00"),
        ("yesterday", "2026-03-30T15:00:00+00:00"),
        ("this-week", "2026-03-29T15:00:00+00:00"),
        ("this-month", "2026-03-31T15:00:00+00:00"),
        ("last-month", "2026-02-28T15:00:00+00:00"),
        ("this-year", "2025-12-31T15:00:00+00:00"),
        ("12h", "2026-03-31T03:30:00+00:00"),
        ("7d", "2026-03-24T15:30:00+00:00"),
        ("2w", "2026-03-17T15:30:00+00:00"),
        ("2026-01-31", "2026-01-30T15:00:00+00:00"),
        ("2026-01-31T08:00", "2026-01-30T23:00:00+00:00"),
        ("2026-01-31T08:00:00Z", "2026-01-31T08:00:00+00:00"),
        ("2026-01-31T08:00+02:00", "2026-01-31T06:00:00+00:00"),
    ],
)
def test_times_as_people_say_them(text: str, expected: str) -> None:
    found = when(text, "--since", TOKYO, NOW)
    assert found is not None
    assert found.isoformat() == expected


@pytest.mark.parametrize("text", ["", "soon", "7", "-7d", "0d", "7y", "2026-13-01", "0001-01-01"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(Failure, match="--since wants a date or time"):
        when(text, "--since", TOKYO, NOW)
    assert when(None, "--since", TOKYO, NOW) is None


@pytest.mark.parametrize(
    ("tz", "expected"), [("Europe/Berlin", "Europe/Berlin"), (":Asia/Tokyo", "Asia/Tokyo")]
)
def test_the_zone_of_this_machine(tz: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", tz)
    assert local_time_zone() == expected
    monkeypatch.setenv("TZ", "EST5EDT4,M3.2.0,M11.1.0")
    assert ZoneInfo(local_time_zone()).key
    monkeypatch.delenv("TZ")
    assert ZoneInfo(local_time_zone()).key


def test_days_are_those_of_this_machine(
    services: Any, dragoman: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    services.groups = [group(day="2026-04-01")]
    result = dragoman("usage", "-s", services.address, "--group-by", "day")
    assert services.requests[0].time_zone == "Asia/Tokyo"
    assert "2026-04-01" in result.stdout
    assert result.stdout.endswith("days in Asia/Tokyo\n")


def test_output_that_nobody_looks_at_is_plain(services: Any, dragoman: Any) -> None:
    services.groups = [group(), group("other")]
    assert "\x1b" not in dragoman("usage", "-s", services.address).stdout


@pytest.mark.parametrize(("columns", "width"), [(200, 24), (120, 24), (119, 12), (90, 12), (89, 0), (10, 0)])
def test_bars_need_room(columns: int, width: int) -> None:
    assert bar_width(columns) == width


def test_a_small_terminal_that_knows_no_unicode() -> None:
    groups = [group("one", "4"), group("two", "1"), group("three", "2", "EUR")]
    console = Console(file=io.StringIO(), width=80, force_terminal=False)
    console.print(usage_table(groups, ["agent"], width=0))
    text = console.file.getvalue()  # type: ignore[attr-defined]  # it is the StringIO
    assert "█" not in text
    # Amounts of two currencies are not added up.
    assert sum(line.startswith("│ all ") for line in text.splitlines()) == 2
    assert bar(Decimal(4), Decimal(8), 12, ascii_only=True) == "######"
    assert bar(Decimal("0.001"), Decimal(8), 12, ascii_only=True) == "#"


def test_csv_to_standard_output(services: Any, dragoman: Any) -> None:
    services.groups = [group('=HYPERLINK("http://evil")'), group('a "name", with\nlines'), group("-1")]
    result = dragoman("usage", "-s", services.address, "--csv", "-")
    assert result.exit_code == 0
    raw = result.stdout_bytes.decode()
    assert raw.startswith("agent_name,runs,model_calls,unpriced_calls,input_tokens,")
    assert raw.split("\r\n")[0].endswith(",total_tokens,currency,cost,cost_usd")
    rows = list(csv.DictReader(io.StringIO(raw, newline="")))
    assert [row["agent_name"] for row in rows] == [
        '\'=HYPERLINK("http://evil")',
        'a "name", with\nlines',
        "'-1",
    ]
    assert {(row["cost"], row["currency"], row["cost_usd"]) for row in rows} == {
        ("1.000000000001", "ZAR", "0.100000000000")
    }
    assert (rows[0]["input_image_tokens"], rows[0]["total_tokens"], rows[0]["unpriced_calls"]) == (
        "4",
        "15",
        "1",
    )
    assert services.requests[0].page_size == 1000


def test_csv_to_a_file(services: Any, dragoman: Any, tmp_path: Path) -> None:
    services.groups = [group(), group("other")]
    target = tmp_path / "usage.csv"
    target.write_text("before")
    result = dragoman("usage", "-s", services.address, "--by", "model,day", "--csv", str(target))
    assert result.stdout.startswith("2 rows written to ")
    with target.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == columns(["model", "day"])
    assert rows[0][:3] == ["provider", "model", "day"]
    assert len(rows) == 3
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_is_not_touched_when_there_is_no_answer(dragoman: Any, tmp_path: Path) -> None:
    target = tmp_path / "usage.csv"
    target.write_text("before")
    assert dragoman("usage", "-s", "127.0.0.1:1", "--csv", str(target)).exit_code == 1
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_a_file_that_cannot_be_written(services: Any, dragoman: Any, tmp_path: Path) -> None:
    result = dragoman("usage", "-s", services.address, "--csv", str(tmp_path / "no" / "usage.csv"))
    assert result.exit_code == 1
    assert "No such file or directory" in result.stderr


@given(st.text())
def test_no_text_is_taken_for_a_formula(text: str) -> None:
    safe = harmless(text)
    assert safe.endswith(text)
    assert not safe.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))


def test_json(services: Any, dragoman: Any) -> None:
    services.groups = [group("=1")]
    result = dragoman("usage", "-s", services.address, "--json")
    [row] = json.loads(result.stdout)
    assert list(row) == columns(["agent"])
    assert (row["agent_name"], row["runs"], row["cost"]) == ("=1", 2, "1.000000000001")
    services.groups = []
    assert json.loads(dragoman("usage", "-s", services.address, "--json").stdout) == []


def a_budget(spent: int, **fields: Any) -> usage_service_pb2.Budget:
    return usage_service_pb2.Budget(
        period=usage_service_pb2.BUDGET_PERIOD_DAY,
        limit=money_pb2.Money(currency_code="ZAR", units=10, nanos=500_000_000),
        spent=money_pb2.Money(currency_code="ZAR", units=spent),
        remaining=money_pb2.Money(currency_code="ZAR", units=max(10 - spent, 0)),
        reset_time=Timestamp(seconds=int(NOW.timestamp())),
        **fields,
    )


def test_budgets(services: Any, dragoman: Any) -> None:
    services.budgets = [a_budget(4, principal="desk"), a_budget(20, agent_name="example")]
    result = dragoman("budget", "-s", services.address, "--agent", "example", "--time-zone", "Asia/Tokyo")
    assert result.exit_code == 0
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line
    ]
    assert rows == [
        [
            "desk",
            "any",
            "day",
            "ZAR 10.50",
            "ZAR 4.00",
            "ZAR 6.00",
            "██████░░░░░░░░░░  38 %",
            "2026-04-01 00:30",
        ],
        [
            "anybody",
            "example",
            "day",
            "ZAR 10.50",
            "ZAR 20.00",
            "ZAR 0.00",
            "█" * 16 + " 100 %",
            "2026-04-01 00:30",
        ],
    ]
    assert services.requests == [usage_service_pb2.GetBudgetRequest(agent_name="example")]
    [first, _] = json.loads(dragoman("budget", "-s", services.address, "--json").stdout)
    assert first == {
        "principal": "desk",
        "agent_name": "",
        "period": "day",
        "currency": "ZAR",
        "limit": "10.500000000",
        "spent": "4.000000000",
        "remaining": "6.000000000",
        "reset_time": "2026-03-31T15:30:00Z",
    }


def test_no_budgets(services: Any, dragoman: Any) -> None:
    assert dragoman("budget", "-s", services.address).stdout == "no budgets\n"


@pytest.mark.parametrize(
    ("spent", "limit", "shown"),
    [
        ("0", "5", "................   0 %"),
        ("4.999", "5", "###############.  99 %"),
        ("5", "5", "################ 100 %"),
        ("0", "0", "################ 100 %"),
    ],
)
def test_how_much_of_a_budget_is_spent(spent: str, limit: str, shown: str) -> None:
    assert share(Decimal(spent), Decimal(limit), ascii_only=True) == shown
