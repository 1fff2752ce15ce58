"""The operator's TOML files: what they may say, and how a mistake is told."""

import logging
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest

from dragoman.pricing import ExchangeRates, PriceFileError
from dragoman.pricing.names import provider_key
from dragoman.pricing.overrides import OverridePrices
from dragoman.records import TokenUsage

DAY = date(2026, 11, 20)


def written(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "prices.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    return file


def input_price(prices: OverridePrices, provider: str, model: str, day: date = DAY) -> Decimal | None:
    sheet = prices.find(provider_key(provider), model, day)
    return None if sheet is None else sheet.prices["input_tokens"].base


class TestOverrides:
    def test_every_price_in_every_spelling(self, tmp_path: Path) -> None:
        file = written(
            tmp_path,
            '[P."m.1"]\ninput = 3\noutput = 15.000001\ncache_read = "0.3"\ncache_write = "3.750"\n'
            "cache_write_1h = 6e0\ninput_audio = 0\noutput_audio = 999999.999999\n",
        )
        sheet = OverridePrices.load(file).find("p", "M.1", DAY)
        assert sheet is not None
        assert {kind: price.base for kind, price in sheet.prices.items()} == {
            "input_tokens": Decimal(3),
            "output_tokens": Decimal("15.000001"),
            "cache_read_tokens": Decimal("0.3"),
            "cache_write_tokens": Decimal("3.75"),
            "cache_write_1h_tokens": Decimal(6),
            "input_audio_tokens": Decimal(0),
            "output_audio_tokens": Decimal("999999.999999"),
        }

    def test_a_free_model_costs_nothing_but_is_priced(self, tmp_path: Path) -> None:
        sheet = OverridePrices.load(written(tmp_path, "[vllm.'*']\ninput = 0\noutput = 0")).find(
            "vllm", "any", DAY
        )
        assert sheet is not None
        assert sheet.charge(TokenUsage(10, 10))[0] == 0

    @pytest.mark.parametrize(
        ("model", "expected"),
        [
            ("claude-sonnet-4-5", 1),
            ("CLAUDE-Sonnet-4-5", 1),
            ("claude-sonnet-4-6", 2),
            ("claude-opus-5", 3),
            ("claude-opus-55", 4),
            ("other", 5),
            ("claude[1]", 6),
            ("claude1", 4),
        ],
    )
    @pytest.mark.parametrize("backwards", [False, True])
    def test_the_most_specific_entry_wins_in_any_order(
        self, tmp_path: Path, model: str, expected: int, backwards: bool
    ) -> None:
        patterns = ["claude-sonnet-4-5", "claude-sonnet-*", "claude-opus-?", "claude*", "*", "claude[1]*"]
        tables = [f'[p."{pattern}"]\ninput = {rank}\noutput = 0' for rank, pattern in enumerate(patterns, 1)]
        prices = OverridePrices.load(written(tmp_path, "\n".join(tables[::-1] if backwards else tables)))
        assert input_price(prices, "p", model) == expected

    @pytest.mark.parametrize(
        ("day", "expected"),
        [
            (date(2026, 1, 1), 5),
            (date(2026, 6, 30), 5),
            (date(2026, 7, 1), 4),
            (date(2026, 9, 30), 4),
            (date(2026, 10, 1), 9),
            (date(2030, 1, 1), 9),
        ],
    )
    def test_from_is_included_until_is_not_and_outside_the_next_entry_holds(
        self, tmp_path: Path, day: date, expected: int
    ) -> None:
        prices = OverridePrices.load(
            written(
                tmp_path,
                "[[p.model]]\nuntil = 2026-07-01\ninput = 5\noutput = 0\n"
                '[[p.model]]\nfrom = "2026-07-01"\nuntil = 2026-10-01\ninput = 4\noutput = 0\n'
                '[p."mod*"]\ninput = 9\noutput = 0\n',
            )
        )
        assert input_price(prices, "p", "model", day) == expected

    def test_outside_every_entry_there_is_none(self, tmp_path: Path) -> None:
        prices = OverridePrices.load(written(tmp_path, "[p.m]\nfrom = 2026-12-01\ninput = 1\noutput = 1"))
        assert input_price(prices, "p", "m") is None
        assert input_price(prices, "p", "n", date(2027, 1, 1)) is None
        assert input_price(prices, "q", "m", date(2027, 1, 1)) is None

    def test_providers_are_named_as_agno_names_them(self, tmp_path: Path) -> None:
        prices = OverridePrices.load(written(tmp_path, "[AwsBedrock.m]\ninput = 1\noutput = 1"))
        assert input_price(prices, "aws", "m") == 1

    def test_an_empty_file_says_nothing(self, tmp_path: Path) -> None:
        assert input_price(OverridePrices.load(written(tmp_path, "")), "p", "m") is None


BOTH = "input = 1\noutput = 1\n"


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("[p.m", "", "is not valid TOML"),
        (b"\xff", "", "is not valid TOML"),
        ("[p.m]\nfrom = 2026-02-30\n" + BOTH, "", "is not valid TOML"),
        ("version = 1", "[version]", "must be a table"),
        ("[p]\nm = 3", "[p.m]", "must be a table"),
        ("[p]\nm = [3]", "[p.m]", "must be a table"),
        ("[p.m]\noutput = 1", "[p.m] input", "is missing"),
        ("[p.m]\ninput = 1", "[p.m] output", "is missing"),
        ("[p.m]\ninptu = 1\n" + BOTH, "[p.m] inptu", "is unknown; known are input, output, cache_read"),
        ("[openai.gpt-4.1]\n" + BOTH, "[openai.gpt-4] 1", "needs quotes"),
        ('[p."m.1"]\ninput = -1\noutput = 1', '[p."m.1"] input', "must not be negative"),
        ('[p.m]\ninput = "-0.5"\noutput = 1', "[p.m] input", "must not be negative"),
        ("[p.m]\ninput = true\noutput = 1", "[p.m] input", "must be a number"),
        ("[p.m]\ninput = nan\noutput = 1", "[p.m] input", "must be a number"),
        ("[p.m]\ninput = inf\noutput = 1", "[p.m] input", "must be a number"),
        ('[p.m]\ninput = "3 USD"\noutput = 1', "[p.m] input", "must be a number"),
        ('[p.m]\ninput = "1e3"\noutput = 1', "[p.m] input", "must be a number"),
        ('[p.m]\ninput = "٣"\noutput = 1', "[p.m] input", "must be a number"),
        ("[p.m]\ninput = [1]\noutput = 1", "[p.m] input", "must be a number"),
        ("[p.m]\ninput = 0.1234567\noutput = 1", "[p.m] input", "more than 6 decimal places"),
        ("[p.m]\ninput = 1e-400\noutput = 1", "[p.m] input", "more than 6 decimal places"),
        ("[p.m]\ninput = 1e400\noutput = 1", "[p.m] input", "must be less than 1000000"),
        ("[p.m]\ninput = 1000000\noutput = 1", "[p.m] input", "must be less than 1000000"),
        ("[p.m]\nfrom = 2026-01-01T00:00:00Z\n" + BOTH, "[p.m] from", "must be a date"),
        ('[p.m]\nfrom = "20260101"\n' + BOTH, "[p.m] from", "must be a date"),
        ('[p.m]\nuntil = "soon"\n' + BOTH, "[p.m] until", "must be a date"),
        ("[p.m]\nfrom = 2026-01-01\nuntil = 2026-01-01\n" + BOTH, "[p.m] until", "must be later than from"),
        ("[[p.m]]\n" + BOTH + "[[p.m]]\nfrom = 2026-01-01\n" + BOTH, "[p.m]", "two periods overlap"),
        ("[p.m]\n" + BOTH + "[p.M]\n" + BOTH, "[p.M]", "an earlier table names already"),
        ("[xai.m]\n" + BOTH + "[x-ai.m]\n" + BOTH, "[x-ai]", "an earlier table names already"),
        ('["".m]\n' + BOTH, '[""]', "names no provider"),
        ('[p.""]\n' + BOTH, '[p.""]', "names no model"),
    ],
)
def test_a_wrong_price_file_is_told_by_file_table_and_key(
    tmp_path: Path, text: str | bytes, place: str, problem: str
) -> None:
    file = written(tmp_path, text)
    with pytest.raises(PriceFileError) as caught:
        OverridePrices.load(file)
    assert isinstance(caught.value, ValueError)
    assert str(caught.value).startswith(f"{file}: {place}: " if place else f"{file}: ")
    assert problem in str(caught.value)
    assert " ".join(part for part in (caught.value.table, caught.value.key) if part) == place


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PriceFileError, match=r"none\.toml: cannot be read: No such file"):
        OverridePrices.load(tmp_path / "none.toml")


