"""A turn as it goes over the wire: the events of a stream, or one JSON body.

Each event carries what it reports of the bill, so that whoever sends it can add up what was really told.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dragoman.records import TokenUsage
from dragoman.testing._anthropic_script import Block, RedactedThinking, Text, Thinking, ToolUse, Turn, Usage

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Frame:
    """One server-sent event. `usage` is the bill so far that it tells, None when it tells none."""

    data: Json
    usage: TokenUsage | None = None

    @property
    def event(self) -> str:
        """Its type, for example `content_block_delta`."""
        return str(self.data["type"])

    def encode(self) -> bytes:
        """The bytes on the wire."""
        return f"event: {self.event}\ndata: {json.dumps(self.data, ensure_ascii=False)}\n\n".encode()


def frames(turn: Turn, message_id: str, model: str) -> Iterator[Frame]:
    """The whole stream of `turn`, in order, failures left aside."""
    usage = turn.usage
    first = usage_json(usage, usage.first_output_tokens, thinking=False)
    yield Frame(
        {"type": "message_start", "message": _envelope(message_id, model, [], None, first)},
        billed(usage, usage.first_output_tokens, thinking=False),
    )
    yield Frame({"type": "ping"})
    sent = 0
    for index, block in enumerate(turn.content()):
        yield Frame({"type": "content_block_start", "index": index, "content_block": _empty(block)})
        for delta in _deltas(block):
            yield Frame({"type": "content_block_delta", "index": index, "delta": delta})
            sent += 1
            if (tokens := turn.progress.get(sent)) is not None:
                yield _message_delta(
                    usage, tokens, {"stop_reason": None, "stop_sequence": None}, thinking=False
                )
        yield Frame({"type": "content_block_stop", "index": index})
    stop = {"stop_reason": turn.why_stopped(), "stop_sequence": None}
    yield _message_delta(usage, usage.output_tokens, stop, thinking=True)
    yield Frame({"type": "message_stop"})


def body(turn: Turn, message_id: str, model: str) -> Json:
    """The same turn as the answer to a request that is not streamed."""
    content = [_whole(block) for block in turn.content()]
    usage = usage_json(turn.usage, turn.usage.output_tokens, thinking=True)
    return _envelope(message_id, model, content, turn.why_stopped(), usage)


def usage_json(usage: Usage, output_tokens: int, *, thinking: bool) -> Json:
    """Anthropic's `usage` object."""
    told: Json = {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": usage.cache_creation_input_tokens,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_creation_5m_tokens,
            "ephemeral_1h_input_tokens": usage.cache_creation_1h_tokens,
        },
        "output_tokens": output_tokens,
        "service_tier": "standard",
    }
    if thinking and usage.thinking_tokens is not None:
        told["output_tokens_details"] = {"thinking_tokens": usage.thinking_tokens}
    return told


def billed(usage: Usage, output_tokens: int, *, thinking: bool) -> TokenUsage:
    """The same figures as a ledger holds them."""
    return TokenUsage(
        input_tokens=usage.input_tokens,
        output_tokens=output_tokens,
        cache_read_tokens=usage.cache_read_input_tokens,
        cache_write_tokens=usage.cache_creation_input_tokens,
        cache_write_1h_tokens=usage.cache_creation_1h_tokens,
        reasoning_tokens=(usage.thinking_tokens or 0) if thinking else 0,
    )


def _message_delta(usage: Usage, output_tokens: int, delta: Json, *, thinking: bool) -> Frame:
    told = usage_json(usage, output_tokens, thinking=thinking)
    del told["cache_creation"], told["service_tier"]  # only message_start tells these
    return Frame(
        {"type": "message_delta", "delta": delta, "usage": told},
        billed(usage, output_tokens, thinking=thinking),
    )


def _envelope(message_id: str, model: str, content: list[Json], stop_reason: str | None, usage: Json) -> Json:
    return {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
        "usage": usage,
    }


def _empty(block: Block) -> Json:
    match block:
        case Text():
            return {"type": "text", "text": ""}
        case Thinking():
            return {"type": "thinking", "thinking": "", "signature": ""}
        case RedactedThinking():
            return {"type": "redacted_thinking", "data": block.data}
        case ToolUse():
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": {}}


def _whole(block: Block) -> Json:
    match block:
        case Text():
            return {"type": "text", "text": block.text}
        case Thinking():
            return {"type": "thinking", "thinking": block.text, "signature": block.signature}
        case RedactedThinking():
            return {"type": "redacted_thinking", "data": block.data}
        case ToolUse():
            return {"type": "tool_use", "id": block.id, "name": block.name, "input": block.value()}


def _deltas(block: Block) -> Iterator[Json]:
    match block:
        case Text():
            for piece in block.pieces():
                yield {"type": "text_delta", "text": piece}
        case Thinking():
            for piece in block.pieces():
                yield {"type": "thinking_delta", "thinking": piece}
            yield {"type": "signature_delta", "signature": block.signature}
        case RedactedThinking():
            return
        case ToolUse():
            for piece in block.pieces():
                yield {"type": "input_json_delta", "partial_json": piece}
