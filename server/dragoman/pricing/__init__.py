"""Prices x usage -> exact cost, fixed at the moment a model call is booked.

The app loads one `Pricer` at start-up and hands it to the engine, which asks it once per model call. Unit prices come
from three places, the first that knows the model wins: the operator's `prices.toml`, the few prices shipped here (for
the offline demonstration model), and the snapshot bundled with the `genai-prices` library. Dollars become the
reporting currency at the newest exchange rate that is not younger than the call. Nothing here touches the network,
nothing is a float, and what cannot be priced in full is None: never zero, never a part.

Why it is done this way is told in docs/decisions/0003-cost-arithmetic.md.
"""

from dragoman.pricing.files import PriceFileError, write_text
from dragoman.pricing.merging import Merged, MergedRates, merge_prices, merge_rates
from dragoman.pricing.pricer import PriceLine, Pricer
from dragoman.pricing.rates import ExchangeRate, ExchangeRates

__all__ = [
    "ExchangeRate",
    "ExchangeRates",
    "Merged",
    "MergedRates",
    "PriceFileError",
    "PriceLine",
    "Pricer",
    "merge_prices",
    "merge_rates",
    "write_text",
]
