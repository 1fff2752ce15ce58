"""Importing prices and rates: what is new is there, what held before still does, and comments stay."""

import json
import os
import stat
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import on_one_fixture

from dragoman.pricing import ExchangeRates, PriceFileError, merge_prices, merge_rates, write_text
from dragoman.pricing.files import Comments
from dragoman.pricing.merging import _prices_text
from dragoman.pricing.overrides import OverridePrices, Period

TODAY = date(2026, 11, 21)
OWN = """\
# Agreed with the provider; see the contract.
# Checked every year.

# The large one
[anthropic."claude-sonnet-4-5"]
input = 3
output = 15.00

[vllm."*"]
input = 0   # our own machines
output = 0
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """The operator's file."""
    file = tmp_path / "prices.toml"
    file.write_text(OWN)
    return file


def brought(own: Path, text: str, name: str = "new.toml") -> Path:
    file = own.with_name(name)
    file.write_text(text)
    return file


def prices(file: Path, provider: str, model: str, day: date) -> tuple[Decimal, Decimal] | None:
    """Input and output."""
    sheet = OverridePrices.load(file).find(provider, model, day)
    return None if sheet is None else (sheet.prices["input_tokens"].base, sheet.prices["output_tokens"].base)


def test_new_prices_hold_from_today_and_old_ones_for_older_calls(own: Path) -> None:
    source = brought(own, '[Anthropic."Claude-Sonnet-4-5"]\ninput = "2.70"\noutput = 13.5\n')
    merged = merge_prices(own, source, since=TODAY)
    assert (merged.before, merged.changed) == (OWN, True)
    assert (
        merged.text
        == """\
# Agreed with the provider; see the contract.
# Checked every year.

# The large one
[[anthropic.claude-sonnet-4-5]]
until = 2026-11-21
input = "3"
output = "15"

[[anthropic.claude-sonnet-4-5]]
from = 2026-11-21
input = "2.7"
output = "13.5"

[vllm."*"]
input = "0"
output = "0"
"""
    )
    write_text(own, merged.text)
    yesterday = TODAY - timedelta(days=1)
    assert prices(own, "anthropic", "claude-sonnet-4-5", yesterday) == (Decimal(3), Decimal(15))
    assert prices(own, "anthropic", "claude-sonnet-4-5", TODAY) == (Decimal("2.7"), Decimal("13.5"))
    again = merge_prices(own, source, since=TODAY + timedelta(days=9))
    assert not again.changed
    assert again.text == merged.text


def test_json_with_a_day_and_a_provider_that_is_new(own: Path) -> None:
    text = json.dumps({"openai": {"gpt-x": [{"from": "2026-01-01", "input": 1, "output": "2.5"}]}})
    merged = merge_prices(own, brought(own, text, "new.JSON"), since=TODAY)
    assert merged.text.endswith('[openai.gpt-x]\nfrom = 2026-01-01\ninput = "1"\noutput = "2.5"\n')


def test_into_a_file_that_does_not_exist_yet(own: Path) -> None:
    missing = own.with_name("later.toml")
    merged = merge_prices(missing, own, since=date(2026, 1, 1))
    assert merged.before == ""
    write_text(missing, merged.text)
    assert prices(missing, "vllm", "any", TODAY) == (Decimal(0), Decimal(0))
    assert prices(missing, "vllm", "any", date(2025, 12, 31)) is None


@pytest.mark.parametrize(
    ("text", "name", "told"),
    [
        ("[anthropic.x]\ninput = 1\n", "new.toml", "new.toml: [anthropic.x] output: is missing"),
        ("not toml", "new.toml", "new.toml: is not valid TOML"),
        ("[1]", "new.json", "new.json: must hold an object"),
        ("{", "new.json", "new.json: is not valid JSON"),
        ('{"p": {"\\ud800": {"input": 1, "output": 1}}}', "new.json", "new.json: is not valid JSON"),
        ('{"p": {"m": {"input": 1e999, "output": 1}}}', "new.json", "[p.m] input: must be less than"),
        ('{"p": {"m": {"input": NaN, "output": 1}}}', "new.json", "[p.m] input: must be a number"),
        (
            "[p.m]\nuntil = 2026-01-01\ninput = 1\noutput = 1\n",
            "new.toml",
            "[p.m] until: is not later than 2026-11-21",
        ),
    ],
    ids=["incomplete", "no-toml", "list", "no-json", "surrogate", "huge", "nan", "over"],
)
def test_a_file_that_is_wrong_changes_nothing(own: Path, text: str, name: str, told: str) -> None:
    with pytest.raises(PriceFileError) as refused:
        merge_prices(own, brought(own, text, name), since=TODAY)
    assert told in str(refused.value)
    assert own.read_text() == OWN


