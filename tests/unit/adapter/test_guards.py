"""Agents' code that exits, interrupts or cancels: the call fails, or the run does; never the server."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from agno.agent import Agent
from agno.exceptions import RunCancelledException
from support.bench import bench, claude, spent

from dragoman.errors import AgentFailed
from dragoman.testing.anthropic import FakeAnthropic, Text, ToolUse, Turn
from dragoman.testing.scripted import ScriptedModel


class Fatal(BaseException):
    """Such as test frameworks and other event loops have."""


ESCAPES: list[BaseException] = [
    SystemExit(3),
    KeyboardInterrupt(),
    asyncio.CancelledError(),
    Fatal("no such thing"),
]

Tool = Callable[[BaseException], Callable[[], Any]]


def function(escape: BaseException) -> Callable[[], Any]:
    def tool() -> str:
        """Leaves."""
        raise escape

    return tool


def coroutine(escape: BaseException) -> Callable[[], Any]:
    async def tool() -> str:
        """Leaves."""
        await asyncio.sleep(0)
        raise escape

    return tool


def generator(escape: BaseException) -> Callable[[], Any]:
    def tool() -> Iterator[str]:
        """Leaves."""
        yield "some"
        raise escape

    return tool


def async_generator(escape: BaseException) -> Callable[[], Any]:
    async def tool() -> AsyncIterator[str]:
        """Leaves."""
        yield "some"
        raise escape

    return tool


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: type(escape).__name__)
@pytest.mark.parametrize("make", [function, coroutine, generator, async_generator])
async def test_in_a_tool_the_call_fails_and_the_run_goes_on(make: Tool, escape: BaseException) -> None:
    async with FakeAnthropic() as fake:
        fake.script(
            Turn([Text("Let me see."), ToolUse("t1", "tool", {}), ToolUse("t2", "fine", {})]),
            Turn("That did not work."),
            Turn("Gladly."),
        )
        model = claude(fake)

        def fine() -> str:
            """Works."""
            return "fine"

        async with bench(lambda: Agent(model=model, tools=[make(escape), fine])) as b:
            ran = await b.turn("Leave")
            assert ran.outcome.status == "completed"
            assert ran.outcome.content == "Let me see.That did not work."
            assert ran.kinds.count("tool_call_failed") == ran.kinds.count("tool_call_completed") == 1
            results = {
                block["tool_use_id"]: block["content"]
                for block in fake.requests[1].messages[-1]["content"]
                if block["type"] == "tool_result"
            }
            assert results == {"t1": f"{type(escape).__name__} was raised", "t2": "fine"}
            assert (await b.turn("Go on")).outcome.content == "Gladly."
            assert spent(ran.outcome.calls).input_tokens == 2 * 25


class _Unbuildable:
    def __init__(self, escape: BaseException) -> None:
        self.escape = escape

    def __call__(self) -> Agent:
        raise self.escape


def hooked(escape: BaseException, place: str) -> Callable[[], Agent]:
    model = ScriptedModel(respond=lambda _: ["Hello"])

    async def hook(**_: object) -> None:
        raise escape

    if place == "pre_hooks":
        return lambda: Agent(model=model, pre_hooks=[hook])
    return lambda: Agent(model=model, post_hooks=[hook])


@pytest.mark.parametrize("escape", ESCAPES, ids=lambda escape: type(escape).__name__)
@pytest.mark.parametrize("place", ["build", "pre_hooks", "post_hooks"])
async def test_elsewhere_the_run_fails_by_the_agents_own_code(place: str, escape: BaseException) -> None:
    build = _Unbuildable(escape) if place == "build" else hooked(escape, place)
    async with bench(build) as b:
        outcome = (await b.turn("Hi")).outcome
        assert outcome.status == "failed"
        assert isinstance(outcome.error, AgentFailed)
        assert outcome.content == ("Hello" if place == "post_hooks" else "")


async def test_a_run_that_its_own_tool_cancels_has_failed() -> None:
    async def tool() -> str:
        """Gives up."""
        raise RunCancelledException()

    async with FakeAnthropic() as fake:
        fake.script(Turn([Text("Let me see."), ToolUse("t1", "tool", {})]), Turn("Fine."))
        model = claude(fake)
        async with bench(lambda: Agent(model=model, tools=[tool])) as b:
            outcome = (await b.turn("Hi")).outcome
            assert (outcome.status, outcome.content) == ("failed", "Let me see.")
            assert isinstance(outcome.error, AgentFailed)
            assert (await b.turn("Go on")).outcome.content == "Fine."


async def test_a_generator_at_work_is_closed_with_its_run() -> None:
    begun, closed = asyncio.Event(), asyncio.Event()

    async def tool() -> AsyncIterator[str]:
        """Never ends."""
        try:
            yield "some"
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            closed.set()

    async with FakeAnthropic() as fake:
        fake.script(Turn([ToolUse("t1", "tool", {})]), Turn("Fine."))
        model = claude(fake)
        async with bench(lambda: Agent(model=model, tools=[tool])) as b:
            before = asyncio.all_tasks()
            run = b.begin("Go")
            events = run.events()

            async def consume() -> None:
                async for _ in events:
                    pass

            task = asyncio.create_task(consume())
            await begun.wait()
            await run.stop()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await events.aclose()
            assert closed.is_set()
            async with asyncio.timeout(30):
                while any("generator" in repr(t.get_coro()) for t in asyncio.all_tasks() - before):
                    await asyncio.sleep(0)
            b.keep(run.outcome())
            assert (await b.turn("Go on")).outcome.content == "Fine."
