"""A run that has been stopped asks no model again, whatever its agent, its tools and the providers' clients would do."""

import asyncio

import pytest
from agno.agent import Agent
from agno.models.anthropic import Claude
from support.bench import HAIKU, Ran, bench, claude

from dragoman.adapter.calls import RunEnded
from dragoman.testing.anthropic import FakeAnthropic, HttpError, ToolUse, Turn


async def until(condition: asyncio.Event) -> None:
    async with asyncio.timeout(60):
        await condition.wait()


async def iterate(ran: Ran) -> None:
    async for event in ran.run.events():
        ran.events.append(event)


async def test_a_tool_that_outlives_the_stop_asks_no_model(fake: FakeAnthropic) -> None:
    """It catches its own cancellation, and asks an agent all the same."""
    model = claude(fake)
    at_work, told = asyncio.Event(), list[str]()

    async def stubborn() -> str:
        """Does not stop."""
        try:
            at_work.set()
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            answer = await Agent(name="expert", model=model, telemetry=False).arun("?")
            told.append(str(answer.status))
            raise
        return ""

    fake.script(Turn([ToolUse("t1", "stubborn", {})]), Turn("never"))
    async with bench(lambda: Agent(model=model, tools=[stubborn], telemetry=False)) as b:
        ran = Ran(b.begin("Hi"))
        task = asyncio.create_task(iterate(ran))
        await until(at_work)
        await ran.run.stop()
        task.cancel()
        await asyncio.wait({task})
        assert told == ["RunStatus.cancelled"]
        assert len(fake.requests) == len(ran.outcome.calls) == 1


async def test_no_further_attempt_is_made_of_a_call_that_is_over(fake: FakeAnthropic) -> None:
    """The client waits to try again while the run is stopped, and nobody cancels the client."""
    refused = HttpError(529, headers={"retry-after": "1"})
    fake.script(refused, Turn("never"))
    retrying = {"base_url": fake.url, "max_retries": 2}
    model = Claude(id=HAIKU, api_key="key", client_params=retrying)
    async with bench(lambda: Agent(model=model, telemetry=False)) as b:
        ran = Ran(b.begin("Hi"))
        task = asyncio.create_task(iterate(ran))
        async with asyncio.timeout(60):
            while not fake.requests or fake.requests[0].outcome is None:
                await asyncio.sleep(0.01)
        await ran.run.stop()
        await asyncio.wait({task}, timeout=60)
        assert task.done()
        assert len(fake.requests) == len(ran.outcome.calls) == 1


async def test_admission_is_closed_for_good(fake: FakeAnthropic) -> None:
    fake.script(Turn("Hello."))
    async with bench(lambda: Agent(model=claude(fake), telemetry=False)) as b:
        ran = await b.turn("Hi")
        ledger = ran.run._ledger
        with pytest.raises(RunEnded):
            await ledger.admit()
        with pytest.raises(RunEnded):
            ledger.admit_in_thread()