class TestRates:
    def test_numbers_and_strings_in_any_order_of_days(self, tmp_path: Path) -> None:
        rates = ExchangeRates.load(
            written(
                tmp_path, '[rates.ZAR]\n2026-11-10 = 17.25\n2026-11-01 = "18.123456789012"\n2026-11-05 = 18\n'
            )
        )
        expected = {
            date(2026, 10, 31): None,
            date(2026, 11, 1): Decimal("18.123456789012"),
            date(2026, 11, 9): Decimal(18),
            date(2026, 11, 10): Decimal("17.25"),
        }
        found = {day: rates.at("ZAR", day) for day in expected}
        assert {day: rate and rate.per_usd for day, rate in found.items()} == expected
        assert rates.at("EUR", DAY) is None
        assert rates.currencies == {"ZAR", "USD"}

    @pytest.mark.parametrize(("limit", "warnings"), [(None, 0), (10, 0), (9, 1)])
    def test_an_old_rate_is_used_and_warned_about_once(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture, limit: int | None, warnings: int
    ) -> None:
        rates = ExchangeRates.load(written(tmp_path, "[rates.ZAR]\n2026-11-10 = 17"), max_age_days=limit)
        with caplog.at_level(logging.WARNING, "dragoman.pricing"):
            for _ in range(2):
                rate = rates.at("ZAR", DAY)
                assert rate is not None
                assert rate.per_usd == 17
        assert len(caplog.records) == warnings

    @pytest.mark.parametrize(
        ("text", "place", "problem"),
        [
            ("ZAR = 17", "[ZAR]", "the file holds [rates.CURRENCY] tables"),
            ("rates = 17", "[rates]", "must be a table"),
            ("[rates]\nZAR = 17", "[rates.ZAR]", "must be a table"),
            ("[rates.ZAR]", "[rates.ZAR]", "holds no rate"),
            ("[rates.zar]\n2026-11-01 = 17", "[rates.zar]", "must be a currency code"),
            ("[rates.USD]\n2026-11-01 = 1", "[rates.USD]", "the dollar has none"),
            ("[rates.ZAR]\ntoday = 17", "[rates.ZAR] today", "must be a date"),
            ("[rates.ZAR]\n2026-02-30 = 17", "[rates.ZAR] 2026-02-30", "must be a date"),
            ("[rates.ZAR]\n20261101 = 17", "[rates.ZAR] 20261101", "must be a date"),
            ("[rates.ZAR]\n2026-11-01 = 0", "[rates.ZAR] 2026-11-01", "must not be zero"),
            ("[rates.ZAR]\n2026-11-01 = -17", "[rates.ZAR] 2026-11-01", "must not be negative"),
            ("[rates.ZAR]\n2026-11-01 = 'R17'", "[rates.ZAR] 2026-11-01", "must be a number"),
            ("[rates.ZAR]\n2026-11-01 = 1.0000000000001", "[rates.ZAR] 2026-11-01", "more than 12 decimal"),
            ("[rates.ZAR]\n2026-11-01 = 1e9", "[rates.ZAR] 2026-11-01", "must be less than"),
        ],
    )
    def test_a_wrong_rate_file_is_told_by_file_table_and_key(
        self, tmp_path: Path, text: str, place: str, problem: str
    ) -> None:
        file = written(tmp_path, text)
        with pytest.raises(PriceFileError) as caught:
            ExchangeRates.load(file)
        assert str(caught.value).startswith(f"{file}: {place}: ")
        assert problem in str(caught.value)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("Anthropic", "anthropic"),
        ("OpenAI Chat", "openai"),
        ("OpenAI Responses", "openai"),
        ("AwsBedrock", "aws"),
        ("xAI", "xai"),
        ("x-ai", "xai"),
        (" Google ", "google"),
        ("Moonshot", "moonshotai"),
        ("Tuning Engines", "tuningengines"),
        ("", ""),
    ],
)
def test_a_provider_has_one_key(name: str, key: str) -> None:
    assert provider_key(name) == key
    assert provider_key(key) == key
