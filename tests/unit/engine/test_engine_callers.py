"""Callers who ask twice, leave, run out of time or come too fast, and servers that stop under them."""

import asyncio
from datetime import timedelta

import pytest

from dragoman.engine import LiveRun
from dragoman.errors import Draining, EventsTrimmed, RequestIdReused, SessionBusy, StorageUnavailable
from dragoman.records import RunStatus, utcnow
from dragoman.v1 import event_pb2

from .engine_fakes import (
    OWNER,
    Script,
    ScriptedRunner,
    Spend,
    assert_whole,
    draft,
    going_on,
    kinds,
    pause,
    request,
    text,
    tool,
    until,
    watch,
)
from .engine_processes import Cluster, Door, Process, engine_of

CALLER, DEADLINE = event_pb2.CANCEL_REASON_CALLER, event_pb2.CANCEL_REASON_DEADLINE
DRAINED = event_pb2.CANCEL_REASON_DRAINED


# Who asks twice


async def test_fifty_times_the_same_request_over_two_processes_is_one_run(cluster: Cluster) -> None:
    here, there = await cluster.two(ScriptedRunner(Spend(5), text("a"), tool("1")))
    wanted = draft(request=request("r-1"))
    runs = await asyncio.gather(*[process.engine.start(wanted) for process in (here, there) * 25])
    assert len({run.run_id for run in runs}) == 1
    assert len({run.session_id for run in runs}) == 1
    seen = [await watch(run) for run in runs]
    assert_whole(seen[0])
    assert all(events == seen[0] for events in seen)
    assert len(await here.door.runs()) == 1
    assert await here.door.bill(runs[0].run_id) == [5]
    assert here.engine.active_runs == there.engine.active_runs == 0


async def test_another_request_with_the_same_id_is_refused_everywhere(cluster: Cluster) -> None:
    here, there = await cluster.two(ScriptedRunner(text("a")))
    live = await here.start(request=request("r-1"))
    for process in (here, there):
        with pytest.raises(RequestIdReused):
            await process.start(request=request("r-1", b"b"))
        with pytest.raises(RequestIdReused):
            await process.engine.find(OWNER, request("r-1", b"b"))
    await watch(live)
    assert len(await here.door.runs()) == 1


async def test_the_same_request_finds_its_run_also_when_it_has_ended_or_the_session_is_busy(
    cluster: Cluster,
) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(text("a"), slow=Script(gate.wait)))
    session_of = await here.start()
    await watch(session_of)
    session = await here.door.session(session_of.session_id)
    live = await here.start(session, "slow", request=request("r-1"))
    with pytest.raises(SessionBusy):
        await there.start(session, "slow", request=request("r-2"))
    assert await there.engine.find(OWNER, request("r-2")) is None
    again = await there.start(session, "slow", request=request("r-1"))
    assert again.run_id == live.run_id
    assert (await here.start(session, "slow", request=request("r-1"))) is live
    gate.set()
    whole = await watch(again)
    assert whole == await watch(live)
    for process in (here, there):
        late = await process.start(session, "slow", request=request("r-1"))
        assert await watch(late) == whole
        found = await process.engine.find(OWNER, request("r-1"))
        assert found is not None
        assert await watch(found) == whole
    # Another owner's ids are another matter.
    assert await here.engine.find(type(OWNER)("somebody else"), request("r-1")) is None


async def test_a_request_whose_answer_was_lost_is_found_by_the_one_that_repeats_it(cluster: Cluster) -> None:
    here, there = await cluster.two(ScriptedRunner(text("a")))
    wanted = draft(request=request("r-1"))
    here.door.fail("start_run")
    with pytest.raises(StorageUnavailable):
        await here.engine.start(wanted)
    live = await there.engine.start(wanted)  # nothing had been done: it is done now
    here.door.traps.clear()
    assert (await here.engine.start(wanted)).run_id == live.run_id
    await watch(live)


# Who leaves


@pytest.mark.parametrize("timed_out", [False, True])
@pytest.mark.parametrize("tied", [False, True])
async def test_a_run_ends_with_the_last_of_its_followers_if_he_said_so(
    door: Door, tied: bool, timed_out: bool
) -> None:
    gate = asyncio.Event()
    async with engine_of(ScriptedRunner(text("a"), gate.wait), door) as engine:
        live = await engine.start(draft(cancel_on_disconnect=tied))
        for _ in range(3):
            live.join()
        live.leave(timed_out=timed_out)
        live.leave()
        other = await engine.attach(OWNER, live.run_id)
        other.join()
        live.leave()
        assert isinstance(live, LiveRun)
        assert not live._interrupted.is_set()
        other.leave(timed_out=timed_out)
        if not tied:
            gate.set()
        last = (await watch(live))[-1]
    if not tied:
        assert last.HasField("run_completed")
        return
    assert last.run_cancelled.reason == (DEADLINE if timed_out else CALLER)
    assert last.run_cancelled.cancelled_by == ("" if timed_out else "local")


