"""What a call costs: exactness, sources and their order, unknowns."""

import hashlib
import logging
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, getcontext, localcontext
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import genai_prices
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.pricing import PriceFileError, Pricer
from dragoman.records import MONEY_SCALE, Cost, TokenUsage

AT = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
LIBRARY = f"genai-prices {genai_prices.__version__}"
ZAR = Fraction("17.2345")

SONNET = {
    "input_tokens": ("3", "6"),
    "output_tokens": ("15", "22.5"),
    "cache_read_tokens": ("0.3", "0.6"),
    "cache_write_tokens": ("3.75", "7.5"),
    "cache_write_1h_tokens": ("6", "12"),
}
"""Anthropic's price list for Claude Sonnet 4.5: up to 200,000 input tokens, and above."""


@pytest.fixture(scope="module")
def rates_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rates") / "rates.toml"
    file.write_text('[rates.ZAR]\n2026-10-01 = "18.5"\n2026-11-20 = "17.2345"\n')
    return file


@pytest.fixture(scope="module")
def pricer(rates_file: Path) -> Pricer:
    return Pricer.load(rates_file=rates_file)


def with_prices(tmp_path: Path, text: str, currency: str = "USD") -> Pricer:
    file = tmp_path / "prices.toml"
    file.write_text(text)
    return Pricer.load(currency=currency, prices_file=file)


def priced(pricer: Pricer, provider: str, model: str, usage: TokenUsage, at: datetime = AT) -> Cost:
    cost = pricer.price(provider, model, usage, at)
    assert cost is not None
    return cost


def at_scale(amount: Fraction) -> Fraction:
    """Rounded half to even to the stored scale, without Decimal (Python's round of a Fraction is half to even)."""
    return Fraction(round(amount * 10**MONEY_SCALE), 10**MONEY_SCALE)


tokens = st.integers(0, 3_000_000)


@st.composite
def usages(draw: st.DrawFn) -> TokenUsage:
    write, output = draw(tokens), draw(tokens)
    return TokenUsage(
        input_tokens=draw(tokens),
        output_tokens=output,
        cache_read_tokens=draw(tokens),
        cache_write_tokens=write,
        cache_write_1h_tokens=draw(st.integers(0, write)),
        reasoning_tokens=draw(st.integers(0, output)),
    )


