"""What the fake Messages API is told to answer: typed turns, with usage, pace and failures.

A turn is either an answer (`Turn`) or a refusal (`HttpError`). An answer may be cut, stalled or broken by an error event at a
given place. Places are counted in deltas: every `content_block_delta` event counts, that of a signature and the
empty first one of a tool's input included, as on the real wire. `0` is the place after `message_start` and before
any delta; a number larger than there are deltas means after all of them, with the final usage not yet told;
`"usage"` means after the final usage and before `message_stop`.
"""

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

Place = int | Literal["usage"]


@dataclass(frozen=True, slots=True)
class Text:
    """A text block, sent word by word (each with the white space before it) or in pieces of `size` characters."""

    text: str
    size: int | None = None
    """Characters per delta; None: word by word."""

    def pieces(self) -> list[str]:
        """The deltas; joined they are the text."""
        return _pieces(self.text, self.size)


@dataclass(frozen=True, slots=True)
class Thinking:
    """A thinking block; the signature comes as its last delta."""

    text: str
    signature: str = "c2lnbmF0dXJl"
    size: int | None = None

    def pieces(self) -> list[str]:
        """The deltas; joined they are the text."""
        return _pieces(self.text, self.size)


@dataclass(frozen=True, slots=True)
class RedactedThinking:
    """An encrypted thinking block: no deltas."""

    data: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call. `input` is an object, or raw (perhaps truncated) JSON text that is sent as it stands."""

    id: str
    name: str
    input: Mapping[str, object] | str = field(default_factory=dict)
    size: int = 8
    """Characters of JSON per delta."""

    def pieces(self) -> list[str]:
        """The deltas: an empty one, then the JSON in pieces."""
        raw = self.input if isinstance(self.input, str) else json.dumps(self.input, ensure_ascii=False)
        return ["", *(raw[at : at + self.size] for at in range(0, len(raw), self.size))]

    def value(self) -> dict[str, object]:
        """The input of an unstreamed answer: the parsed JSON, or `{}` when it is cut off."""
        if not isinstance(self.input, str):
            return dict(self.input)
        try:
            parsed = json.loads(self.input)
        except json.JSONDecodeError:
            return {}
        return parsed if isinstance(parsed, dict) else {}


Block = Text | Thinking | RedactedThinking | ToolUse


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens that the turn is billed for. `input_tokens` excludes the cache tokens, as Anthropic counts."""

    input_tokens: int = 25
    output_tokens: int = 12
    cache_read_input_tokens: int = 0
    cache_creation_5m_tokens: int = 0
    cache_creation_1h_tokens: int = 0
    first_output_tokens: int = 1
    """Output tokens that `message_start` tells already."""
    thinking_tokens: int | None = None
    """Those of `output_tokens` that were thinking; None leaves the breakdown out."""

    @property
    def cache_creation_input_tokens(self) -> int:
        """All tokens written to the cache."""
        return self.cache_creation_5m_tokens + self.cache_creation_1h_tokens


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """An `error` event in the middle of the stream (HTTP status 200 has long been sent)."""

    after: Place
    type: str = "overloaded_error"
    message: str = "Overloaded"
    status: int = 529
    """The HTTP status when the request is not streamed, where there is no middle."""


@dataclass(frozen=True, slots=True)
class HttpError:
    """A refusal, in Anthropic's error shape. Nothing is billed."""

    status: int
    type: str = ""
    """Anthropic's error type; empty: the one that belongs to the status."""
    message: str = "the fake refused"
    headers: Mapping[str, str] = field(default_factory=dict)
    """Extra headers, for example `{"retry-after": "1"}`."""

    def kind(self) -> str:
        """The error type that is sent."""
        return self.type or ERROR_TYPES.get(self.status, "api_error")


ERROR_TYPES: Mapping[int, str] = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    500: "api_error",
    529: "overloaded_error",
}


@dataclass(slots=True)
class Turn:
    """One answer of the model. `Turn("Hello there")` is short for one text block."""

    blocks: Sequence[Block] | str = ()
    stop_reason: str | None = None
    """None: `tool_use` when a tool is called, else `end_turn`."""
    usage: Usage = field(default_factory=Usage)
    delay: float = 0.0
    """Seconds before every delta."""
    progress: Mapping[int, int] = field(default_factory=dict)
    """Cumulative output tokens that are told in the middle of the stream, by the number of deltas before."""
    drop_after: Place | None = None
    """The connection is cut there, without a proper end."""
    hang_after: Place | None = None
    """Nothing more is sent from there on, until the client leaves or `resume` is set."""
    error_after: ErrorEvent | None = None
    hang_before_first_byte: bool = False
    """Not even the response's head is sent, until the client leaves or `resume` is set."""
    drop_before_first_byte: bool = False
    """The connection is cut before anything is sent: the turn is used up, and nothing is billed."""
    resume: asyncio.Event | None = None
    """Ends a hang: the rest of the turn follows."""

    def content(self) -> list[Block]:
        """The blocks, a bare text as a text block."""
        if isinstance(self.blocks, str):
            return [Text(self.blocks)]
        return list(self.blocks)

    def why_stopped(self) -> str:
        """The stop reason that is told."""
        if self.stop_reason is not None:
            return self.stop_reason
        return "tool_use" if any(isinstance(block, ToolUse) for block in self.content()) else "end_turn"


def _pieces(text: str, size: int | None) -> list[str]:
    if size is not None:
        return [text[at : at + size] for at in range(0, len(text), size)]
    return re.findall(r"\s*\S+(?:\s+\Z)?|\s+\Z", text)