async def test_who_leaves_when_the_run_has_ended_changes_nothing(door: Door) -> None:
    async with engine_of(ScriptedRunner(text("a")), door) as engine:
        live = await engine.start(draft(cancel_on_disconnect=True))
        live.join()
        whole = await watch(live)
        live.leave()
        assert kinds(whole)[-1] == "run_completed"
    assert await door.log(live.run_id) == whole


async def test_a_deadline_ends_a_run_that_runs_and_one_that_waits(cluster: Cluster) -> None:
    forever = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(text("a"), forever.wait))
    blocking = await here.start()
    session = await here.door.session(blocking.session_id)
    waiting = await there.queue(session, deadline=0.05)
    events = await watch(waiting)
    assert kinds(events) == ["run_queued", "run_cancelled"]
    assert events[-1].run_cancelled.reason == DEADLINE
    running = await there.start(deadline=0.05)
    assert (await here.watch(running.run_id))[-1].run_cancelled.reason == DEADLINE
    assert (await here.door.run(blocking.run_id)).status is RunStatus.RUNNING


async def test_a_deadline_of_a_call_that_continues_a_run_ends_it(cluster: Cluster) -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(text("a"), finish=pause("next"), next=Script(forever.wait))
    here, there = await cluster.two(runner)
    live = await here.start(deadline=1000.0)  # has nothing to say once it has paused
    at = (await watch(live))[-1].sequence
    resumed = await there.engine.resume(going_on(live, at, deadline=0.05, cancel_on_disconnect=True))
    assert (await watch(resumed, at))[-1].run_cancelled.reason == DEADLINE


# Servers that stop


async def test_a_server_that_stops_sends_followers_of_other_runs_away_at_once(cluster: Cluster) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(text("a"), tool("1"), gate.wait, text("b")))
    live = await here.start()
    followed = await there.attach(live.run_id)
    seen: list[event_pb2.RunEvent] = []

    async def follow() -> None:
        async for event in followed.events(0):
            seen.append(event)

    follower, waiter = asyncio.create_task(follow()), asyncio.create_task(followed.wait())
    canceller = asyncio.create_task(there_cancels(there, here, live.run_id))
    await until(lambda: len(seen) == 3)
    await there.engine.drain(60)
    with pytest.raises(Draining) as told:
        await follower
    assert told.value.metadata == {"run_id": str(live.run_id), "last_sequence": str(len(seen))}
    for task in (waiter, canceller):
        with pytest.raises(Draining):
            await task
    with pytest.raises(Draining):
        await there.start()
    # Who comes now gets what is stored, and is sent away then.
    with pytest.raises(Draining):
        await there.watch(live.run_id)
    gate.set()
    whole = await watch(live)
    assert [*seen, *await here.watch(live.run_id, len(seen))] == whole
    assert await there.watch(live.run_id) == whole  # it has ended: all of it is here


async def there_cancels(there: Process, here: Process, run_id: object) -> None:
    """Asks from there to end what does not hear of it here."""
    here.door.fail("notices")
    [run] = [run for run in await here.door.runs() if run.id == run_id]
    await there.cancel(run.id)


async def test_a_server_that_stops_lets_its_own_runs_end_and_sends_their_followers_the_end(
    cluster: Cluster,
) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    runner = ScriptedRunner(text("a"), forever.wait, quick=Script(gate.wait, text("b")))
    stopping, peer = await cluster.two(runner)
    quick, slow = await stopping.start(message="quick"), await stopping.start()
    session = await peer.door.session(slow.session_id)
    queued, successor = await stopping.queue(session), await peer.queue(session, "quick")
    followers = [asyncio.create_task(watch(live)) for live in (quick, slow, queued)]
    draining = asyncio.create_task(stopping.engine.drain(60))
    await until(lambda: stopping.engine._draining)
    with pytest.raises(Draining):
        await stopping.start()
    gate.set()
    assert kinds(await followers[0])[-1] == "run_completed"
    assert not followers[1].done()
    await stopping.engine.drain(0)
    for follower in followers[1:]:
        assert (await follower)[-1].run_cancelled.reason == DRAINED
    await draining
    assert kinds(await watch(successor))[-1] == "run_completed"  # the turn went to a peer
    assert await peer.door.free(session.id)


