"""Column types: what they refuse, alike on every database, and money to the last digit."""

from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import mysql, sqlite
from sqlalchemy.engine import Dialect

from dragoman.storage.types import Identifier, Instant, Json, Money, scaled, unscaled

DIALECTS = [sqlite.dialect(), mysql.dialect()]


@given(st.integers(-(10**40), 10**40))
def test_units_and_amounts_are_the_same(units: int) -> None:
    assert Fraction(unscaled(units)) == Fraction(units, 10**12)


@given(st.decimals(Decimal(-(10**14)), Decimal(10**14), places=12))
def test_an_amount_at_scale_is_exact(amount: Decimal) -> None:
    assert unscaled(scaled(amount)) == amount


@pytest.mark.parametrize(
    ("amount", "units"),
    [("0.0000000000005", 0), ("0.0000000000015", 2), ("-0.0000000000015", -2), ("1", 10**12)],
)
def test_finer_amounts_are_rounded_half_to_even(amount: str, units: int) -> None:
    assert scaled(Decimal(amount)) == units


def test_sqlite_refuses_what_its_integers_do_not_hold() -> None:
    limit = unscaled(2**63 - 1)
    money, dialect = Money(), sqlite.dialect()
    assert money.process_bind_param(limit, dialect) == 2**63 - 1
    with pytest.raises(ValueError, match="too large"):
        money.process_bind_param(limit + Decimal("1e-12"), dialect)


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
class TestOnEveryDatabase:
    """What is refused on one is refused on the other."""

    def test_identifiers_have_a_limit_in_bytes(self, dialect: Dialect) -> None:
        identifier = Identifier(10)
        bound = identifier.process_bind_param("ä" * 5, dialect)
        assert identifier.process_result_value(bound, dialect) == "ä" * 5
        with pytest.raises(ValueError, match="12 bytes"):
            identifier.process_bind_param("ä" * 6, dialect)

    @pytest.mark.parametrize("text", ["\ud800", "a\udfff"])
    def test_text_that_is_no_unicode(self, dialect: Dialect, text: str) -> None:
        with pytest.raises(UnicodeEncodeError):
            Identifier().process_bind_param(text, dialect)
        with pytest.raises(TypeError, match="surrogates"):
            Json().process_bind_param({"key": text}, dialect)

    def test_a_time_without_a_zone(self, dialect: Dialect) -> None:
        with pytest.raises(ValueError, match="time zone"):
            Instant().process_bind_param(datetime.now(UTC).replace(tzinfo=None), dialect)

    def test_json_keeps_the_order_of_keys(self, dialect: Dialect) -> None:
        value = {"z": 1, "a": {"y": [1.5, None, True], "b": "ü"}}
        text = Json().process_bind_param(value, dialect)
        assert text == '{"z":1,"a":{"y":[1.5,null,true],"b":"ü"}}'
        assert Json().process_result_value(text, dialect) == value