FIRST = date(2026, 1, 1)
DAYS = [FIRST + timedelta(days=number) for number in range(12)]


@st.composite
def periods(draw: st.DrawFn) -> list[Period]:
    """Periods of a model that do not overlap."""
    cuts = sorted(draw(st.sets(st.sampled_from([date.min, *DAYS, date.max]), min_size=2, max_size=6)))
    every = [
        Period({"input": Decimal(draw(st.integers(0, 2))), "output": Decimal(1)}, start, end)
        for start, end in pairwise(cuts)
    ]
    return draw(st.lists(st.sampled_from(every), min_size=1, unique_by=lambda each: each.start))


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


@on_one_fixture(60)
@given(old=periods(), new=periods(), name=names, since=st.sampled_from(DAYS))
def test_every_day_has_the_new_price_or_the_old_one(
    own: Path, old: list[Period], new: list[Period], name: str, since: date
) -> None:
    new = [each for each in new if each.end > since or each.start != date.min]
    own.write_text(_prices_text({"p": {name: tuple(old)}}, Comments("")))
    source = own.with_name("new.toml")
    source.write_text(_prices_text({"P": {name: tuple(new)}} if new else {}, Comments("")))

    merged = merge_prices(own, source, since=since)
    write_text(own, merged.text)

    for day in [date(2020, 1, 1), *DAYS, date(2030, 1, 1)]:
        dated = [
            each for each in new if max(each.start, since if each.start == date.min else date.min) <= day
        ]
        expected = next((each for each in dated if day < each.end), None) or next(
            (each for each in old if each.start <= day < each.end), None
        )
        found = prices(own, "p", name, day)
        assert (None if found is None else found[0]) == (
            None if expected is None else expected.prices["input"]
        )
    assert merge_prices(own, source, since=since).text == merged.text


HIST = (
    "Date,USD,JPY,CYP,ZAR,\n"
    "2026-11-20,1.1534,180.21,N/A,19.8732,\n"
    "2026-11-19,1.15,180.00,N/A,N/A,\n"
    "2026-11-18,1.14,179.00,N/A,19.5,\n"
    "\n"
)
DAILY = "\ufeffDate, USD, JPY, ZAR, \n20 November 2026, 1.1534, 180.21, 19.8732, \n"


@pytest.mark.parametrize("text", [HIST, DAILY, HIST.replace("\n", "\r\n")], ids=["hist", "daily", "crlf"])
def test_cross_rates_of_the_central_bank(tmp_path: Path, text: str) -> None:
    source = tmp_path / "eurofxref.csv"
    source.write_bytes(text.encode())
    file = tmp_path / "rates.toml"
    merged = merge_rates(file, source, currencies=["ZAR", "EUR", "USD", "CYP"], since=None)
    write_text(file, merged.text)
    rates = ExchangeRates.load(file)
    assert rates.currencies == {"ZAR", "EUR", "USD"}
    rand = rates.at("ZAR", date(2026, 11, 20))
    assert rand is not None
    assert rand.day == date(2026, 11, 20)
    exact = Fraction("19.8732") / Fraction("1.1534")
    assert abs(Fraction(rand.per_usd) - exact) <= Fraction(1, 2 * 10**12)
    euro = rates.at("EUR", TODAY)
    assert euro is not None
    assert euro.per_usd == Decimal("0.867001907404")
    if text != DAILY:
        # The nineteenth has no rand: a call of that day takes the rate of the day before.
        older = rates.at("ZAR", date(2026, 11, 19))
        assert older is not None
        assert older.day == date(2026, 11, 18)
        assert merged.added == {
            "EUR": tuple(date(2026, 11, day) for day in (18, 19, 20)),
            "ZAR": (date(2026, 11, 18), date(2026, 11, 20)),
        }


