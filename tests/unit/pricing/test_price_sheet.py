"""Any usage at any prices: the charge is what fractions make of it, to the last digit, or there is none."""

from dataclasses import fields
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.pricing import Pricer
from dragoman.pricing.sheet import PriceSheet, UnitPrice, Unpriced
from dragoman.records import MONEY_SCALE, TokenUsage

KINDS = tuple(field.name for field in fields(TokenUsage))
AT = datetime(2026, 11, 20, tzinfo=UTC)

tokens = st.integers(0, 5_000_000)
prices = st.decimals(0, 999_999, places=12, allow_nan=False, allow_infinity=False)


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    """A usage that does not contradict itself: parts are no more than their wholes."""
    parts = {kind: draw(tokens) for kind in KINDS}
    return TokenUsage(
        **parts
        | {
            "input_tokens": parts["input_tokens"] + parts["input_audio_tokens"] + parts["input_image_tokens"],
            "output_tokens": sum(
                parts[kind]
                for kind in (
                    "output_tokens",
                    "output_audio_tokens",
                    "output_image_tokens",
                    "reasoning_tokens",
                )
            ),
            "cache_write_tokens": parts["cache_write_tokens"] + parts["cache_write_1h_tokens"],
        }
    )


@st.composite
def unit_prices(draw: st.DrawFn) -> UnitPrice:
    steps = sorted(draw(st.sets(st.integers(1, 12_000_000), max_size=3)))
    return UnitPrice(draw(prices), tuple((above, draw(prices)) for above in steps))


sheets = st.dictionaries(st.sampled_from(KINDS), unit_prices()).map(PriceSheet)


def expected(sheet: PriceSheet, usage: TokenUsage) -> Fraction | None:
    """US dollars, exactly; None when a kind that was used has no price."""
    reasoning = usage.reasoning_tokens if "reasoning_tokens" in sheet.prices else 0
    used = {kind: getattr(usage, kind) for kind in KINDS} | {"reasoning_tokens": reasoning}
    used["input_tokens"] -= used["input_audio_tokens"] + used["input_image_tokens"]
    used["output_tokens"] -= used["output_audio_tokens"] + used["output_image_tokens"] + reasoning
    used["cache_write_tokens"] -= used["cache_write_1h_tokens"]
    whole_input = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
    total = Fraction()
    for kind, count in used.items():
        if count and kind not in sheet.prices:
            return None
        if count:
            price = sheet.prices[kind]
            holding = [tier for above, tier in price.tiers if whole_input > above]
            total += count * Fraction(holding[-1] if holding else price.base)
    return total / 10**6


def at_scale(amount: Fraction) -> Fraction:
    """Rounded half to even, without Decimal."""
    return Fraction(round(amount * 10**MONEY_SCALE), 10**MONEY_SCALE)


@given(sheet=sheets, usage=usages())
def test_any_sheet_charges_any_usage_exactly(sheet: PriceSheet, usage: TokenUsage) -> None:
    exact = expected(sheet, usage)
    if exact is None:
        with pytest.raises(Unpriced):
            sheet.charge(usage)
        return
    usd, _ = sheet.charge(usage)
    assert Fraction(usd) == at_scale(exact)


@given(sheet=st.fixed_dictionaries({kind: unit_prices() for kind in KINDS}).map(PriceSheet), usage=usages())
def test_a_sheet_with_all_kinds_prices_everything(sheet: PriceSheet, usage: TokenUsage) -> None:
    exact = expected(sheet, usage)
    assert exact is not None
    usd, told = sheet.charge(usage)
    assert Fraction(usd) == at_scale(exact)
    assert told.keys() <= set(KINDS)


@pytest.fixture(scope="module")
def pricer(tmp_path_factory: pytest.TempPathFactory) -> Pricer:
    folder: Path = tmp_path_factory.mktemp("all-kinds")
    (folder / "prices.toml").write_text(
        "[acme.seer]\n"
        + "".join(
            f'{kind.removesuffix("_tokens")} = "{number}.000{number}"\n'
            for number, kind in enumerate(KINDS, 1)
        )
    )
    (folder / "rates.toml").write_text('[rates.ZAR]\n2026-01-01 = "17.234567890123"\n')
    return Pricer.load(prices_file=folder / "prices.toml", rates_file=folder / "rates.toml")


@given(calls=st.lists(usages(), max_size=8))
def test_the_operators_file_prices_every_kind_and_totals_are_sums(
    pricer: Pricer, calls: list[TokenUsage]
) -> None:
    sheet = PriceSheet(
        {kind: UnitPrice(Decimal(f"{number}.000{number}")) for number, kind in enumerate(KINDS, 1)}
    )
    costs = [pricer.price("Acme", "seer", usage, AT) for usage in calls]
    usd_total = amount_total = Fraction()
    for usage, cost in zip(calls, costs, strict=True):
        assert cost is not None
        exact = expected(sheet, usage)
        assert exact is not None
        assert Fraction(cost.usd) == exact, "six places per million are exact at twelve"
        assert Fraction(cost.amount) == at_scale(exact * Fraction("17.234567890123"))
        usd_total, amount_total = usd_total + Fraction(cost.usd), amount_total + Fraction(cost.amount)
    priced = [cost for cost in costs if cost is not None]
    assert Fraction(sum((cost.usd for cost in priced), Decimal())) == usd_total
    assert Fraction(sum((cost.amount for cost in priced), Decimal())) == amount_total


def test_pictures_of_google_cost_what_its_text_does_unless_it_says_otherwise() -> None:
    pricer = Pricer.load(currency="USD")
    seen = pricer.price("Google", "gemini-2.5-flash", TokenUsage(1000, 10, input_image_tokens=258), AT)
    unseen = pricer.price("Google", "gemini-2.5-flash", TokenUsage(1000, 10), AT)
    assert seen is not None
    assert unseen is not None
    assert seen.usd == unseen.usd
    drawn = pricer.price(
        "Google", "gemini-2.5-flash-image", TokenUsage(9, 1290, output_image_tokens=1290), AT
    )
    assert drawn is not None
    assert drawn.unit_prices["output_image_tokens"] == Decimal(30)


@pytest.mark.parametrize("kind", ["input_audio_tokens", "input_image_tokens"])
def test_what_is_dearer_in_the_cache_is_not_guessed(kind: str) -> None:
    sheet = PriceSheet({name: UnitPrice(Decimal(1)) for name in KINDS}, cached_apart=frozenset({kind}))
    with pytest.raises(Unpriced):
        sheet.charge(TokenUsage(10, 1, cache_read_tokens=5, **{kind: 3}))
    sheet.charge(TokenUsage(10, 1, **{kind: 3}))
    sheet.charge(TokenUsage(10, 1, cache_read_tokens=5))
