"""Every token is counted once, under its kind, whatever way of counting a provider has."""

from dataclasses import dataclass, field
from types import SimpleNamespace as Told
from typing import Any

import pytest
from agno.agent import Agent
from agno.metrics import MessageMetrics
from agno.models.response import ModelResponse
from support.bench import bench, spent

from dragoman.adapter import tokens
from dragoman.records import TokenUsage
from dragoman.testing.scripted import ScriptedModel


def of(module: str) -> type:
    """A model class of the given module."""
    return type("Model", (), {"__module__": module})


def modality(name: str, count: int) -> Told:
    return Told(modality=Told(value=name), token_count=count)


OPENAI = "agno.models.openai.chat"
RESPONSES = "agno.models.openai.responses"
GOOGLE = "agno.models.google.gemini"

COUNTED: list[tuple[str, str, MessageMetrics, Any, TokenUsage]] = [
    (
        "nothing more is told",
        "somewhere.else",
        MessageMetrics(input_tokens=9, output_tokens=4, cache_read_tokens=3, cache_write_tokens=2),
        None,
        TokenUsage(9, 4, 3, 2),
    ),
    (
        "Agno's own audio and reasoning",
        "somewhere.else",
        MessageMetrics(
            input_tokens=9, output_tokens=8, audio_input_tokens=3, audio_output_tokens=2, reasoning_tokens=1
        ),
        None,
        TokenUsage(9, 8, reasoning_tokens=1, input_audio_tokens=3, output_audio_tokens=2),
    ),
    (
        "the input has the cached",
        OPENAI,
        MessageMetrics(input_tokens=100, output_tokens=5, cache_read_tokens=70, cache_write_tokens=10),
        None,
        TokenUsage(20, 5, 70, 10),
    ),
    (
        "pictures and sound in and out, as attributes",
        OPENAI,
        MessageMetrics(input_tokens=100, output_tokens=50, audio_input_tokens=7, audio_output_tokens=8),
        Told(
            prompt_tokens_details=Told(audio_tokens=7, image_tokens=30, cached_tokens=None),
            completion_tokens_details=Told(audio_tokens=8, image_tokens=20, reasoning_tokens=None),
        ),
        TokenUsage(
            100,
            50,
            input_audio_tokens=7,
            output_audio_tokens=8,
            input_image_tokens=30,
            output_image_tokens=20,
        ),
    ),
    (
        "pictures, as keys",
        "agno.models.litellm.chat",
        MessageMetrics(input_tokens=100, output_tokens=50),
        {"prompt_tokens_details": {"image_tokens": 30}, "completion_tokens_details": None},
        TokenUsage(100, 50, input_image_tokens=30),
    ),
    (
        "the newer names",
        RESPONSES,
        MessageMetrics(input_tokens=100, output_tokens=50, reasoning_tokens=9),
        Told(input_tokens_details=Told(image_tokens=30), output_tokens_details=Told(image_tokens=20)),
        TokenUsage(100, 50, reasoning_tokens=9, input_image_tokens=30, output_image_tokens=20),
    ),
    (
        "thoughts beside the output",
        GOOGLE,
        MessageMetrics(input_tokens=100, output_tokens=50, reasoning_tokens=40),
        Told(tool_use_prompt_token_count=6),
        TokenUsage(106, 90, reasoning_tokens=40),
    ),
    (
        "modalities, in part from the cache",
        GOOGLE,
        MessageMetrics(input_tokens=600, output_tokens=50, cache_read_tokens=300),
        Told(
            prompt_tokens_details=[modality("TEXT", 40), modality("IMAGE", 260), modality("AUDIO", 300)],
            cache_tokens_details=[modality("IMAGE", 100), modality("AUDIO", 200)],
            candidates_tokens_details=[modality("TEXT", 10), modality("IMAGE", 40)],
        ),
        TokenUsage(300, 50, 300, input_audio_tokens=100, input_image_tokens=160, output_image_tokens=40),
    ),
    (
        "pages are pictures, and tools bring in some",
        GOOGLE,
        MessageMetrics(input_tokens=300, output_tokens=5),
        Told(
            tool_use_prompt_token_count=70,
            prompt_tokens_details=[modality("DOCUMENT", 258), modality("VIDEO", 1)],
            tool_use_prompt_tokens_details=[modality("IMAGE", 60), modality("TEXT", 10)],
        ),
        TokenUsage(370, 5, input_image_tokens=318),
    ),
    (
        "reasoning beside the output, not Google's",
        "agno.models.xai.xai",
        MessageMetrics(input_tokens=32, output_tokens=9, reasoning_tokens=110),
        None,
        TokenUsage(32, 119, reasoning_tokens=110),
    ),
]


@pytest.mark.parametrize(
    ("module", "figures", "told", "expected"),
    [case[1:] for case in COUNTED],
    ids=[case[0] for case in COUNTED],
)
def test_what_a_provider_tells(module: str, figures: MessageMetrics, told: Any, expected: TokenUsage) -> None:
    assert tokens.of_metrics(of(module), figures, told) == expected


def test_anthropics_figures_go_on_from_what_was_told_before() -> None:
    start = Told(
        input_tokens=10,
        output_tokens=1,
        cache_read_input_tokens=20,
        cache_creation_input_tokens=30,
        cache_creation=Told(ephemeral_5m_input_tokens=19, ephemeral_1h_input_tokens=11),
    )
    before = tokens.of_anthropic(start, TokenUsage())
    assert before == TokenUsage(10, 1, 20, 30, 11)
    last = Told(output_tokens=44, input_tokens=None, output_tokens_details=Told(thinking_tokens=33))
    assert tokens.of_anthropic(last, before) == TokenUsage(10, 44, 20, 30, 11, 33)


@dataclass
class Breaks(ScriptedModel):
    """Stands for a provider that breaks its figures down, as Agno reads them."""

    figures: list[Any] = field(default_factory=list)

    def _get_metrics(self, response_usage: Any) -> MessageMetrics:
        return MessageMetrics(input_tokens=response_usage.total, output_tokens=response_usage.out)

    async def ainvoke_stream(self, **kwargs: Any) -> Any:
        async for delta in super().ainvoke_stream(**kwargs):
            yield delta
        for told in self.figures:
            yield ModelResponse(content="", response_usage=self._get_metrics(told))


Breaks.__module__ = OPENAI


async def test_what_agno_leaves_out_is_in_the_ledger() -> None:
    pictures = Told(
        total=100, out=30, prompt_tokens_details=Told(image_tokens=60), completion_tokens_details=None
    )
    more = Told(total=1, out=2)
    model = Breaks(turns=[["Hi"]], figures=[pictures, more])
    async with bench(lambda: Agent(model=model)) as b:
        ran = await b.turn("Look")
        assert spent(ran.outcome.calls) == TokenUsage(101, 32, input_image_tokens=60)
        (event,) = [e.model_request_completed for e in ran.events if e.HasField("model_request_completed")]
        assert event.usage.input_image_tokens == 60
