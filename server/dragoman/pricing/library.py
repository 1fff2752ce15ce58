"""The prices of the `genai-prices` library, from the snapshot in its wheel and never from its updater.

The library is asked for three things only: its provider data, which model a name means (`find_model`, with its match
rules and its fall-back from Azure or Vertex to the maker of the model), and which of a model's prices holds at a
moment (`get_prices`: by date, and for some models by the hour of the day). It keeps unit prices as `Decimal`; the
arithmetic is ours (sheet.py), because the library bills a kind without a price at the next wider kind's price.

A price key that is not understood here makes the model unpriceable rather than cheap: so new keys in a later release
of the library cannot turn into silent under-billing. Fees per use of a server tool are not part of a call's tokens
and are left aside.
"""

from datetime import datetime
from decimal import Decimal
from functools import lru_cache

import genai_prices
from genai_prices.data import providers
from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

from dragoman.pricing.names import provider_key
from dragoman.pricing.sheet import PriceSheet, UnitPrice

_KINDS = {
    "input_mtok": "input_tokens",
    "output_mtok": "output_tokens",
    "cache_read_mtok": "cache_read_tokens",
    # The five-minute write; the library lists the one-hour price beside it (Anthropic: 1.25 and 2 times the input).
    "cache_write_mtok": "cache_write_tokens",
    "cache_write_1h_mtok": "cache_write_1h_tokens",
    "output_reasoning_mtok": "reasoning_tokens",
    "input_audio_mtok": "input_audio_tokens",
    "output_audio_mtok": "output_audio_tokens",
    "input_image_mtok": "input_image_tokens",
    "output_image_mtok": "output_image_tokens",
}

_TOOL_FEES = frozenset(
    {"web_searches_kcount", "social_searches_kcount", "storage_searches_kcount", "code_executions_kcount"}
)

_CACHED_APART = {
    "cache_audio_read_mtok": "input_audio_tokens",
    "cache_image_read_mtok": "input_image_tokens",
}

_IMAGES_AS_TEXT = frozenset({"google", "openai", "azure"})
"""Providers whose price lists say that pictures in the input cost what text does, but for the models where they list
another price. (Anthropic's says so, too, but its usage does not tell pictures apart.)"""

_GATEWAY = "litellm"
"""Names the provider in front of the model: `anthropic/claude-sonnet-4-5`."""


class LibraryModel:
    """One model of the library, with a sheet ready for each of its prices."""

    def __init__(self, info: ModelInfo, *, images_as_text: bool) -> None:
        self._info = info
        prices = (
            [info.prices] if isinstance(info.prices, ModelPrice) else [entry.prices for entry in info.prices]
        )
        # get_prices returns one of these very objects, and the library's data lives as long as the process.
        self._sheets = {id(price): _sheet(price, images_as_text=images_as_text) for price in prices}

    def sheet(self, at: datetime) -> PriceSheet:
        """The prices that hold at that moment."""
        return self._sheets[id(self._info.get_prices(at))]


class LibraryPrices:
    """Looks models up in the library's bundled snapshot."""

    def __init__(self) -> None:
        self.version = f"genai-prices {genai_prices.__version__}"
        self._providers = {provider_key(provider.id): provider for provider in providers}
        self.find = lru_cache(maxsize=1024)(self._find)

    @property
    def names(self) -> list[tuple[str, str]]:
        """Provider key and id of every model."""
        return [(key, model.id) for key, known in self._providers.items() for model in known.models]

    def _find(self, provider: str, model: str) -> LibraryModel | None:
        """The model that a provider key and a model name mean, or None. Scans match rules, so it is cached."""
        if provider == _GATEWAY and "/" in model:
            head, model = model.split("/", 1)
            provider = provider_key(head)
        known = self._providers.get(provider)
        info = known.find_model(model, all_providers=providers) if known is not None else None
        return LibraryModel(info, images_as_text=provider in _IMAGES_AS_TEXT) if info is not None else None


def _sheet(price: ModelPrice, *, images_as_text: bool) -> PriceSheet:
    listed = {key: value for key, value in vars(price).items() if value is not None}
    prices = {_KINDS[key]: _unit_price(value) for key, value in listed.items() if key in _KINDS}
    if images_as_text and "input_tokens" in prices:
        prices.setdefault("input_image_tokens", prices["input_tokens"])
    return PriceSheet(
        prices=prices,
        unknowable=tuple(sorted(listed.keys() - _KINDS.keys() - _TOOL_FEES - _CACHED_APART.keys())),
        cached_apart=frozenset(_CACHED_APART[key] for key in listed.keys() & _CACHED_APART.keys()),
    )


def _unit_price(value: Decimal | TieredPrices) -> UnitPrice:
    if isinstance(value, TieredPrices):
        return UnitPrice(value.base, tuple((tier.start, tier.price) for tier in value.tiers))
    return UnitPrice(value)
