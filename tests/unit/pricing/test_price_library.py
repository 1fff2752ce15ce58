"""What the pricing room relies on in `genai-prices`: an upgrade that breaks one of these is noticed here."""

from decimal import Decimal

from genai_prices.data import providers
from genai_prices.types import ModelPrice, TieredPrices

from dragoman.pricing import library


def prices() -> list[tuple[str, str, dict[str, Decimal | TieredPrices]]]:
    return [
        (provider.id, model.id, {key: value for key, value in vars(price).items() if value is not None})
        for provider in providers
        for model in provider.models
        for price in (
            [model.prices]
            if isinstance(model.prices, ModelPrice)
            else [entry.prices for entry in model.prices]
        )
    ]


def test_every_figure_is_a_decimal() -> None:
    for provider, model, listed in prices():
        for value in listed.values():
            figures = (
                [value.base, *(tier.price for tier in value.tiers)]
                if isinstance(value, TieredPrices)
                else [value]
            )
            assert all(type(figure) is Decimal for figure in figures), (provider, model)


def test_anthropic_lists_one_hour_cache_writes_at_twice_the_input() -> None:
    checked = 0
    for provider, model, listed in prices():
        if provider == "anthropic" and "cache_write_mtok" in listed:
            assert doubled(listed["input_mtok"]) == listed.get("cache_write_1h_mtok"), model
            checked += 1
    assert checked > 10


def doubled(price: Decimal | TieredPrices) -> Decimal | TieredPrices:
    if isinstance(price, Decimal):
        return 2 * price
    tiers = [type(tier)(start=tier.start, price=2 * tier.price) for tier in price.tiers]
    return TieredPrices(base=2 * price.base, tiers=tiers)


def test_chat_models_with_a_price_that_a_usage_cannot_meet_are_few() -> None:
    understood = {*library._KINDS, *library._TOOL_FEES, *library._CACHED_APART}
    chat = [listed for _, _, listed in prices() if {"input_mtok", "output_mtok"} <= listed.keys()]
    unpriceable = [listed for listed in chat if not listed.keys() <= understood]
    assert len(chat) > 2000
    assert len(unpriceable) < len(chat) / 50
    assert {key for listed in unpriceable for key in listed} - understood == {
        "audio_hours",
        "input_audio_hours",
        "input_video_mtok",
        "output_citation_mtok",
        "output_video_mtok",
        "requests_kcount",
    }
