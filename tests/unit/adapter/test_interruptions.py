"""Runs that are interrupted: what is closed, what is kept, what it cost, what stays behind (nothing)."""

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from agno.agent import Agent
from agno.run import cancel
from agno.run.background import await_background_runs
from agno.team import Team
from pydantic import BaseModel
from support.bench import Bench, Ran, bench, claude, spent

from dragoman.adapter import AgnoMessageView
from dragoman.records import CallStatus, TokenUsage
from dragoman.testing.anthropic import FakeAnthropic, Outcome, Recorded, Text, ToolUse, Turn, Usage
from dragoman.testing.scripted import ScriptedModel
from dragoman.v1 import message_pb2

USAGE = Usage(input_tokens=100, output_tokens=90, cache_read_input_tokens=7)


@pytest.fixture(autouse=True)
async def nothing_stays_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    await await_background_runs(timeout=30)
    gc.collect()
    async with asyncio.timeout(30):
        while asyncio.all_tasks() - before - {asyncio.current_task()}:
            await asyncio.sleep(0)
    assert await cancel.aget_active_runs() == {}
    assert not cancel._member_drain_tasks


async def consume(ran: Ran, until: asyncio.Event, kind: str, count: int) -> None:
    """Iterates, and says when so many events of the kind have come."""
    async with aclosing(ran.run.events()) as events:
        async for event in events:
            ran.events.append(event)
            if len(ran.of(kind)) >= count:
                until.set()


async def started(b: Bench, message: str, kind: str, count: int = 1) -> tuple[Ran, "asyncio.Task[None]"]:
    """A run under way that has come to the given event."""
    ran, until = Ran(b.begin(message)), asyncio.Event()
    task = asyncio.create_task(consume(ran, until, kind, count))
    await until.wait()
    return ran, task