async def test_a_server_that_stops_leaves_what_is_paused(cluster: Cluster) -> None:
    runner = ScriptedRunner(text("a"), finish=pause("next"), next=Script(text("b")))
    stopping, peer = await cluster.two(runner)
    live = await stopping.start()
    at = (await watch(live))[-1].sequence
    await stopping.engine.drain(0)
    assert (await peer.door.run(live.run_id)).status is RunStatus.PAUSED
    with pytest.raises(Draining):
        await stopping.engine.resume(going_on(live, at))
    assert kinds(await watch(await peer.engine.resume(going_on(live, at)), at))[-1] == "run_completed"


async def test_a_server_stops_also_when_the_store_does_not_answer(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_ATTEMPTS", 1)
    forever = asyncio.Event()
    stopping, peer = await cluster.two(ScriptedRunner(text("a"), forever.wait))
    running = await stopping.start()
    queued = await stopping.queue(await peer.door.session(running.session_id))
    stopping.door.down = True
    async with asyncio.timeout(60):
        await stopping.engine.drain(0)
    for live in (running, queued):
        with pytest.raises(StorageUnavailable):
            await watch(live)
    assert [run.status for run in await peer.door.runs()] == [RunStatus.RUNNING, RunStatus.QUEUED]


# What is no longer kept


async def test_events_are_let_go_of_when_they_are_old_but_for_the_last(cluster: Cluster) -> None:
    here, there = await cluster.two(ScriptedRunner(text("a"), tool("1"), text("b")))
    live = await here.start(request=request("r-1"))
    whole = await watch(live)
    assert await here.door.store.trim_events(utcnow() + timedelta(minutes=1), 10) == 1
    for after in range(len(whole) - 2):
        with pytest.raises(EventsTrimmed) as told:
            await there.watch(live.run_id, after)
        assert told.value.metadata["oldest_sequence"] == str(len(whole))
    assert await there.watch(live.run_id, len(whole) - 1) == whole[-1:]
    assert await there.watch(live.run_id, len(whole)) == []
    again = await there.start(request=request("r-1"))
    assert (await again.wait()).status is RunStatus.COMPLETED


async def test_a_process_trims_by_itself_and_forgets_old_requests(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.keeper.RETENTION_INTERVAL", 0.05)
    runner = ScriptedRunner(text("a"))
    here = await cluster.process(runner)
    live = await here.start(request=request("r-1"))
    await watch(live)
    moment = timedelta(microseconds=1)
    await cluster.process(runner, event_retention=moment, request_retention=moment)
    await until(lambda: forgotten(here))
    assert (await here.start(request=request("r-1", b"b"))).run_id != live.run_id


async def forgotten(process: Process) -> bool:
    [run, *_] = await process.door.runs()
    try:
        await process.door.store.read_events(OWNER, run.id, 0, 1000)
    except EventsTrimmed:
        return await process.engine.find(OWNER, request("r-1")) is None
    return False


# Who reads slowly


async def test_what_a_run_keeps_in_memory_is_bounded_however_slowly_it_is_read(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.log.KEEP", 16)
    monkeypatch.setattr("dragoman.engine.log.WINDOW", 64)
    monkeypatch.setattr("dragoman.engine.log.CATCH_UP_BYTES", 2000)
    monkeypatch.setattr("dragoman.engine.watch.CATCH_UP_BYTES", 2000)
    kept = 0
    lives: list[LiveRun] = []

    async def look() -> None:
        nonlocal kept
        kept = max([kept, *(len(live._log._kept) for live in lives)])

    steps: list[object] = []
    for number in range(600):
        steps += [tool(str(number)), look]
    here, there = await cluster.two(ScriptedRunner(*steps))
    live = await here.start()
    assert isinstance(live, LiveRun)
    lives.append(live)
    slow, slow_there = live.events(0), (await there.attach(live.run_id)).events(0)
    first, first_there = await anext(slow), await anext(slow_there)
    await live.wait()
    # What is not stored is kept, and no more than the window may wait to be stored.
    assert 0 < kept <= 64 + 2 * 16 + 1
    assert_whole([first, *[event async for event in slow]])
    assert_whole([first_there, *[event async for event in slow_there]])


async def test_a_run_waits_for_a_store_that_is_behind_and_shows_no_more_than_its_window(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.log.WINDOW", 20)
    appends = door.hold("append_events")
    async with engine_of(ScriptedRunner(*(tool(str(n)) for n in range(100))), door) as engine:
        live = await engine.start(draft())
        assert isinstance(live, LiveRun)
        await until(lambda: live._log.last_sequence == 20)
        await until(lambda: door.calls["append_events"] >= 1)
        assert live._log.last_sequence == 20
        appends.set()
        assert_whole(await watch(live))
