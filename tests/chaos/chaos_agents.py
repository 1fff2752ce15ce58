"""The agents that the servers of these tests serve, each in processes of its own.

Those around Claude ask the Messages API that CHAOS_MODEL_URL names, and say with each request which process asks.
"""

import asyncio
import os
import re

from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.tools import tool

from dragoman.records import TokenUsage
from dragoman.testing.scripted import Pause, Request, ScriptedModel, Step, ToolCall

MODEL_ID = "claude-haiku-4-5"


def claude() -> Claude:
    """A model whose requests name this process."""
    return Claude(
        id=MODEL_ID,
        api_key="test-key",
        client_params={
            "base_url": os.environ["CHAOS_MODEL_URL"],
            "default_headers": {"x-process": str(os.getpid())},
        },
    )


async def look_up(word: str) -> str:
    """Looks a word up, which takes a moment."""
    await asyncio.sleep(0.3)
    return f"{word} means {word}."


@tool(requires_confirmation=True)
def erase(word: str) -> str:
    """Erases a word, once a person has agreed."""
    return f"{word} is erased."


def count(request: Request) -> list[Step]:
    """As many pieces of text as the message asks for: `<pieces> <characters of each>`."""
    found = re.fullmatch(r"(\d+) (\d+)", str(request.messages[-1].content))
    assert found is not None
    pieces, size = int(found[1]), int(found[2])
    steps: list[Step] = []
    for number in range(pieces):
        # After each others have their turn, as when a network is asked.
        steps += [str(number).ljust(size, "."), Pause(0)]
    return [*steps, TokenUsage(input_tokens=10, output_tokens=pieces)]


def confirm(request: Request) -> list[Step]:
    """Asks for a tool that needs a yes, then says what it said."""
    last = request.messages[-1]
    if last.role == "tool":
        return [f"Done: {last.content}", TokenUsage(input_tokens=20, output_tokens=5)]
    return ["Shall I? ", ToolCall("erase", {"word": "all"}), TokenUsage(input_tokens=10, output_tokens=5)]


agents = [
    Agent(name="plain", model=claude(), telemetry=False),
    Agent(name="tools", model=claude(), tools=[look_up], telemetry=False),
    Agent(name="counter", model=ScriptedModel(respond=count), telemetry=False),
    Agent(name="careful", model=ScriptedModel(respond=confirm), tools=[erase], telemetry=False),
]