async def cancelled(ran: Ran, task: "asyncio.Task[None]") -> None:
    """As the engine does it."""
    await ran.run.stop()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_cancelled_in_the_middle_of_the_answer(fake: FakeAnthropic) -> None:
    fake.script(Turn("One two three four", hang_after=2, progress={1: 40}, usage=USAGE), Turn("Fine."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        ran, task = await started(b, "Count", "content_delta", 2)
        early = ran.outcome
        assert (early.status, early.content) == ("running", "One two")
        assert spent(early.calls) == fake.billed
        await cancelled(ran, task)
        async with asyncio.timeout(60):
            await fake.requests[0].ended.wait()
        assert fake.requests[0].outcome is Outcome.LEFT
        outcome = ran.outcome
        assert (outcome.status, outcome.content, outcome.error) == ("running", "One two", None)
        (call,) = outcome.calls
        assert call.status is CallStatus.INTERRUPTED
        assert call.usage == fake.billed == TokenUsage(100, 40, 7)
        assert call.cost is not None
        b.keep(outcome)
        assert AgnoMessageView().show(b.messages[1], {}).content == "One two"
        assert [m.id for m in ran.outcome.messages] == [m.id for m in outcome.messages]
        assert (await b.turn("Go on")).outcome.content == "Fine."


async def test_cancelled_before_anything(fake: FakeAnthropic) -> None:
    fake.script(Turn("Late", hang_before_first_byte=True))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        ran, task = await started(b, "Hi", "model_request_started")
        await fake.request(1)
        await cancelled(ran, task)
        assert [message.role for message in ran.outcome.messages] == ["user"]
        assert spent(ran.outcome.calls) == TokenUsage()


async def test_stopped_before_it_began(fake: FakeAnthropic) -> None:
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        ran = Ran(b.begin("Hi"))
        await ran.run.stop()
        await consume(ran, asyncio.Event(), "content_delta", 1)
        assert ran.events == []
        assert ran.outcome.status == "running"


async def test_stopped_after_its_end(fake: FakeAnthropic) -> None:
    fake.script(Turn("Hello"))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        ran = await b.turn("Hi")
        await ran.run.stop()
        assert ran.outcome.status == "completed"


async def test_stopped_without_being_cancelled(fake: FakeAnthropic) -> None:
    """Agno then says "cancelled" and "completed", one after the other: it is not a success."""
    resume = asyncio.Event()
    fake.script(Turn("One two three four", hang_after=2, resume=resume, usage=USAGE), Turn("Fine."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        ran, task = await started(b, "Count", "content_delta", 2)
        await ran.run.stop()
        resume.set()
        await task
        assert ran.outcome.status == "running"
        assert ran.outcome.calls[0].status is CallStatus.INTERRUPTED
        assert ran.outcome.calls[0].usage.input_tokens == 100
        b.keep(ran.outcome)
        assert (await b.turn("Go on")).outcome.content == "Fine."


async def test_closed_by_the_one_who_iterates(fake: FakeAnthropic) -> None:
    fake.script(Turn("One two three four", hang_after=3, usage=USAGE))
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        ran = Ran(b.begin("Count"))
        async with aclosing(ran.run.events()) as events:
            async for event in events:
                if event.HasField("content_delta"):
                    break
        assert ran.outcome.calls[0].status is CallStatus.INTERRUPTED
        async with asyncio.timeout(60):
            await fake.requests[0].ended.wait()
        assert fake.requests[0].outcome is Outcome.LEFT


async def test_cancelled_in_a_tool(fake: FakeAnthropic) -> None:
    """Answered and unanswered calls: the next turn is accepted, and what the first said is not overwritten."""
    running = asyncio.Event()

    async def slow(name: str) -> str:
        """Waits."""
        running.set()
        await asyncio.Event().wait()
        return name

    fake.script(
        Turn([Text("Hm."), ToolUse("t0", "nowhere", {})], usage=USAGE),
        Turn([ToolUse("t1", "slow", {"name": "a"}), ToolUse("t2", "nowhere", {})], usage=USAGE),
        Turn("Fine."),
    )
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[slow])) as b:
        ran, task = await started(b, "Do it", "tool_call_started")
        await running.wait()
        await cancelled(ran, task)
        assert spent(ran.outcome.calls) == fake.billed
        b.keep(ran.outcome)
        shown = [AgnoMessageView().show(message, {}) for message in b.messages]
        assert next(m.content for m in shown if m.role == message_pb2.MESSAGE_ROLE_ASSISTANT) == "Hm."
        assert [[call.id for call in m.tool_calls] for m in shown if m.tool_calls] == [["t0"], ["t2"]]
        assert [m.tool_call_id for m in shown if m.tool_call_id] == ["t0", "t2"]
        assert (await b.turn("Go on")).outcome.content == "Fine."


async def test_a_team_and_its_members_are_stopped(fake: FakeAnthropic) -> None:
    delegate = ToolUse("d1", "delegate_task_to_member", {"member_id": "writer", "task": "Write"})
    fake.script(
        Turn([delegate], usage=USAGE), Turn("Once upon a time", hang_after=2, progress={1: 33}, usage=USAGE)
    )
    model = claude(fake)

    def build() -> Team:
        return Team(name="Team", model=model, members=[Agent(name="Writer", id="writer", model=model)])

    async with bench(build) as b:
        ran, task = await started(b, "Write", "content_delta", 2)
        await cancelled(ran, task)
        async with asyncio.timeout(60):
            await fake.requests[1].ended.wait()
        assert fake.requests[1].outcome is Outcome.LEFT
        outcome = ran.outcome
        assert spent(outcome.calls) == fake.billed
        leader, member = outcome.calls
        assert (leader.agent_name, member.agent_name) == ("agent", "Writer")
        assert member.parent_run_id == leader.run_id
        assert member.status is CallStatus.INTERRUPTED
        of_member = [m for m in outcome.messages if m.parent_run_id]
        assert [m.role for m in of_member] == ["user", "assistant"]
        assert AgnoMessageView().show(of_member[1], {}).content == "Once upon"


async def test_fifty_runs_at_once_share_one_client(fake: FakeAnthropic) -> None:
    def answer(request: object) -> Turn:
        return Turn("a b c d e f", usage=USAGE, delay=0.002)

    fake.respond = answer
    model = claude(fake)
    async with bench(lambda: Agent(model=model)) as b:
        runs = [Ran(b.begin(f"Hi {number}")) for number in range(50)]
        await asyncio.gather(*(consume(ran, asyncio.Event(), "content_delta", 1) for ran in runs))
        assert {ran.outcome.content for ran in runs} == {"a b c d e f"}
        assert len(b.runner._clients) == 1
        assert all(len(ran.outcome.calls) == 1 for ran in runs)
        total = sum((spent(ran.outcome.calls) for ran in runs), TokenUsage())
        assert total == fake.billed
        assert {call.run_id for ran in runs for call in ran.outcome.calls} == {
            message.run_id for ran in runs for message in ran.outcome.messages
        }


async def test_two_runs_stepped_by_one_task_do_not_mix() -> None:
    model = ScriptedModel(turns=[["a", TokenUsage(1, 1)], ["b", TokenUsage(10, 10)]])
    async with bench(lambda: Agent(model=model)) as b:
        runs = [Ran(b.begin("one")), Ran(b.begin("two"))]
        streams = [ran.run.events() for ran in runs]
        open_streams = dict(enumerate(streams))
        while open_streams:
            for number, stream in list(open_streams.items()):
                event = await anext(stream, None)
                if event is None:
                    del open_streams[number]
        assert sorted(spent(ran.outcome.calls).input_tokens for ran in runs) == [1, 10]
        assert [len(ran.outcome.calls) for ran in runs] == [1, 1]


async def test_memory_returns() -> None:
    """A thousand runs, some of which call tools and some of which are broken off, leave no objects behind."""

    def tool() -> str:
        """Answers."""
        return "yes"

    def script(_: object) -> list[object]:
        return ["Hello", TokenUsage(1, 1)]

    model = ScriptedModel(turns=[], respond=script)  # type: ignore[arg-type]  # a list of steps

    async def some(b: Bench, count: int) -> int:
        for number in range(count):
            ran = Ran(b.begin("Hi"))
            async with aclosing(ran.run.events()) as events:
                async for event in events:
                    if number % 3 == 0 and event.HasField("content_delta"):
                        break
            model.requests.clear()
        await await_background_runs(timeout=30)
        gc.collect()
        return len(gc.get_objects())

    async with bench(lambda: Agent(model=model, tools=[tool])) as b:
        await some(b, 50)
        before = await some(b, 50)
        assert await some(b, 500) - before < 500


async def test_cancelled_while_a_structured_answer_is_awaited(fake: FakeAnthropic) -> None:
    class Word(BaseModel):
        word: str

    fake.script(Turn('{"word": "x"}', hang_before_first_byte=True), Turn('{"word": "y"}'))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, output_schema=Word)) as b:
        ran, task = await started(b, "Hi", "model_request_started")
        request = await fake.request(1)
        await cancelled(ran, task)
        async with asyncio.timeout(60):
            await request.ended.wait()
        assert request.outcome is Outcome.LEFT
        assert [call.status for call in ran.outcome.calls] == [CallStatus.INTERRUPTED]
        b.keep(ran.outcome)
        assert (await b.turn("Again")).outcome.structured == {"word": "y"}