class TestExactness:
    @given(usage=usages())
    def test_equals_rational_arithmetic_to_the_last_digit(self, pricer: Pricer, usage: TokenUsage) -> None:
        tier = int(usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens > 200_000)
        billed = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cache_read_tokens": usage.cache_read_tokens,
            "cache_write_tokens": usage.cache_write_tokens - usage.cache_write_1h_tokens,
            "cache_write_1h_tokens": usage.cache_write_1h_tokens,
        }
        usd = sum(
            (count * Fraction(SONNET[kind][tier]) / 10**6 for kind, count in billed.items()), Fraction()
        )

        cost = priced(pricer, "Anthropic", "claude-sonnet-4-5", usage)

        assert Fraction(cost.usd) == usd, (
            "six places per million tokens are exact at twelve: no rounding at all"
        )
        assert Fraction(cost.amount) == at_scale(usd * ZAR)
        assert cost.unit_prices == {
            kind: Decimal(SONNET[kind][tier]) for kind, count in billed.items() if count
        }
        assert (cost.exchange_rate, cost.rate_date) == (Decimal("17.2345"), date(2026, 11, 20))
        assert cost.usd.as_tuple().exponent == cost.amount.as_tuple().exponent == -MONEY_SCALE

    @given(
        usage=usages(),
        price=st.tuples(*[st.decimals(0, 999_999, places=6)] * 5),
        rate=st.decimals("0.000000000001", 999_999_999, places=12),
    )
    def test_equals_it_for_any_price_and_rate(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        usage: TokenUsage,
        price: tuple[Decimal, ...],
        rate: Decimal,
    ) -> None:
        kinds = ("input", "output", "cache_read", "cache_write", "cache_write_1h")
        folder = tmp_path_factory.mktemp("any")
        (folder / "prices.toml").write_text(
            "[p.m]\n" + "\n".join(f'{kind} = "{p:f}"' for kind, p in zip(kinds, price, strict=True))
        )
        (folder / "rates.toml").write_text(f'[rates.XTS]\n2026-01-01 = "{rate:f}"\n')
        pricer = Pricer.load(
            currency="XTS", prices_file=folder / "prices.toml", rates_file=folder / "rates.toml"
        )
        counts = (
            usage.input_tokens,
            usage.output_tokens,
            usage.cache_read_tokens,
            usage.cache_write_tokens - usage.cache_write_1h_tokens,
            usage.cache_write_1h_tokens,
        )
        usd = sum((n * Fraction(p) for n, p in zip(counts, price, strict=True)), Fraction()) / 10**6

        cost = priced(pricer, "p", "m", usage)

        assert Fraction(cost.usd) == usd
        assert Fraction(cost.amount) == at_scale(usd * Fraction(rate))

    @given(usage=usages())
    @pytest.mark.parametrize(
        ("provider", "model"),
        [
            ("anthropic", "claude-haiku-4-5"),
            ("anthropic", "claude-opus-4-6"),
            ("aws", "global.anthropic.claude-sonnet-4-5-20250929-v1:0"),
        ],
    )
    def test_agrees_with_the_library_where_it_prices_every_kind(
        self, pricer: Pricer, provider: str, model: str, usage: TokenUsage
    ) -> None:
        whole = usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens
        theirs = genai_prices.calc_price(
            genai_prices.Usage(
                input_tokens=whole,
                output_tokens=usage.output_tokens,
                cache_read_tokens=usage.cache_read_tokens,
                cache_write_tokens=usage.cache_write_tokens,
                cache_write_1h_tokens=usage.cache_write_1h_tokens,
            ),
            model,
            provider_id=provider,
            genai_request_timestamp=AT,
        )
        assert priced(pricer, provider, model, usage).usd == theirs.total_price

    @pytest.mark.parametrize(
        ("whole_input", "expected"), [(200_000, Decimal("0.60")), (200_001, Decimal("1.200006"))]
    )
    @pytest.mark.parametrize("cached", [0, 150_000])
    def test_the_tier_follows_the_whole_input_and_holds_for_all_tokens(
        self, whole_input: int, expected: Decimal, cached: int
    ) -> None:
        pricer = Pricer.load(currency="USD")
        cost = priced(pricer, "anthropic", "claude-sonnet-4-5", TokenUsage(whole_input - cached, 0, cached))
        cheaper = cached * (Decimal("2.7") if whole_input <= 200_000 else Decimal("5.4")) / 10**6
        assert cost.usd == expected - cheaper

    def test_a_price_with_more_places_is_rounded_once_half_to_even(self, pricer: Pricer) -> None:
        # The library lists this one at 0.08333333333333334 USD per million.
        cost = priced(pricer, "openrouter", "google/gemini-2.5-flash-lite", TokenUsage(cache_write_tokens=3))
        assert cost.usd == Decimal("0.000000250000")
        assert Fraction(cost.amount) == at_scale(Fraction(cost.usd) * ZAR), "the row checks itself"

    def test_does_not_depend_on_the_callers_decimal_context(self, pricer: Pricer) -> None:
        usage = TokenUsage(123_456_789, 987_654_321, 55_555, 44_444, 33_333)
        expected = priced(pricer, "anthropic", "claude-opus-4-5", usage)
        with localcontext() as context:
            context.prec = 3
            assert priced(pricer, "anthropic", "claude-opus-4-5", usage) == expected
            assert getcontext().prec == 3

    def test_no_tokens_of_a_known_model_cost_exactly_nothing(self, pricer: Pricer) -> None:
        cost = priced(pricer, "anthropic", "claude-opus-4-5", TokenUsage())
        assert cost.usd == cost.amount == 0
        assert not cost.unit_prices

    def test_reasoning_is_billed_once(self, pricer: Pricer) -> None:
        plain = priced(pricer, "OpenAI", "gpt-5", TokenUsage(10, 500))
        assert priced(pricer, "OpenAI", "gpt-5", TokenUsage(10, 500, reasoning_tokens=400)) == plain

    def test_reasoning_with_a_price_of_its_own_is_taken_out_of_the_output(self) -> None:
        pricer = Pricer.load(currency="USD")
        usage = TokenUsage(output_tokens=500_000, reasoning_tokens=400_000)
        cost = priced(pricer, "OpenRouter", "perplexity/sonar-deep-research", usage)
        assert cost.usd == Decimal("0.1") * 8 + Decimal("0.4") * 3

    def test_audio_is_taken_out_of_input_and_output(self, tmp_path: Path) -> None:
        pricer = with_prices(tmp_path, '[p.m]\ninput = 2\noutput = 10\ninput_audio = "40"\noutput_audio = 80')
        usage = TokenUsage(1_000_000, 1_000_000, input_audio_tokens=250_000, output_audio_tokens=500_000)
        assert priced(pricer, "p", "m", usage).usd == Decimal("1.5") + 10 + 5 + 40


