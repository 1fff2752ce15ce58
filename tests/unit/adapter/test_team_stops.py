"""Teams that are broken off: in every mode the members' requests are closed, what was written is kept, nothing stays."""

import asyncio
import gc
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing

import pytest
from agno.run import cancel
from agno.run.background import await_background_runs
from agno.team import Team, TeamMode
from support.bench import Bench, Ran, bench, claude, shown, spent
from support.teams import Cast, delegation, task_ids

from dragoman.records import CallStatus
from dragoman.testing.anthropic import FakeAnthropic, Outcome, ToolUse, Turn

WORDS = "One two three four"


@pytest.fixture(autouse=True)
async def nothing_stays_behind() -> AsyncIterator[None]:
    before = asyncio.all_tasks()
    yield
    await await_background_runs(timeout=30)
    gc.collect()
    async with asyncio.timeout(30):
        while asyncio.all_tasks() - before - {asyncio.current_task()}:
            await asyncio.sleep(0.01)
    assert await cancel.aget_active_runs() == {}
    assert not cancel._member_drain_tasks
    manager = cancel.get_cancellation_manager()
    assert not getattr(manager, "_member_runs", {})


def hanging() -> Turn:
    return Turn(WORDS, hang_after=2, progress={1: 5})


def coordinate(cast: Cast) -> Callable[[], Team]:
    cast.plays("Lead", Turn([delegation("d1", "ann", "a"), delegation("d2", "bob", "b")]))
    cast.plays("Ann", hanging())
    cast.plays("Bob", hanging())
    return lambda: cast.team("Lead", [cast.agent("Ann"), cast.agent("Bob")], TeamMode.coordinate)


def route(cast: Cast) -> Callable[[], Team]:
    cast.plays("Lead", Turn([delegation("d1", "ann", "a")]))
    cast.plays("Ann", hanging())
    return lambda: cast.team("Lead", [cast.agent("Ann"), cast.agent("Bob")], TeamMode.route)


def broadcast(cast: Cast) -> Callable[[], Team]:
    cast.plays("Lead", Turn([ToolUse("d1", "delegate_task_to_members", {"task": "go"})]))
    cast.plays("Ann", hanging())
    cast.plays("Bob", hanging())
    return lambda: cast.team("Lead", [cast.agent("Ann"), cast.agent("Bob")], TeamMode.broadcast)


def tasks(cast: Cast) -> Callable[[], Team]:
    def create(call: str, member: str) -> ToolUse:
        return ToolUse(call, "create_task", {"title": member, "description": "go", "assignee": member})

    cast.plays(
        "Lead",
        Turn([create("c1", "ann"), create("c2", "bob")]),
        lambda request: Turn([ToolUse("e1", "execute_tasks_parallel", {"task_ids": task_ids(request)})]),
    )
    cast.plays("Ann", hanging())
    cast.plays("Bob", hanging())
    return lambda: cast.team("Lead", [cast.agent("Ann"), cast.agent("Bob")], TeamMode.tasks)


def nested(cast: Cast) -> Callable[[], Team]:
    cast.plays("Lead", Turn([delegation("d1", "desk", "a")]))
    cast.plays("Desk", Turn([ToolUse("d2", "delegate_task_to_members", {"task": "go"})]))
    cast.plays("Ann", hanging())
    cast.plays("Bob", hanging())

    def build() -> Team:
        desk = cast.team("Desk", [cast.agent("Ann"), cast.agent("Bob")], TeamMode.broadcast)
        return cast.team("Lead", [desk], TeamMode.coordinate)

    return build


PLAYS = {made.__name__: made for made in (coordinate, route, broadcast, tasks, nested)}


async def stopped_and_cancelled(ran: Ran, task: "asyncio.Task[None]") -> None:
    """As the engine does it for callers, deadlines and limits."""
    await ran.run.stop()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def cancelled(ran: Ran, task: "asyncio.Task[None]") -> None:
    """As when the server is ended."""
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize("end", [stopped_and_cancelled, cancelled])
@pytest.mark.parametrize("name", PLAYS)
async def test_members_at_work_are_stopped(
    name: str, end: Callable[[Ran, "asyncio.Task[None]"], object], fake: FakeAnthropic
) -> None:
    cast = Cast(fake, lambda: claude(fake))
    async with bench(PLAYS[name](cast)) as b:
        at_work = 1 if name == "route" else 2
        ran, task = await _at_work(b, at_work)
        assert spent(ran.outcome.calls) == fake.billed
        await end(ran, task)  # type: ignore[misc]  # both are coroutine functions
        requests = [*cast.requests("Ann"), *cast.requests("Bob")]
        assert len(requests) == at_work
        async with asyncio.timeout(30):
            for request in requests:
                await request.ended.wait()
        assert [request.outcome for request in requests] == [Outcome.LEFT] * at_work
        outcome = ran.outcome
        assert spent(outcome.calls) == fake.billed
        broken = [call for call in outcome.calls if call.status is CallStatus.INTERRUPTED]
        assert {call.agent_name for call in broken} == ({"Ann"} if at_work == 1 else {"Ann", "Bob"})
        b.keep(outcome)
        said = [m.content for m in shown(b) if m.agent_name in ("Ann", "Bob") and m.content.startswith("One")]
        assert said == ["One two"] * at_work
        made = len(fake.requests)
        assert (await b.turn("Go on")).outcome.status == "completed"
        assert fake.requests[made].messages[-1]["role"] == "user"


async def _at_work(b: Bench, members: int) -> tuple[Ran, "asyncio.Task[None]"]:
    """A run of which so many members have said two words."""
    ran, until = Ran(b.begin("Go")), asyncio.Event()

    async def consume() -> None:
        async with aclosing(ran.run.events()) as events:
            async for event in events:
                ran.events.append(event)
                if len(ran.of("content_delta")) >= 2 * members:
                    until.set()

    task = asyncio.create_task(consume())
    async with asyncio.timeout(30):
        await until.wait()
    return ran, task


async def test_stopped_without_being_cancelled(fake: FakeAnthropic) -> None:
    """Where the members still speak, they end at their next word, and the run with them."""
    cast = Cast(fake, lambda: claude(fake))
    cast.plays("Lead", Turn([ToolUse("d1", "delegate_task_to_members", {"task": "go"})]))
    for name in ("Ann", "Bob"):
        cast.plays(name, Turn(" ".join(["word"] * 2000), delay=0.01))

    def build() -> Team:
        return cast.team("Lead", [cast.agent("Ann"), cast.agent("Bob")], TeamMode.broadcast)

    async with bench(build) as b:
        ran, task = await _at_work(b, 2)
        await ran.run.stop()
        async with asyncio.timeout(60):
            await task
        assert ran.outcome.status == "running"
        async with asyncio.timeout(30):
            for request in fake.requests[1:]:
                await request.ended.wait()
        assert [request.outcome for request in fake.requests[1:]] == [Outcome.LEFT] * 2
        assert spent(ran.outcome.calls) == fake.billed
        assert not ran.of("member_run_completed")
        b.keep(ran.outcome)
        assert (await b.turn("Go on")).outcome.status == "completed"
