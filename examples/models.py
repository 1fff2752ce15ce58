"""The one model that all example agents share: Claude where there is a key for it, else one that needs no network."""

from functools import cache

from agno.models.anthropic import Claude
from agno.models.base import Model

from dragoman.config import has_model_key
from dragoman.testing.offline import OfflineModel


@cache
def model() -> Model:
    """The same object at every call: it holds the connections to the provider, and runs share them."""
    return Claude(id="claude-haiku-4-5") if has_model_key() else OfflineModel()