class TestNames:
    @pytest.mark.parametrize(
        ("provider", "model", "input_price", "output_price"),
        [
            ("Anthropic", "claude-sonnet-4-5", "3", "15"),
            ("anthropic", "claude-sonnet-4-5-20250929", "3", "15"),
            ("Anthropic", "claude-opus-4-5-20251101", "5", "25"),
            ("ANTHROPIC", "Claude-Haiku-4-5", "1", "5"),
            ("OpenAI", "gpt-4o", "2.5", "10"),
            ("OpenAI Chat", "gpt-4o-2024-08-06", "2.5", "10"),
            ("OpenAI Responses", "gpt-5", "1.25", "10"),
            ("Google", "gemini-2.5-pro", "1.25", "10"),
            ("VertexAI", "claude-sonnet-4-5@20250929", "3", "15"),
            ("AwsBedrock", "us.anthropic.claude-sonnet-4-5-20250929-v1:0", "3.3", "16.5"),
            ("Azure", "gpt-4o", "2.5", "10"),
            ("AzureFoundry", "claude-sonnet-4-5", "3", "15"),
            ("Groq", "llama-3.3-70b-versatile", "0.59", "0.79"),
            ("Mistral", "mistral-large-latest", "2", "6"),
            ("LiteLLM", "anthropic/claude-haiku-4-5", "1", "5"),
            ("OpenRouter", "anthropic/claude-sonnet-4.5", "3", "15"),
            ("offline", "offline-demo", "1.00", "5.00"),
        ],
    )
    def test_agnos_names_find_the_price(
        self, pricer: Pricer, provider: str, model: str, input_price: str, output_price: str
    ) -> None:
        cost = priced(pricer, provider, model, TokenUsage(1, 1))
        assert cost.unit_prices == {
            "input_tokens": Decimal(input_price),
            "output_tokens": Decimal(output_price),
        }

    @pytest.mark.parametrize("provider", ["xAI", "x-ai", "XAI"])
    def test_spellings_of_a_provider_are_one(self, pricer: Pricer, provider: str) -> None:
        assert priced(pricer, provider, "grok-4.20", TokenUsage(1)) == priced(
            pricer, "xai", "grok-4.20", TokenUsage(1)
        )


