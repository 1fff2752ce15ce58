"""What providers tell of tokens, as the ledger counts them: every token once, under its kind.

    Agno's metrics      input, output, cache, reasoning and audio, in the provider's own way of counting
    the provider's own  what Agno leaves out of them: pictures, the parts of what the cache served, Google's thoughts

Providers differ in what contains what. A ledger's input has no cached tokens; OpenAI's and Google's does. A ledger's
output has the reasoning; Google's and xAI's have not. Where a provider does not tell a kind apart, nothing is made up.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Final, TypeAlias

from agno.metrics import BaseMetrics

from dragoman.records import TokenUsage

Counts: TypeAlias = tuple[int, ...]

_COUNT_CACHE_AS_INPUT: Final = (
    "agno.models.openai.",
    "agno.models.google.",
    "agno.models.mistral.",
    "agno.models.litellm.",
    "agno.models.perplexity.",
    "agno.models.ramp.",
    "agno.models.azure.ai_foundry",
)
"""Modules of models whose `input_tokens` include those that the cache served."""

_COUNT_REASONING_APART: Final = ("agno.models.google.", "agno.models.xai.xai")
"""Modules of models whose `output_tokens` leave out those of reasoning, which are billed as output."""


def counts(figures: Any) -> Counts:
    """What Agno's metrics or its event say, in the order of the first fields of TokenUsage."""
    return (
        figures.input_tokens or 0,
        figures.output_tokens or 0,
        figures.cache_read_tokens or 0,
        figures.cache_write_tokens or 0,
    )


def of_metrics(model: type, figures: BaseMetrics, told: Any = None) -> TokenUsage:
    """What a piece of an answer reports. `told`: the provider's own object that Agno read its figures from, if known."""
    tokens, output, cache_read, cache_write = counts(figures)
    reasoning = figures.reasoning_tokens or 0
    if _is_of(model, _COUNT_CACHE_AS_INPUT):
        tokens = max(0, tokens - cache_read - cache_write)
    if _is_of(model, _COUNT_REASONING_APART):
        output += reasoning
        tokens += _number(told, "tool_use_prompt_token_count")
    return TokenUsage(
        input_tokens=tokens,
        output_tokens=output,
        cache_read_tokens=cache_read,
        cache_write_tokens=cache_write,
        reasoning_tokens=reasoning,
        input_audio_tokens=_input_part(told, "audio") or figures.audio_input_tokens or 0,
        output_audio_tokens=_part(told, _OUTPUT_PARTS, "audio") or figures.audio_output_tokens or 0,
        input_image_tokens=_input_part(told, "image"),
        output_image_tokens=_part(told, _OUTPUT_PARTS, "image"),
    )


def of_anthropic(told: Any, before: TokenUsage) -> TokenUsage:
    """Anthropic's figures, which are cumulative; what it leaves out is as `before`."""
    creation = getattr(told, "cache_creation", None)
    details = getattr(told, "output_tokens_details", None)
    return TokenUsage(
        input_tokens=_number(told, "input_tokens", before.input_tokens),
        output_tokens=_number(told, "output_tokens", before.output_tokens),
        cache_read_tokens=_number(told, "cache_read_input_tokens", before.cache_read_tokens),
        cache_write_tokens=_number(told, "cache_creation_input_tokens", before.cache_write_tokens),
        cache_write_1h_tokens=_number(creation, "ephemeral_1h_input_tokens", before.cache_write_1h_tokens),
        reasoning_tokens=_number(details, "thinking_tokens", before.reasoning_tokens),
    )


_INPUT_PARTS: Final = ("prompt_tokens_details", "input_tokens_details", "tool_use_prompt_tokens_details")
_CACHED_PARTS: Final = ("cache_tokens_details",)
_OUTPUT_PARTS: Final = (
    "completion_tokens_details",
    "output_tokens_details",
    "candidates_tokens_details",
)
"""Where providers break their figures down: OpenAI and all who speak like it, its newer API, Google."""

_MODALITIES: Final = {"image": "image", "document": "image", "audio": "audio"}
"""Google's names. It bills the pages of a document as pictures."""


def _input_part(told: Any, kind: str) -> int:
    """The tokens of a kind in the input, without those that the cache is known to have served."""
    return max(0, _part(told, _INPUT_PARTS, kind) - _part(told, _CACHED_PARTS, kind))


def _part(told: Any, places: Iterable[str], kind: str) -> int:
    return sum(_of_kind(_value(told, place), kind) for place in places)


def _of_kind(details: Any, kind: str) -> int:
    """`image_tokens` of an object; or, as Google has it, the entries of a list that are of the modality."""
    if isinstance(details, list | tuple):
        return sum(
            _number(entry, "token_count") for entry in details if _MODALITIES.get(_modality(entry)) == kind
        )
    return _number(details, f"{kind}_tokens")


def _modality(entry: Any) -> str:
    named = _value(entry, "modality")
    return str(getattr(named, "value", named)).lower()


def _number(told: Any, name: str, otherwise: int = 0) -> int:
    value = _value(told, name)
    return otherwise if value is None else int(value)


def _value(told: Any, name: str) -> Any:
    return told.get(name) if isinstance(told, Mapping) else getattr(told, name, None)


@cache
def _is_of(cls: type, modules: tuple[str, ...]) -> bool:
    return any(base.__module__.startswith(modules) for base in cls.__mro__)