def test_rates_are_merged_by_day_and_others_stay(tmp_path: Path) -> None:
    file, source = tmp_path / "rates.toml", tmp_path / "new.toml"
    file.write_text('# Ours\n\n# rands\n[rates.ZAR]\n2026-11-01 = "17.25"\n2026-11-02 = 17.50\n')
    source.write_text('[rates.GBP]\n2026-11-02 = 0.75\n[rates.ZAR]\n2026-11-02 = "17.6"\n2026-11-03 = 17.7\n')
    merged = merge_rates(file, source, currencies=[], since=None)
    assert merged.text == (
        '# Ours\n\n# rands\n[rates.ZAR]\n2026-11-01 = "17.25"\n2026-11-02 = "17.6"\n2026-11-03 = "17.7"\n\n'
        '[rates.GBP]\n2026-11-02 = "0.75"\n'
    )
    assert merged.added == {"ZAR": (date(2026, 11, 3),), "GBP": (date(2026, 11, 2),)}
    [(old, new)] = merged.replaced["ZAR"]
    assert (old.per_usd, new.per_usd, new.day) == (Decimal("17.5"), Decimal("17.6"), date(2026, 11, 2))
    write_text(file, merged.text)
    assert not merge_rates(file, source, currencies=[], since=None).changed
    late = merge_rates(tmp_path / "none.toml", source, currencies=[], since=date(2026, 11, 3))
    assert late.added == {"ZAR": (date(2026, 11, 3),)}


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no first line such as Date,USD,JPY"),
        ("Day,USD\n", "has no first line such as Date,USD,JPY"),
        ("Date,JPY\n2026-11-20,1\n", "has no first line such as Date,USD,JPY"),
        ("Date,USD,ZAR\n2026-11-20,1.1,x\n", "line 2 ZAR: must be a number"),
        ("Date,USD,ZAR\n2026-11-20,0,1\n", "line 2 USD: must not be zero"),
        ("Date,USD,ZAR\n2026-11-20,1,-1\n", "line 2 ZAR: must not be negative"),
        ("Date,USD,ZAR\n2026-11-20,1,2,3\n", "line 2: has more columns"),
        ("Date,USD,ZAR\n2026-11-20,1,2\n2026-11-20,1,2\n", "line 3: has 2026-11-20 twice"),
        ("Date,USD,ZAR\n20/11/2026,1,2\n", "line 2 Date: must be a day"),
        ("Date,USD,ZAR\n2026-11-20,100000000,0.00000001\n", "line 2 ZAR: gives a rate that cannot be"),
    ],
    ids=["empty", "head", "no-dollar", "text", "zero", "negative", "long", "twice", "day", "tiny"],
)
def test_a_table_of_rates_that_is_wrong(tmp_path: Path, text: str, told: str) -> None:
    source = tmp_path / "rates.csv"
    source.write_text(text)
    with pytest.raises(PriceFileError) as refused:
        merge_rates(tmp_path / "rates.toml", source, currencies=["ZAR"], since=None)
    assert told in str(refused.value)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    real, link = tmp_path / "real.toml", tmp_path / "link.toml"
    real.write_text("old")
    real.chmod(0o640)
    link.symlink_to(real)
    write_text(link, "new")
    assert (real.read_text(), link.is_symlink()) == ("new", True)
    assert stat.S_IMODE(real.stat().st_mode) == 0o640
    assert sorted(os.listdir(tmp_path)) == ["link.toml", "real.toml"]
    with pytest.raises(PriceFileError, match="cannot be written"):
        write_text(tmp_path / "none" / "rates.toml", "new")
    with pytest.raises(PriceFileError, match=r"cannot be read: No such file"):
        merge_rates(tmp_path / "rates.toml", tmp_path / "none.csv", currencies=[], since=None)
