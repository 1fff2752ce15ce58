"""200 runs at once on one server: each whole and in order; afterwards nothing is left behind."""

import asyncio
import gc
import re

from support.e2e import ClaudeAgent, Stubs, claude, kinds, stubs

from dragoman.testing.anthropic import FakeAnthropic, Recorded, Text, ToolUse, Turn, Usage
from dragoman.testing.serving import serving

RUNS = 200


def answer(request: Recorded) -> Turn:
    """Counts for the one who asked: first a tool, then a hundred words that name him."""
    last = request.messages[-1]
    if last["role"] == "user" and "tool_result" in str(last["content"]):
        name = re.findall(r"I am (\w+)", str(request.messages[0]))[0]
        words = " ".join(f"{name}-{number}" for number in range(100))
        return Turn([Text(words)], usage=Usage(input_tokens=50, output_tokens=100))
    return Turn(
        [ToolUse("toolu_1", "weather", {"city": "Oslo"})], usage=Usage(input_tokens=10, output_tokens=5)
    )


async def one(client: Stubs, name: str) -> None:
    events = await client.run("assistant", f"I am {name}.")
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert kinds(events)[0] == "run_started"
    assert kinds(events)[-1] == "run_completed"
    assert kinds(events).count("tool_call_completed") == 1
    expected = " ".join(f"{name}-{number}" for number in range(100))
    assert "".join(event.content_delta.text for event in events) == expected
    assert events[-1].run_completed.content == expected
    assert events[-1].run_completed.usage.input_tokens == 60


def objects() -> int:
    gc.collect()
    return len(gc.get_objects())


async def test_each_is_whole_and_memory_returns() -> None:
    async with FakeAnthropic() as fake:
        fake.respond = answer
        async with serving(ClaudeAgent(claude(fake))) as server, stubs(server.address) as client:
            # The first time fills pools and caches; the second time must add next to nothing.
            await asyncio.gather(*(one(client, f"warm{number}") for number in range(RUNS)))
            fake.requests.clear()
            tasks, before = len(asyncio.all_tasks()), objects()
            await asyncio.gather(*(one(client, f"runner{number}") for number in range(RUNS)))
            assert len(fake.requests) == 2 * RUNS
            fake.requests.clear()
            while server.server.engine.active_runs:
                await asyncio.sleep(0.01)
            async with asyncio.timeout(10):
                while len(asyncio.all_tasks()) > tasks:
                    await asyncio.sleep(0.01)
            # What belongs to a run is hundreds of objects; what stays of it must be less than a few.
            assert objects() - before < RUNS * 5
