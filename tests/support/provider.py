"""A model provider that answers many runs at once, each as its message asks, and keeps the books about it.

    part = Part("r17", "tools", words=40, delay=0.05)     # what one run is to be
    client.run(part.agent, part.message)                  # ... `part.text` is what it must come to

The message names the part, so every request can be told whose it is, and which step of it: that a run was executed once is
that each step was asked for once. The answer's figures are noted with the time at which they were seen, so that it can be said
what a process that was killed may owe the ledger.
"""

import asyncio
import random
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Literal

from dragoman.records import TokenUsage
from dragoman.testing.anthropic import Block, FakeAnthropic, Recorded, Text, Thinking, ToolUse, Turn, Usage

Kind = Literal["plain", "tools", "thinking"]
KINDS: tuple[Kind, ...] = ("plain", "tools", "thinking")

SAMPLE = 0.02
"""Seconds between two looks at the figures."""

_VOCABULARY = (
    "camel",
    "khan",
    "bazaar",
    "letter",
    "vizier",
    "salt",
    "\u00fc\u00e7",
    "harbour",
    "ledger",
    "oath",
)


@dataclass(frozen=True, slots=True)
class Part:
    """What one run is to do. `delay`: seconds before each word."""

    name: str
    kind: Kind
    words: int
    delay: float

    @property
    def agent(self) -> str:
        """Whom to ask."""
        return "tools" if self.kind == "tools" else "plain"

    @property
    def message(self) -> str:
        """What to say."""
        return f"#{self.name} {self.kind} {self.words} {self.delay}"

    @property
    def steps(self) -> int:
        """Requests that the whole run makes."""
        return 2 if self.kind == "tools" else 1

    @property
    def text(self) -> str:
        """All that the whole run says."""
        return f"I look {self.name} up. {self._words()}" if self.kind == "tools" else self._words()

    def turn(self, step: int) -> Turn:
        """The answer to the request of that step, from 0."""
        dice = random.Random(f"{self.name} {step}")
        blocks: list[Block]
        if self.kind == "tools" and step == 0:
            blocks = [Text(f"I look {self.name} up. "), ToolUse("toolu_1", "look_up", {"word": self.name})]
        elif self.kind == "thinking":
            blocks = [Thinking(f"What is {self.name}? Let me think."), Text(self._words())]
        else:
            blocks = [Text(self._words())]
        output = dice.randrange(200, 400)
        return Turn(
            blocks,
            usage=Usage(
                input_tokens=dice.randrange(10, 1000),
                output_tokens=output,
                cache_read_input_tokens=dice.randrange(0, 5000),
                cache_creation_5m_tokens=dice.randrange(0, 500),
            ),
            delay=self.delay,
            progress={deltas: deltas * output // (self.words + 50) for deltas in range(5, self.words, 5)},
        )

    def _words(self) -> str:
        dice = random.Random(self.name)
        return " ".join(f"{dice.choice(_VOCABULARY)}-{number}" for number in range(self.words))


@dataclass(slots=True)
class Asked:
    """One request, and what was told of its bill, in order: when it was seen (`time.monotonic`), and the whole until then."""

    record: Recorded
    part: str
    step: int
    process: int
    figures: list[tuple[float, TokenUsage]] = field(default_factory=list)


class Provider:
    """The fake Messages API, playing parts."""

    def __init__(self, fake: FakeAnthropic) -> None:
        self.url = fake.url
        self.asked: list[Asked] = []
        fake.respond = self._respond

    def of(self, part: Part) -> list[Asked]:
        """The requests of a run."""
        return [asked for asked in self.asked if asked.part == part.name]

    def _respond(self, record: Recorded) -> Turn:
        part, step = _read(record)
        self.asked.append(Asked(record, part.name, step, int(record.headers["x-process"])))
        return part.turn(step)

    async def keep_books(self) -> None:
        """Notes new figures, until it is cancelled."""
        while True:
            for asked in self.asked:
                billed = asked.record.billed
                if billed != (asked.figures[-1][1] if asked.figures else TokenUsage()):
                    asked.figures.append((time.monotonic(), billed))
            await asyncio.sleep(SAMPLE)


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """A provider that is served while the block lasts."""
    async with FakeAnthropic() as fake:
        made = Provider(fake)
        books = asyncio.create_task(made.keep_books())
        try:
            yield made
        finally:
            books.cancel()
            await asyncio.wait({books})


def _read(record: Recorded) -> tuple[Part, int]:
    """Whose request it is, by its newest user message that names a part, and how often tools have answered since."""
    step = 0
    for message in reversed(record.messages):
        content = message["content"]
        if message["role"] != "user":
            continue
        if not isinstance(content, str) and any(block["type"] == "tool_result" for block in content):
            step += 1
            continue
        found = re.search(r"#(\S+) (plain|tools|thinking) (\d+) ([\d.e-]+)", _text(content))
        assert found is not None, content
        kind: Any = found[2]
        return Part(found[1], kind, int(found[3]), float(found[4])), step
    raise AssertionError("a request names no part")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)