class TestUnpriced:
    @pytest.mark.parametrize(
        ("provider", "model", "usage"),
        [
            ("Anthropic", "claude-opus-1999", TokenUsage(1)),
            ("OpenAI", "gpt-5-made-up", TokenUsage(1)),
            ("Nobody", "gpt-4o", TokenUsage(1)),
            ("MyOpenAIProxy", "gpt-4o", TokenUsage(1)),
            ("", "", TokenUsage(1)),
            ("Nobody", "gpt-4o", TokenUsage()),
            ("LiteLLM", "gpt-4o", TokenUsage(1)),
            ("OpenAI", "gpt-4o", TokenUsage(1, 1, cache_write_tokens=1)),
            ("OpenAI", "gpt-4o-audio-preview", TokenUsage(9, 9, input_audio_tokens=5)),
            ("OpenAI", "gpt-4o-audio-preview", TokenUsage(9, 9, output_audio_tokens=5)),
            ("Google", "gemini-2.5-flash", TokenUsage(9, 9, 5, input_audio_tokens=5)),
            ("Google", "gemini-3.1-flash-live-preview", TokenUsage(9, 9)),
            ("Anthropic", "claude-sonnet-4-5", TokenUsage(9, 9, input_image_tokens=3)),
            ("Perplexity", "sonar", TokenUsage(9, 9)),
            ("Anthropic", "claude-haiku-4-5", TokenUsage(cache_write_tokens=1, cache_write_1h_tokens=2)),
            ("Google", "gemini-2.5-flash", TokenUsage(1, input_audio_tokens=2)),
            ("Anthropic", "claude-haiku-4-5", TokenUsage(-1, 5)),
            ("Anthropic", "claude-haiku-4-5", TokenUsage(5, -1)),
        ],
    )
    def test_gives_none_and_counts(self, provider: str, model: str, usage: TokenUsage) -> None:
        pricer = Pricer.load()
        assert pricer.price(provider, model, usage, AT) is None
        assert pricer.price(provider, model, usage, AT) is None
        assert pricer.unpriced == {(provider, model): 2}

    def test_priced_calls_are_not_counted(self) -> None:
        pricer = Pricer.load()
        priced(pricer, "OpenAI", "gpt-4o", TokenUsage(1))
        assert not pricer.unpriced

    def test_is_logged_once_per_model_with_the_reason(self, caplog: pytest.LogCaptureFixture) -> None:
        pricer = Pricer.load()
        with caplog.at_level(logging.WARNING, "dragoman.pricing"):
            for model in ("new-1", "new-1", "new-2"):
                pricer.price("Anthropic", model, TokenUsage(1), AT)
        assert [(record.model_id, record.getMessage()) for record in caplog.records] == [  # type: ignore[attr-defined]  # set by `extra`
            ("new-1", "a model call has no cost: no price is known"),
            ("new-2", "a model call has no cost: no price is known"),
        ]

    def test_a_call_older_than_every_rate(self, pricer: Pricer) -> None:
        assert (
            pricer.price("OpenAI", "gpt-4o", TokenUsage(1), datetime(2026, 9, 30, 23, 59, tzinfo=UTC)) is None
        )
        assert pricer.unpriced["OpenAI", "gpt-4o"] == 1

    def test_a_dollar_needs_no_rate(self) -> None:
        at = datetime(2025, 1, 1, tzinfo=UTC)
        cost = priced(Pricer.load(currency="USD"), "OpenAI", "gpt-4o", TokenUsage(1_000_000), at)
        assert cost.usd == cost.amount == Decimal("2.5")
        assert (cost.currency, cost.exchange_rate, cost.rate_date) == ("USD", Decimal(1), date(2025, 1, 1))


class TestTime:
    @pytest.mark.parametrize(
        ("at", "rate", "rate_date"),
        [
            (datetime(2026, 10, 1, tzinfo=UTC), "18.5", date(2026, 10, 1)),
            (datetime(2026, 11, 19, 23, 59, 59, tzinfo=UTC), "18.5", date(2026, 10, 1)),
            (datetime(2026, 11, 20, tzinfo=UTC), "17.2345", date(2026, 11, 20)),
            (datetime(2027, 5, 1, tzinfo=UTC), "17.2345", date(2026, 11, 20)),
        ],
    )
    def test_rands_at_the_newest_rate_that_is_not_younger(
        self, pricer: Pricer, at: datetime, rate: str, rate_date: date
    ) -> None:
        cost = priced(pricer, "Anthropic", "claude-haiku-4-5", TokenUsage(1_000_000), at)
        assert (cost.currency, cost.usd) == ("ZAR", Decimal(1))
        assert (cost.amount, cost.exchange_rate, cost.rate_date) == (Decimal(rate), Decimal(rate), rate_date)

    def test_the_day_is_that_of_utc(self, pricer: Pricer) -> None:
        evening = datetime(2026, 11, 20, 1, 30, tzinfo=ZoneInfo("Africa/Johannesburg"))
        assert priced(pricer, "OpenAI", "gpt-4o", TokenUsage(1), evening).rate_date == date(2026, 10, 1)

    def test_the_library_changes_prices_by_date(self) -> None:
        pricer = Pricer.load(currency="USD")
        long = TokenUsage(1_000_000)
        before = priced(pricer, "Anthropic", "claude-opus-4-6", long, datetime(2026, 3, 12, tzinfo=UTC))
        after = priced(pricer, "Anthropic", "claude-opus-4-6", long, datetime(2026, 3, 13, tzinfo=UTC))
        assert (before.usd, after.usd) == (Decimal(10), Decimal(5))

    def test_and_by_the_hour_in_spite_of_the_cache(self) -> None:
        pricer = Pricer.load(currency="USD")
        found = {
            priced(pricer, "DeepSeek", "deepseek-chat", TokenUsage(1_000_000), AT.replace(hour=hour)).usd
            for hour in (3, 20, 3, 20)
        }
        assert len(found) == 2


