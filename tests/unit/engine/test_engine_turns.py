"""A session's turn, between processes: runs that wait, in order, and runs that come in place of others."""

import asyncio

import pytest

from dragoman.errors import SessionBusy, TooManyRuns
from dragoman.records import RunStatus
from dragoman.v1 import event_pb2

from .engine_fakes import (
    Remember,
    Script,
    ScriptedRunner,
    assert_whole,
    going_on,
    kinds,
    pause,
    text,
    until,
    watch,
)
from .engine_processes import Cluster, Door

INTERRUPTED = event_pb2.CANCEL_REASON_INTERRUPTED


async def assert_idle(door: Door, session_id: object) -> None:
    """Nobody has the turn, nobody waits, and no two runs of the session have interleaved."""
    runs = [run for run in await door.runs() if run.session_id == session_id]
    assert all(run.status.final for run in runs)
    assert await door.free(runs[0].session_id)


async def test_runs_wait_in_order_wherever_they_were_started(cluster: Cluster) -> None:
    gate = asyncio.Event()
    runner = ScriptedRunner(Remember(), text("a"), gate.wait)
    here, there = await cluster.two(runner)
    first = await here.start()
    session = await here.door.session(first.session_id)
    waiting = [await process.queue(session) for process in (there, here, there, there, here)]
    followers = [asyncio.create_task(watch(live)) for live in waiting]
    elsewhere = [asyncio.create_task(here.watch(live.run_id)) for live in waiting]
    await until(lambda: len(runner.begun) == 1)
    for place, live in enumerate(waiting, 1):
        event = await anext(live.events(0))
        assert event.run_queued.position == place
        assert (await here.door.run(live.run_id)).status is RunStatus.QUEUED
    with pytest.raises(SessionBusy):
        await there.start(session)
    gate.set()
    for follower, other in zip(followers, elsewhere, strict=True):
        events = await follower
        assert_whole(events, first="run_queued")
        assert kinds(events)[1] == "run_started"
        assert await other == events
    assert [run.order.run_id for run in runner.begun] == [first.run_id, *(live.run_id for live in waiting)]
    await assert_idle(here.door, session.id)
    # Their messages are blocks, in the order of their turns.
    assert len(await here.door.messages(first.run_id)) == 1


async def test_only_so_many_wait(cluster: Cluster) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(gate.wait), max_queued_runs=2)
    first = await here.start()
    session = await here.door.session(first.session_id)
    waiting = [await here.queue(session), await there.queue(session)]
    with pytest.raises(TooManyRuns) as refused:
        await there.queue(session)
    assert refused.value.subject == f"session/{session.id}"
    assert (await there.cancel(waiting[0].run_id)).status is RunStatus.CANCELLED
    waiting[0] = await there.queue(session)
    gate.set()
    for live in waiting:
        assert kinds(await watch(live))[-1] == "run_completed"
    await assert_idle(here.door, session.id)


@pytest.mark.parametrize("from_there", [False, True])
async def test_one_that_waits_can_be_cancelled_and_never_begins(cluster: Cluster, from_there: bool) -> None:
    gate = asyncio.Event()
    runner = ScriptedRunner(gate.wait)
    here, there = await cluster.two(runner)
    first = await here.start()
    session = await here.door.session(first.session_id)
    second, third = await here.queue(session), await here.queue(session)
    follower = asyncio.create_task(watch(second))
    ended = await (there if from_there else here).cancel(second.run_id, note="no more")
    assert ended.status is RunStatus.CANCELLED
    assert kinds(await follower) == ["run_queued", "run_cancelled"]
    gate.set()
    assert kinds(await watch(third))[-1] == "run_completed"
    assert [run.order.run_id for run in runner.begun] == [first.run_id, third.run_id]
    await assert_idle(here.door, session.id)


@pytest.mark.parametrize("from_there", [False, True])
async def test_a_run_comes_in_place_of_one_that_runs_and_of_those_that_wait(
    cluster: Cluster, from_there: bool
) -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(text("half"), forever.wait, quick=Script(text("done")))
    here, there = await cluster.two(runner)
    first = await here.start()
    session = await here.door.session(first.session_id)
    waiting = [await process.queue(session) for process in (here, there)]
    followers = [asyncio.create_task(watch(live)) for live in (first, *waiting)]
    await until(lambda: bool(runner.begun) and runner.begun[0].outcome().content == "half")
    newest = await (there if from_there else here).interrupt(session, "quick")
    events = await watch(newest)
    assert kinds(events) == ["run_queued", "run_started", "content_delta", "run_completed"]
    for follower in followers:
        assert (await follower)[-1].run_cancelled.reason == INTERRUPTED
    assert (await here.door.log(first.run_id))[-1].run_cancelled.content == "half"
    assert [run.order.run_id for run in runner.begun] == [first.run_id, newest.run_id]
    await assert_idle(here.door, session.id)


