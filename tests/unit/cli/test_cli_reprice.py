"""`dragoman usage reprice` on a real database; what the store makes of it is tested with the store."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

import pytest
from support import make

from dragoman.cli import reprice
from dragoman.engine.ports import Page, UsageQuery
from dragoman.records import Cost, ModelCall, Run, TokenUsage
from dragoman.storage import SqlStore, open_store

T = TypeVar("T")

MILLION = TokenUsage(input_tokens=1_000_000)


def on_store(url: str, work: Callable[[SqlStore], Awaitable[T]]) -> T:
    """The result of some work on the database."""

    async def run() -> T:
        store = open_store(url, sqlite_synchronous="NORMAL")
        await store.open()
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


def call(run: Run, model: str, cost: Cost | None) -> ModelCall:
    return replace(make.call(run, priced=cost), model=model, usage=MILLION)


def cost(usd: int, rate: int = 18) -> Cost:
    return replace(
        make.cost(Decimal(usd), Decimal(usd * rate)),
        exchange_rate=Decimal(rate),
        rate_date=make.NOW.date(),
        unit_prices={"input_tokens": Decimal(usd)},
    )


class Books:
    """A run with four calls in the ledger, and the files with which they are priced again."""

    def __init__(self, url: str, folder: Path) -> None:
        session = make.session()
        self.url = url
        self.run = make.run(session)
        self.calls = [
            call(self.run, "dear", cost(2)),
            call(self.run, "same", cost(3)),
            call(self.run, "new", None),
            call(self.run, "unknown", None),
        ]

        async def fill(store: SqlStore) -> None:
            await store.start_run(self.run, session)
            await store.end_run(make.end(self.run, calls=self.calls))

        on_store(url, fill)
        self.prices, self.rates = folder / "prices.toml", folder / "rates.toml"
        self.prices.write_text(
            "".join(
                f"[anthropic.{model}]\ninput = {price}\noutput = 1\n"
                for model, price in (("dear", 1), ("same", 3), ("new", 4))
            )
        )
        self.rates.write_text(f"[rates.ZAR]\n{make.NOW.date()} = 18\n")

    @property
    def files(self) -> list[str]:
        """The options that name everything."""
        return [
            "--database-url",
            self.url,
            "--prices-file",
            str(self.prices),
            "--rates-file",
            str(self.rates),
        ]

    def booked(self) -> dict[str, Decimal | None]:
        """Dollars by model."""
        calls = on_store(self.url, lambda store: store.run_calls(self.run.owner, self.run.id))
        return {each.model: None if each.cost is None else each.cost.usd for each in calls}

    def total(self) -> tuple[Decimal, int]:
        """Rands of the run, and its unpriced calls; they are the ledger's."""
        run = on_store(self.url, lambda store: store.get_run(self.run.owner, self.run.id))
        [row] = on_store(self.url, lambda store: store.query_usage(make.ALICE, UsageQuery(), Page(9)))
        assert (run.totals.amount, run.totals.unpriced_calls) == (row.amount, row.unpriced_calls)
        return run.totals.amount, run.totals.unpriced_calls