class TestSources:
    OVERRIDES = '[anthropic."claude-haiku-4-5"]\ninput = "0.90"\noutput = 4.5\n\n[Offline."offline-*"]\ninput = 7\noutput = 7'

    def test_overrides_win_over_the_library_and_the_shipped_prices(self, tmp_path: Path) -> None:
        pricer = with_prices(tmp_path, self.OVERRIDES)
        haiku = priced(pricer, "Anthropic", "claude-haiku-4-5", TokenUsage(1_000_000, 1_000_000))
        assert haiku.usd == Decimal("5.4")
        assert priced(pricer, "offline", "offline-1", TokenUsage(1_000_000)).usd == 7

    def test_nothing_is_mixed_in_from_another_source(self, tmp_path: Path) -> None:
        pricer = with_prices(tmp_path, self.OVERRIDES)
        assert pricer.price("Anthropic", "claude-haiku-4-5", TokenUsage(1, 1, 1), AT) is None

    def test_versions_name_the_source(self, tmp_path: Path) -> None:
        pricer = with_prices(tmp_path, self.OVERRIDES)
        mine = "overrides " + hashlib.sha256(self.OVERRIDES.encode()).hexdigest()[:8]
        shipped = priced(Pricer.load(), "offline", "offline-1", TokenUsage(1)).price_version

        assert priced(pricer, "Anthropic", "claude-haiku-4-5", TokenUsage(1)).price_version == mine
        assert priced(pricer, "Anthropic", "claude-sonnet-4-5", TokenUsage(1)).price_version == LIBRARY
        assert shipped.startswith("builtin ")
        assert len(shipped) == len("builtin ") + 8
        assert pricer.version == f"{mine} + {shipped} + {LIBRARY}"

    def test_the_shipped_files_price_the_demonstration_in_rands(self) -> None:
        cost = priced(Pricer.load(), "offline", "offline-writer", TokenUsage(1_000_000, 1_000_000))
        assert (cost.usd, cost.currency, cost.rate_date) == (Decimal(6), "ZAR", date(2026, 11, 1))
        assert cost.amount == 6 * cost.exchange_rate

    @pytest.mark.parametrize("currency", ["ZAR", "EUR", "GBP", "USD", "zar"])
    def test_the_shipped_rates_cover(self, currency: str) -> None:
        pricer = Pricer.load(currency=currency)
        assert pricer.currency == currency.upper()
        assert priced(pricer, "OpenAI", "gpt-4o", TokenUsage(1)).currency == currency.upper()

    def test_a_currency_without_any_rate_stops_the_start(self) -> None:
        with pytest.raises(PriceFileError, match=r"rates\.toml: \[rates\.NOK\]: is missing"):
            Pricer.load(currency="NOK")

    def test_explain_lists_kinds_and_tiers(self, pricer: Pricer) -> None:
        lines = {
            (line.kind, line.above_input_tokens): line.usd_per_million
            for line in pricer.explain("Anthropic", "claude-sonnet-4-5", AT)
        }
        assert lines == {
            (kind, above): Decimal(price)
            for kind, prices in SONNET.items()
            for above, price in zip((0, 200_000), prices, strict=True)
        }
        assert pricer.explain("Anthropic", "claude-opus-1999", AT) == []
        assert {line.price_version for line in pricer.explain("OpenAI", "gpt-4o", AT)} == {LIBRARY}


def test_no_socket_is_ever_opened() -> None:
    """In a fresh interpreter whose sockets raise from before the first import on."""
    program = """
import socket, sys
opened = []
def forbidden(event, args):
    if event.startswith("socket."):
        opened.append(event)
        raise RuntimeError(event)
sys.addaudithook(forbidden)
try:
    socket.socket()
except RuntimeError:
    opened.clear()
else:
    raise SystemExit("the guard does not work")

from datetime import UTC, datetime
from dragoman.pricing import Pricer
from dragoman.records import TokenUsage
pricer = Pricer.load()
at = datetime(2026, 11, 20, tzinfo=UTC)
assert pricer.price("Anthropic", "claude-sonnet-4-5", TokenUsage(1), at) is not None
assert pricer.price("Anthropic", "no-such-model", TokenUsage(1), at) is None
assert not opened, opened
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_the_cache_answers_repeated_calls(pricer: Pricer) -> None:
    pricer.price("Anthropic", "claude-sonnet-4-5", TokenUsage(1), AT)
    misses = pricer._quote.cache_info().misses
    for minute in range(30):
        pricer.price("Anthropic", "claude-sonnet-4-5", TokenUsage(1), AT + timedelta(minutes=minute))
    assert pricer._quote.cache_info().misses == misses