@pytest.mark.parametrize("from_there", [False, True])
async def test_a_run_comes_in_place_of_one_that_is_paused(cluster: Cluster, from_there: bool) -> None:
    runner = ScriptedRunner(text("asks"), finish=pause("next"), quick=Script(text("done")))
    here, there = await cluster.two(runner)
    paused = await here.start()
    await watch(paused)
    session = await here.door.session(paused.session_id)
    newest = await (there if from_there else here).interrupt(session, "quick")
    assert kinds(await watch(newest))[-1] == "run_completed"
    whole = await there.watch(paused.run_id)
    assert kinds(whole)[-1] == "run_cancelled"
    assert (whole[-1].run_cancelled.reason, whole[-1].run_cancelled.content) == (INTERRUPTED, "asks")
    await assert_idle(here.door, session.id)


async def test_a_run_that_pauses_instead_of_ending_is_ended_by_the_one_that_comes_in_its_place(
    cluster: Cluster,
) -> None:
    gate = asyncio.Event()
    runner = ScriptedRunner(text("asks"), gate.wait, finish=pause("next"), quick=Script(text("done")))
    here, there = await cluster.two(runner)
    live = await here.start()
    session = await here.door.session(live.session_id)
    here.door.fail("notices")  # it does not hear of it
    newest = await there.interrupt(session, "quick")
    gate.set()
    assert kinds(await watch(newest))[-1] == "run_completed"
    whole = await there.watch(live.run_id)
    assert "run_paused" in kinds(whole)
    assert whole[-1].run_cancelled.reason == INTERRUPTED
    await assert_idle(here.door, session.id)


async def test_one_that_waits_gets_its_turn_when_a_paused_run_is_done(cluster: Cluster) -> None:
    runner = ScriptedRunner(text("asks"), finish=pause("next"), next=Script(text("!")), quick=Script())
    here, there = await cluster.two(runner)
    paused = await here.start()
    at = (await watch(paused))[-1].sequence
    session = await here.door.session(paused.session_id)
    assert session.active_run_id == paused.run_id  # it keeps its turn
    waiting = await there.queue(session, "quick")
    follower = asyncio.create_task(watch(waiting))
    with pytest.raises(SessionBusy):
        await there.start(session, "quick")
    assert kinds(await watch(await there.engine.resume(going_on(paused, at)), at))[-1] == "run_completed"
    assert kinds(await follower) == ["run_queued", "run_started", "run_completed"]
    await assert_idle(here.door, session.id)


async def test_a_turn_is_handed_over_also_when_the_holder_of_the_next_hears_nothing_for_a_while(
    cluster: Cluster,
) -> None:
    here, there = await cluster.two(ScriptedRunner(text("a")))
    gate = asyncio.Event()
    here.runner.named["slow"] = Script(gate.wait)
    first = await here.start(message="slow")
    session = await here.door.session(first.session_id)
    there.door.fail("notices")
    waiting = await there.queue(session)
    follower = asyncio.create_task(watch(waiting))
    gate.set()
    await watch(first)
    looks = there.door.calls["notices"]
    await until(lambda: there.door.calls["notices"] >= looks + 2)
    # It has its turn in the store before it knows, and nobody can slip in between.
    assert (await here.door.session(session.id)).active_run_id == waiting.run_id
    with pytest.raises(SessionBusy):
        await here.start(session)
    del there.door.traps["notices"]
    assert kinds(await follower)[-1] == "run_completed"
    await assert_idle(here.door, session.id)


async def test_one_whose_process_dies_while_it_waits_does_not_block_the_queue(cluster: Cluster) -> None:
    gate = asyncio.Event()
    runner = ScriptedRunner(text("a"), slow=Script(gate.wait))
    here, there = await cluster.process(runner, lease=0.5), await cluster.process(runner)
    first = await here.start(message="slow")
    session = await here.door.session(first.session_id)
    dying, waiting = await there.queue(session), await here.queue(session)
    await there.crash()
    gate.set()
    assert kinds(await watch(waiting))[-1] == "run_completed"
    assert (await here.watch(dying.run_id))[-1].run_cancelled.reason == event_pb2.CANCEL_REASON_ABANDONED
    await assert_idle(here.door, session.id)
