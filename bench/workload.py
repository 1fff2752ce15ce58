"""What every peer is asked to do: a text of so many deltas, at such a pace, told in the prompt.

The prompt is all that the model needs to know, so the same agent serves every scenario, and whoever reads the answer can
say of each delta what it must be.
"""

import re
from dataclasses import dataclass

_WORDS = ("The ", "lone ", "and ", "level ", "sands ", "stretch ", "far ", "away ", "from ", "here, ")
"""Tokens of ordinary length: about five characters on average."""

_PROMPT = re.compile(r"Say (\d+) words at (\d+) a second\.")


@dataclass(frozen=True, slots=True)
class Workload:
    """One answer."""

    deltas: int
    """How many deltas of text the model yields."""
    rate: int = 0
    """Deltas a second; 0: as fast as it can."""

    @property
    def prompt(self) -> str:
        """The user's message that asks for it."""
        return f"Say {self.deltas} words at {self.rate} a second."

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(delta(index) for index in range(self.deltas))

    @classmethod
    def of(cls, prompt: str) -> "Workload":
        """Reads a prompt. Raises ValueError when it is none of ours."""
        found = _PROMPT.search(prompt)
        if found is None:
            raise ValueError("the prompt names no workload")
        return cls(deltas=int(found[1]), rate=int(found[2]))


def delta(index: int) -> str:
    """The delta with this number, from 0."""
    return _WORDS[index % len(_WORDS)]