async def test_members_at_work_in_parallel_are_all_stopped(fake: FakeAnthropic) -> None:
    def answer(request: Recorded) -> Turn:
        if request.tools:
            return Turn([ToolUse("d1", "delegate_task_to_members", {"task": "go"})], usage=USAGE)
        return Turn("One two three", hang_after=2, progress={1: 5}, usage=USAGE)

    fake.respond = answer
    model = claude(fake)

    def build() -> Team:
        members: list[Agent | Team] = [Agent(name=name, id=name, model=model) for name in "abc"]
        return Team(name="Team", mode="broadcast", model=model, members=members)  # type: ignore[arg-type]  # Agno takes its names

    async with bench(build) as b:
        ran, task = await started(b, "Go", "content_delta", 6)
        await cancelled(ran, task)
        async with asyncio.timeout(60):
            for request in fake.requests[1:]:
                await request.ended.wait()
        assert [request.outcome for request in fake.requests[1:]] == [Outcome.LEFT] * 3
        outcome = ran.outcome
        assert spent(outcome.calls) == fake.billed
        assert sorted(call.agent_name for call in outcome.calls) == ["a", "agent", "b", "c"]
        b.keep(outcome)
        fake.respond = lambda _: Turn("Fine.")
        assert (await b.turn("Go on")).outcome.content == "Fine."
