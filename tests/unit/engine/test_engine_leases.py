"""Processes that die, and processes that were only silent: what they held is ended once, and billed once."""

import asyncio
import functools
from datetime import timedelta

import pytest

from dragoman.engine.engine import FollowedRun
from dragoman.engine.log import GAP
from dragoman.errors import RunNotResumable, SessionBusy
from dragoman.records import RunEnd, RunStatus
from dragoman.v1 import event_pb2

from .engine_fakes import (
    Remember,
    Script,
    ScriptedRunner,
    Spend,
    going_on,
    kinds,
    numbers,
    pause,
    text,
    tool,
    until,
    watch,
    written,
)
from .engine_processes import Cluster, Process, end_abandoned

ABANDONED = event_pb2.CANCEL_REASON_ABANDONED


async def test_a_run_of_a_dead_process_is_ended_by_a_peer_with_what_was_stored_of_it(
    cluster: Cluster,
) -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(
        Spend(5),
        text("He said: "),
        tool("1"),
        text("well", "m"),
        Spend(7, reports=(3,), hangs=True),
        forever.wait,
    )
    dying = await cluster.process(runner)
    live = await dying.start()
    await until(lambda: booked(dying, live, [3, 5]))
    peer = await cluster.process(ScriptedRunner(text("fresh")))
    follower = asyncio.create_task(peer.watch(live.run_id))
    session = await peer.door.session(live.session_id)
    with pytest.raises(SessionBusy):
        await peer.start(session)
    before = await peer.door.log(live.run_id)
    await dying.crash()
    await end_abandoned(peer.door, live.run_id)
    seen = await follower
    log = await peer.door.log(live.run_id)
    assert seen == log
    assert log[: len(before)] == before
    assert numbers(log[:-1]) == list(range(1, len(log)))
    assert log[-1].sequence == len(log) - 1 + GAP
    cancelled = log[-1].run_cancelled
    assert cancelled.reason == ABANDONED
    assert cancelled.content == "He said: "
    assert (cancelled.usage.output_tokens, cancelled.model_calls) == (8, 2)
    assert await peer.door.bill(live.run_id) == [3, 5]
    run = await peer.door.run(live.run_id)
    assert (run.status, run.totals.usage.output_tokens, run.holder) == (RunStatus.CANCELLED, 8, None)
    assert run.last_sequence == log[-1].sequence
    assert kinds(await watch(await peer.start(session)))[-1] == "run_completed"
    # From any place, in the gap too.
    for after in (0, len(log) - 1, len(log) + 1, log[-1].sequence - 1):
        rest = [event for event in log if event.sequence > after]
        assert await peer.watch(live.run_id, after) == rest
    assert await peer.watch(live.run_id, log[-1].sequence) == []


@pytest.mark.parametrize("waits", [False, True])
async def test_a_run_of_which_nothing_was_stored_begins_and_ends_all_the_same(
    cluster: Cluster, waits: bool
) -> None:
    forever = asyncio.Event()
    dying = await cluster.process(ScriptedRunner(text("a"), forever.wait))
    first = await dying.start() if waits else None
    dying.door.fail("append_events")
    if first is None:
        live = await dying.start()
    else:
        live = await dying.queue(await dying.door.session(first.session_id))
    async for event in live.events(0):
        seen = event
        break
    await dying.crash()
    assert (await dying.door.run(live.run_id)).last_sequence == 0
    peer = await cluster.process(ScriptedRunner())
    await end_abandoned(peer.door, live.run_id)
    opening, end = await peer.watch(live.run_id)
    assert (opening.sequence, end.sequence) == (1, 1 + GAP)
    assert end.run_cancelled.reason == ABANDONED
    if waits:
        seen.run_queued.ClearField("position")  # it has gone with the process
    assert opening == seen
    started = opening.run_queued if waits else opening.run_started
    assert (started.run_id, started.session_id) == (str(live.run_id), str(live.session_id))
    assert await peer.watch(live.run_id, 1) == [end]


async def booked(process: Process, live: FollowedRun, tokens: list[int]) -> bool:
    return await process.door.bill(live.run_id) == tokens


