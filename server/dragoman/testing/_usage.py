"""Token counts in Agno's form."""

from agno.metrics import MessageMetrics

from dragoman.records import TokenUsage


def metrics(usage: TokenUsage) -> MessageMetrics:
    """The same figures as Agno has them (which knows nothing of one-hour cache writes)."""
    return MessageMetrics(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        total_tokens=usage.input_tokens + usage.output_tokens,
        cache_read_tokens=usage.cache_read_tokens,
        cache_write_tokens=usage.cache_write_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        audio_input_tokens=usage.input_audio_tokens,
        audio_output_tokens=usage.output_audio_tokens,
    )
