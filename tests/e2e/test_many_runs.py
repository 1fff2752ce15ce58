"""200 runs at once on one server: each whole and in order; afterwards nothing is left behind."""

import asyncio
import gc
import re
import resource
from pathlib import Path

import pytest
import uvloop
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


def resident() -> int:
    """Bytes of memory: what no count of objects sees, such as protos and the bytes of events."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


@pytest.mark.timeout(400)  # up to a thousand runs, with the provider and all callers in this process
def test_each_is_whole_and_memory_returns() -> None:
    """On the event loop of `dragoman serve`: asyncio's own keeps the contexts of cancelled timers until they are due."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_waves())


async def _waves() -> None:
    async with FakeAnthropic() as fake:
        fake.respond = answer
        async with serving(ClaudeAgent(claude(fake))) as server, stubs(server.address) as client:
            growth, before, tasks, memory = [], 0, 0, 0
            # The first waves fill pools and caches. Then next to nothing may stay of a run, which is hundreds of objects.
            for wave in range(5):
                await asyncio.gather(*(one(client, f"wave{wave}runner{number}") for number in range(RUNS)))
                assert len(fake.requests) == 2 * RUNS
                fake.requests.clear()
                async with asyncio.timeout(60):
                    while server.server.engine.active_runs or (tasks and len(asyncio.all_tasks()) > tasks):
                        await asyncio.sleep(0.01)
                after = objects()
                growth.append((after - before, resident() - memory))
                before, tasks, memory = after, len(asyncio.all_tasks()), resident()
                # A run has some 100 events and 2 answers: 20 KiB would be less than one copy of them.
                if growth[-1][0] < RUNS * 3 and growth[-1][1] < RUNS * 20 * 1024:
                    return
            raise AssertionError(f"memory does not return: {growth}")