@pytest.mark.parametrize("reports", [True, False])
async def test_a_process_that_was_taken_for_dead_and_lives_books_its_calls_once_and_ends_nothing(
    cluster: Cluster, reports: bool
) -> None:
    gate = asyncio.Event()
    runner = ScriptedRunner(
        Remember(), Spend(5), text("one "), tool("1"), gate.wait, Spend(7, unasked=True), text("two")
    )
    silent, peer = await cluster.two(runner)
    live = await silent.start()
    follower = asyncio.create_task(watch(live))
    await until(lambda: booked(silent, live, [5]))
    await until(lambda: stored_text(silent, live, "one "))
    silent.door.fail("renew_leases")
    if not reports:
        silent.door.fail("notices")  # it goes on to its own end without hearing of it
    await end_abandoned(peer.door, live.run_id)
    log = await peer.door.log(live.run_id)
    if reports:
        with pytest.raises(RunNotResumable):
            await follower
        assert runner.begun[0].stopped
        bill = [5]
    else:
        gate.set()
        with pytest.raises(RunNotResumable):
            await follower
        bill = [5, 7]
    with pytest.raises(RunNotResumable):
        await live.wait()
    await until(lambda: not silent.engine.active_runs)
    assert await peer.door.bill(live.run_id) == bill
    run = await peer.door.run(live.run_id)
    assert (run.status, run.totals.usage.output_tokens) == (RunStatus.CANCELLED, sum(bill))
    assert await peer.door.messages(live.run_id) == []
    for process in (silent, peer):  # attach shows the end that counts
        assert await process.watch(live.run_id) == log
    assert (await silent.cancel(live.run_id)) == run
    assert await peer.door.free(live.session_id)


async def stored_text(process: Process, live: FollowedRun, words: str) -> bool:
    return written(await process.door.log(live.run_id)) == words


async def test_a_cancel_here_of_a_run_that_was_ended_elsewhere_returns_that_end(cluster: Cluster) -> None:
    forever = asyncio.Event()
    silent, peer = await cluster.two(ScriptedRunner(text("a"), forever.wait))
    live = await silent.start()
    silent.door.fail("renew_leases")
    silent.door.fail("notices")
    await end_abandoned(peer.door, live.run_id)
    ended = await silent.cancel(live.run_id, note="too late")
    assert event_pb2.RunEvent.FromString(ended.last_event).run_cancelled.reason == ABANDONED
    assert ended == await peer.door.run(live.run_id)


async def test_the_turn_of_a_run_that_was_taken_for_dead_belongs_to_its_successor(cluster: Cluster) -> None:
    gate, second = asyncio.Event(), asyncio.Event()
    runner = ScriptedRunner(gate.wait, quick=Script(second.wait, text("b")))
    silent, peer = await cluster.two(runner)
    live = await silent.start()
    session = await peer.door.session(live.session_id)
    waiting = await peer.queue(session, "quick")
    silent.door.fail("renew_leases")
    silent.door.fail("notices")
    await end_abandoned(peer.door, live.run_id)
    await until(lambda: len(runner.begun) == 2)
    gate.set()  # it ends by itself, and takes nothing of the one that has its place
    with pytest.raises(RunNotResumable):
        await live.wait()
    assert (await peer.door.session(session.id)).active_run_id == waiting.run_id
    second.set()
    assert kinds(await watch(waiting))[-1] == "run_completed"
    assert await peer.door.free(session.id)


async def test_one_that_waits_and_was_taken_for_dead_never_begins(cluster: Cluster) -> None:
    gate = asyncio.Event()
    runner = ScriptedRunner(gate.wait)
    holder, silent = await cluster.two(runner)
    first = await holder.start()
    waiting = await silent.queue(await holder.door.session(first.session_id))
    silent.door.fail("renew_leases")
    await end_abandoned(holder.door, waiting.run_id)
    with pytest.raises(RunNotResumable):
        await watch(waiting)
    gate.set()
    assert kinds(await watch(first))[-1] == "run_completed"
    assert len(runner.begun) == 1
    assert await holder.door.free(first.session_id)


async def test_a_process_that_dies_after_a_pause_leaves_the_whole_text_and_the_whole_bill(
    cluster: Cluster,
) -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(
        Remember(),
        Spend(5),
        text("one "),
        finish=pause("next"),
        next=Script(Remember(), Spend(7), text("two"), tool("1"), forever.wait),
    )
    first, dying = await cluster.two(runner)
    live = await first.start()
    at = (await watch(live))[-1].sequence
    resumed = await dying.engine.resume(going_on(live, at))
    await until(lambda: booked(first, live, [5, 7]))
    await until(lambda: stored_text(first, live, "one two"))
    assert resumed.after_sequence == at
    await dying.crash()
    await end_abandoned(first.door, live.run_id)
    last = (await first.watch(live.run_id))[-1]
    assert last.run_cancelled.content == "one two"
    assert (last.run_cancelled.usage.output_tokens, last.run_cancelled.model_calls) == (12, 2)
    assert list(last.run_cancelled.message_ids) == await first.door.messages(live.run_id)
    assert len(last.run_cancelled.message_ids) == 1
    assert await first.door.bill(live.run_id) == [5, 7]


