"""What the fake saw of one request, and what it told of the bill."""

import asyncio
import base64
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

from dragoman.records import TokenUsage


class Outcome(Enum):
    """How a request ended."""

    ANSWERED = "answered"
    """The whole answer was sent."""
    REFUSED = "refused"
    """With an HTTP error."""
    BROKEN = "broken"
    """By an `error` event or a cut connection, as scripted."""
    LEFT = "left"
    """The client closed the connection before the end."""
    STOPPED = "stopped"
    """The fake was closed before the end."""


@dataclass(kw_only=True)
class Recorded:
    """One request, from its arrival on; the answer's figures grow while it is sent.

    `start_time` and `end_time` are `time.monotonic()` seconds.
    """

    raw: bytes = field(repr=False)
    """The body, byte for byte."""
    headers: Mapping[str, str] = field(repr=False)
    """Names in lower case."""
    start_time: float
    billed: TokenUsage = field(default_factory=TokenUsage)
    """What has been told to the client: the input and cache tokens of `message_start` and the last cumulative
    output tokens; of an unstreamed answer its whole usage, once it was sent whole; else zeros."""
    deltas: int = 0
    """How many `content_block_delta` events were sent."""
    outcome: Outcome | None = None
    """None while the answer is under way."""
    end_time: float | None = None
    hanging: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set when a scripted hang begins."""
    ended: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    """Set with `outcome`."""

    def end(self, outcome: Outcome) -> None:
        """Note how and when it ended; only the first call counts."""
        if self.outcome is None:
            self.outcome = outcome
            self.end_time = time.monotonic()
            self.ended.set()

    @cached_property
    def json(self) -> dict[str, Any]:
        """The body, parsed."""
        parsed = json.loads(self.raw)
        if not isinstance(parsed, dict):
            raise TypeError("the request's body is not a JSON object")
        return parsed

    @property
    def disconnect_time(self) -> float | None:
        """When the client was seen to leave early; None when it did not."""
        return self.end_time if self.outcome is Outcome.LEFT else None

    @property
    def model(self) -> str:
        """The model asked for."""
        return str(self.json.get("model", ""))

    @property
    def stream(self) -> bool:
        """True when the answer is to be streamed."""
        return bool(self.json.get("stream", False))

    @property
    def system(self) -> str:
        """The system prompt, its blocks joined by blank lines."""
        system = self.json.get("system", "")
        if isinstance(system, str):
            return system
        return "\n\n".join(block["text"] for block in system)

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The conversation as it was sent."""
        messages: list[dict[str, Any]] = self.json["messages"]
        return messages

    @property
    def tools(self) -> list[dict[str, Any]]:
        """The tools that were offered."""
        tools: list[dict[str, Any]] = self.json.get("tools", [])
        return tools

    def images(self) -> list[bytes]:
        """The pictures in the conversation in order, those inside of tool results included (inline ones only)."""
        found = (block for message in self.messages for block in _nested(message.get("content")))
        sources = (block["source"] for block in found if block.get("type") == "image")
        return [base64.b64decode(source["data"]) for source in sources if source.get("type") == "base64"]


def _nested(content: Any) -> Iterator[dict[str, Any]]:
    if not isinstance(content, list):
        return
    for block in content:
        yield block
        yield from _nested(block.get("content"))