@pytest.fixture
def books(database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Books:
    monkeypatch.chdir(tmp_path)
    return Books(database_url, tmp_path)


BEFORE = {"dear": Decimal(2), "same": Decimal(3), "new": None, "unknown": None}
AFTER = {"dear": Decimal(1), "same": Decimal(3), "new": Decimal(4), "unknown": None}


def test_a_dry_run_shows_everything_and_changes_nothing(dragoman: Any, books: Books) -> None:
    result = dragoman("usage", "reprice", "--dry-run", *books.files)
    assert result.exit_code == 0, result.output
    lines = {
        cells[2].strip(): cells for line in result.stdout.splitlines() if len(cells := line.split("│")) > 5
    }
    assert [cell.strip() for cell in lines["dear"][3:-1]] == [
        "1",
        "1",
        "ZAR 36.000000",
        "ZAR 18.000000",
        "-18.000000",
    ]
    assert [cell.strip() for cell in lines["same"][4:-1]] == [
        "0",
        "ZAR 54.000000",
        "ZAR 54.000000",
        "+0.000000",
    ]
    assert lines["new"][4].strip() == "1 (1 had no cost)"
    assert "1 without a price or a rate still" in result.stdout
    assert books.booked() == BEFORE


def test_with_yes_it_is_done_and_a_second_time_nothing_is_left_to_do(dragoman: Any, books: Books) -> None:
    assert books.total() == (Decimal(90), 2)
    result = dragoman("usage", "reprice", "--yes", *books.files)
    assert result.exit_code == 0, result.output
    assert books.booked() == AFTER
    assert books.total() == (Decimal(18 + 54 + 72), 1)
    # A line more gives the file another version, and no call another price.
    books.prices.write_text(books.prices.read_text() + "[anthropic.other]\ninput = 1\noutput = 1\n")
    again = dragoman("usage", "reprice", "--yes", *books.files)
    assert all(line.split("│")[4].strip() == "0" for line in again.stdout.splitlines() if "anthropic" in line)
    assert books.booked() == AFTER


@pytest.mark.parametrize(
    ("arguments", "changed"),
    [
        (["--only-unpriced"], {"new"}),
        (["--model", "dear"], {"dear"}),
        (["--agent", "nobody"], set()),
        (["--agent", "example"], {"dear", "new"}),
        (["--since", str(make.NOW + timedelta(hours=1))], set()),
        (["--until", "2026-03-04"], set()),
        (["--since", "2026-03-04", "--until", "2026-03-05"], {"dear", "new"}),
    ],
    ids=["unpriced", "model", "nobody", "agent", "since", "until", "day"],
)
def test_only_what_is_chosen(dragoman: Any, books: Books, arguments: list[str], changed: set[str]) -> None:
    result = dragoman("usage", "reprice", "--yes", *arguments, *books.files)
    assert result.exit_code == 0, result.output
    assert books.booked() == {model: (AFTER if model in changed else BEFORE)[model] for model in BEFORE}


def test_a_price_that_is_not_known_any_more_is_kept(dragoman: Any, books: Books) -> None:
    books.prices.write_text("")
    books.rates.write_text("[rates.ZAR]\n2026-10-01 = 17\n")
    result = dragoman("usage", "reprice", "--yes", *books.files)
    assert "2 without a price or a rate still" in result.stdout
    assert books.booked() == BEFORE


def test_another_rate_is_a_change_and_another_reporting_currency_is_not(
    dragoman: Any, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    books.rates.write_text(f"[rates.ZAR]\n{make.NOW.date()} = 20\n[rates.EUR]\n2026-01-01 = 0.5\n")
    monkeypatch.setenv("DRAGOMAN_CURRENCY", "EUR")
    result = dragoman("usage", "reprice", "--yes", "--model", "same", *books.files)
    assert result.exit_code == 0, result.output
    [same] = [
        each
        for each in on_store(books.url, lambda store: store.run_calls(books.run.owner, books.run.id))
        if each.model == "same"
    ]
    assert same.cost is not None
    assert (same.cost.currency, same.cost.amount) == ("ZAR", Decimal(60))


def test_many_calls_are_changed_batch_by_batch(
    dragoman: Any, books: Books, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reprice, "BATCH", 1)
    assert dragoman("usage", "reprice", "--yes", *books.files).exit_code == 0
    assert books.booked() == AFTER
    assert books.total() == (Decimal(144), 1)


@pytest.mark.parametrize(("answer", "expected", "code"), [("y", AFTER, 0), ("n", BEFORE, 1)])
def test_it_asks_when_somebody_is_there(
    dragoman: Any,
    books: Books,
    monkeypatch: pytest.MonkeyPatch,
    answer: str,
    expected: dict[str, Decimal | None],
    code: int,
) -> None:
    monkeypatch.setattr(reprice, "can_ask", lambda: True)
    result = dragoman("usage", "reprice", *books.files, lines=[answer])
    assert result.exit_code == code
    assert "Change them?" in result.output
    assert books.booked() == expected
    if code == 0:
        assert "2 changed" in result.stdout
        # And it does not ask when there is nothing to do.
        again = dragoman("usage", "reprice", *books.files)
        assert (again.exit_code, "Change them?" in again.output) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        ((), 2, "give --dry-run or --yes"),
        (("--dry-run", "--yes"), 2, "do not go together"),
        (("--yes", "--since", "x"), 2, "--since wants a date"),
        (("--yes", "--prices-file", "none.toml"), 1, "none.toml: cannot be read"),
        (("--yes", "--database-url", "sqlite:///none.db"), 1, "not up to date"),
        (("--yes", "--database-url", "mysql+pymysql://u:hunter2@127.0.0.1:1/d"), 1, "cannot be used"),
        (("--yes", "--database-url", "postgresql://h/d"), 1, "not supported"),
    ],
    ids=["alone", "both", "time", "file", "new", "down", "other"],
)
def test_failures(
    dragoman: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    code: int,
    told: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = dragoman("usage", "reprice", *arguments)
    assert result.exit_code == code
    assert told in result.stderr
    assert "hunter2" not in result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "none.db").exists()