async def test_a_paused_run_outlives_the_process_that_paused_it(cluster: Cluster) -> None:
    runner = ScriptedRunner(text("one "), finish=pause("next"), next=Script(text("two")))
    dying, peer = await cluster.two(runner)
    live = await dying.start()
    at = (await watch(live))[-1].sequence
    await dying.crash()
    await peer.engine._keeper.sweep()
    assert (await peer.door.run(live.run_id)).status is RunStatus.PAUSED
    resumed = await peer.engine.resume(going_on(live, at))
    assert (await watch(resumed, at))[-1].run_completed.content == "one two"


async def test_many_peers_end_an_abandoned_run_once(cluster: Cluster) -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(Spend(5), text("a"), tool("1"), forever.wait)
    dying = await cluster.process(runner)
    lives = [await dying.start() for _ in range(5)]
    for live in lives:
        await until(functools.partial(booked, dying, live, [5]))
    peers = [await cluster.process(runner) for _ in range(3)]
    await dying.crash()
    await asyncio.gather(*[end_abandoned(peer.door, live.run_id) for peer in peers for live in lives])
    for live in lives:
        log = await peers[0].door.log(live.run_id)
        assert kinds(log).count("run_cancelled") == 1
        assert await peers[0].door.bill(live.run_id) == [5]
        assert await peers[0].door.free(live.session_id)


async def test_a_process_that_lives_is_not_taken_for_dead(cluster: Cluster) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(text("a"), gate.wait))
    live = await here.start()
    session = await here.door.session(live.session_id)
    waiting = await here.queue(session)
    renewed = here.door.calls["renew_leases"]
    await here.engine._keeper.renew()
    assert here.door.calls["renew_leases"] > renewed
    await there.engine._keeper.sweep()
    assert [run.status for run in await here.door.runs()] == [RunStatus.RUNNING, RunStatus.QUEUED]
    gate.set()
    assert kinds(await watch(waiting))[-1] == "run_completed"


async def test_a_store_that_was_away_for_longer_than_a_lease_costs_no_run_here(cluster: Cluster) -> None:
    gate = asyncio.Event()
    here = await cluster.process(ScriptedRunner(text("a"), gate.wait), lease=0.3)
    live = await here.start()
    here.door.fail("renew_leases")
    await until(lambda: lapsed(here, timedelta(seconds=0.3)))
    await here.engine._keeper.sweep()
    assert (await here.door.run(live.run_id)).status is RunStatus.RUNNING
    del here.door.traps["renew_leases"]
    await here.engine._keeper.renew()
    gate.set()
    assert kinds(await watch(live))[-1] == "run_completed"


async def test_those_who_could_not_renew_while_the_store_was_away_are_given_time(cluster: Cluster) -> None:
    here = await cluster.process(ScriptedRunner(text("a")), lease=3600.0)
    keeper = here.engine._keeper
    await until(lambda: here.door.calls["abandoned_runs"] > 0)
    here.door.down = True
    await until(lambda: keeper._trouble > 0)
    here.door.down = False
    asked = here.door.calls["abandoned_runs"]
    await keeper.sweep()
    assert here.door.calls["abandoned_runs"] == asked
    keeper._trouble -= 3600.0  # a lease's time later
    await keeper.sweep()
    assert here.door.calls["abandoned_runs"] > asked


async def lapsed(process: Process, lease: timedelta) -> bool:
    return bool(await process.door.store.abandoned_runs(lease, 10))


async def test_one_that_cannot_be_ended_does_not_keep_others_from_it(cluster: Cluster) -> None:
    forever = asyncio.Event()
    dying = await cluster.process(ScriptedRunner(text("a"), forever.wait))
    bad, good = await dying.start(), await dying.start()
    await dying.crash()
    peer = await cluster.process(ScriptedRunner(), lease=0.5)

    def refuse(end: RunEnd) -> None:
        if end.run_id == bad.run_id:
            raise ValueError("a defect")

    peer.door.traps["end_run"] = refuse
    assert kinds(await peer.watch(good.run_id))[-1] == "run_cancelled"
    assert (await peer.door.run(bad.run_id)).status is RunStatus.RUNNING
    peer.door.traps.clear()
    assert kinds(await peer.watch(bad.run_id))[-1] == "run_cancelled"
