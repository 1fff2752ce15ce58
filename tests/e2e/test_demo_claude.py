"""The demo with a key: the same examples on Claude, here against the fake Messages API, which plays the model."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from dragoman.testing.anthropic import FakeAnthropic, Recorded, Text, ToolUse, Turn

ROOT = Path(__file__).parents[2]


def claude(request: Recorded) -> Turn:
    """What a model of some sense answers to the demo's questions."""
    last = request.messages[-1]["content"]
    said = last if isinstance(last, str) else str([block for block in last if block["type"] != "image"])
    if "tool_result" in said:
        return Turn([Text("These are the results of the tools that I called.")])
    if "delegate_task_to_member" in {tool["name"] for tool in request.json.get("tools", ())}:
        tasks = {"researcher": "What is the weather in Rome?", "calculator": "Calculate 12 * 12."}
        return Turn([
            ToolUse(f"toolu_{member}", "delegate_task_to_member", {"member_id": member, "task": task})
            for member, task in tasks.items()
        ])  # fmt: skip
    if said.endswith("weather in Rome?"):
        return Turn([ToolUse("toolu_4", "weather", {"city": "Rome"})])
    if said.endswith("Calculate 12 * 12."):
        return Turn([ToolUse("toolu_5", "calculate", {"expression": "12 * 12"})])
    if "Refund" in said:
        return Turn([ToolUse("toolu_6", "refund", {"order": "A-17", "rands": 120})])
    if "Calculate" in said:
        return Turn([ToolUse("toolu_1", "calculate", {"expression": "(2 + 3) * 4"})])
    if "weather" in said:
        calls = [ToolUse(f"toolu_{city}", "weather", {"city": city}) for city in ("Paris", "Rome")]
        return Turn([Text("Let me see."), *calls, ToolUse("toolu_3", "read_sensor", {"name": "boiler"})])
    if request.images():
        return Turn([Text("The word is Ozymandias.")])
    first = str(request.messages[0]["content"])
    assert "Neptune" in first or "streamed" in first
    words = f"You began with: {first}." + " And so on." * 20
    # Slower than the server joins deltas, as a real model is.
    return Turn([Text(words)], delay=0.01)


@pytest.mark.timeout(180)
async def test_every_check_holds() -> None:
    async with FakeAnthropic() as fake:
        fake.respond = claude
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "dragoman.cli", "demo"),
            cwd=ROOT,
            env={
                **os.environ,
                "ANTHROPIC_API_KEY": "test-key",
                "ANTHROPIC_BASE_URL": fake.url,
                "COLUMNS": "200",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out, _ = await process.communicate()
        assert process.returncode == 0, out.decode()
        assert "Claude" in out.decode()
        assert {request.model for request in fake.requests} == {"claude-haiku-4-5"}
        assert "test-key" not in out.decode()
