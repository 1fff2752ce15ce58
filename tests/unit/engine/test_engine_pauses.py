"""Pauses: a run that waits for somebody keeps its turn, and goes on in any process as the same run."""

import asyncio
from collections.abc import Callable
from datetime import timedelta

import pytest

from dragoman.errors import RunNotPaused, SessionBusy, StorageUnavailable
from dragoman.records import Limits, RunStatus
from dragoman.v1 import event_pb2

from .engine_fakes import (
    ENDS,
    OWNER,
    Remember,
    Script,
    ScriptedRunner,
    Spend,
    going_on,
    kinds,
    numbers,
    pause,
    request,
    text,
    tool,
    until,
    watch,
    written,
)
from .engine_processes import Cluster, Process


def three_segments() -> ScriptedRunner:
    """Asks twice, then ends."""
    return ScriptedRunner(
        Remember(),
        Spend(5),
        text("one "),
        finish=pause("second"),
        second=Script(Remember(), Spend(7), text("two "), finish=pause("third")),
        third=Script(Remember(), Remember(), Spend(11), text("three"), tool("t")),
    )


async def paused_at(process: Process, run_id: object) -> int:
    """After which sequence the run is to be continued."""
    [run] = [run for run in await process.door.runs() if run.id == run_id]
    assert run.status is RunStatus.PAUSED
    return run.last_sequence


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_paused_run_goes_on_as_the_same_run(cluster: Cluster, elsewhere: bool) -> None:
    here, there = await cluster.two(three_segments())
    live = await here.start()
    first = await watch(live)
    assert kinds(first)[-1] == "run_paused"
    assert first[-1].run_paused.requirements[0].id == "r1"
    assert first[-1].run_paused.usage.output_tokens == 5
    assert first[-1].run_paused.expire_time.seconds > first[-1].create_time.seconds
    with pytest.raises(SessionBusy):
        await there.start(await here.door.session(live.session_id))
    assert len(await here.door.messages(live.run_id)) == 1
    other = there if elsewhere else here
    resumed = await other.engine.resume(going_on(live, len(first)))
    second = await watch(resumed, resumed.after_sequence)
    assert kinds(second)[0] == "run_continued"
    assert second[-1].run_paused.usage.output_tokens == 12
    assert second[-1].run_paused.model_calls == 2
    last = await here.engine.resume(going_on(live, second[-1].sequence))
    third = await watch(last, last.after_sequence)
    completed = third[-1].run_completed
    assert (completed.content, completed.usage.output_tokens, completed.model_calls) == (
        "one two three",
        23,
        3,
    )
    whole = [*first, *second, *third]
    assert numbers(whole) == list(range(1, len(whole) + 1))
    assert await here.door.log(live.run_id) == whole
    stored = await here.door.messages(live.run_id)
    assert len(stored) == 4
    assert list(completed.message_ids) == stored
    assert await here.door.bill(live.run_id) == [5, 7, 11]
    run = await here.door.run(live.run_id)
    assert (run.status, run.totals.usage.output_tokens, run.totals.model_calls) == (
        RunStatus.COMPLETED,
        23,
        3,
    )
    assert await here.door.free(live.session_id)
    # Whoever comes later sees it whole, pauses that are over included.
    for process in (here, there):
        for after in range(len(whole)):
            assert await process.watch(live.run_id, after) == whole[after:]


async def test_followers_of_a_segment_see_it_to_its_pause_and_no_further(cluster: Cluster) -> None:
    gate = asyncio.Event()
    runner = three_segments()
    runner.named["second"] = Script(text("two"), gate.wait, finish=pause("third"))
    here, there = await cluster.two(runner)
    live = await here.start()
    followed = await there.attach(live.run_id)
    follower = asyncio.create_task(watch(followed))
    first = await watch(live)
    resumed = await here.engine.resume(going_on(live, len(first)))
    assert await follower == first
    # Who comes while it goes on passes the pause by.
    later = asyncio.create_task(there.watch(live.run_id))
    at_the_pause = asyncio.create_task(there.watch(live.run_id, len(first) - 1))
    await until(lambda: there.door.calls["read_events"] >= 4)
    gate.set()
    second = await watch(resumed, len(first))
    assert await later == [*first, *second]
    assert await at_the_pause == [*first[-1:], *second]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_of_two_who_continue_one_wins(cluster: Cluster, elsewhere: bool) -> None:
    here, there = await cluster.two(three_segments())
    live = await here.start()
    at = (await watch(live))[-1].sequence
    other = there if elsewhere else here
    results = await asyncio.gather(
        here.engine.resume(going_on(live, at)),
        other.engine.resume(going_on(live, at)),
        return_exceptions=True,
    )
    won = [result for result in results if not isinstance(result, BaseException)]
    lost = [result for result in results if isinstance(result, BaseException)]
    assert len(won) == 1
    assert [type(error) for error in lost] == [RunNotPaused]
    segment = await watch(won[0], at)
    assert kinds(segment)[-1] == "run_paused"
    assert len(here.runner.of(live.run_id)) == 2
    # What was meant for the first pause does not answer the second.
    with pytest.raises(RunNotPaused):
        await other.engine.resume(going_on(live, at))


async def test_the_same_request_to_continue_is_done_once_and_follows_the_same_segment(
    cluster: Cluster,
) -> None:
    here, there = await cluster.two(three_segments())
    live = await here.start()
    at = (await watch(live))[-1].sequence
    wanted = going_on(live, at, request=request("go on"))
    runs = await asyncio.gather(*[process.engine.resume(wanted) for process in (here, there) * 10])
    assert {run.after_sequence for run in runs} == {at}
    seen = [await watch(run, run.after_sequence) for run in runs]
    assert all(events == seen[0] for events in seen)
    assert len(here.runner.of(live.run_id)) == 2
    final = await here.engine.resume(going_on(live, seen[0][-1].sequence))
    await watch(final)
    again = await there.engine.find(OWNER, request("go on"))
    assert again is not None
    assert again.after_sequence == at
    assert (await watch(again, at))[: len(seen[0])] == seen[0]


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_paused_run_can_be_cancelled_anywhere(cluster: Cluster, elsewhere: bool) -> None:
    here, there = await cluster.two(three_segments())
    live = await here.start()
    first = await watch(live)
    canceller = there if elsewhere else here
    ended = await canceller.cancel(live.run_id, note="never mind")
    assert ended == await canceller.cancel(live.run_id, note="again")
    log = await here.door.log(live.run_id)
    assert log[:-1] == first
    cancelled = log[-1].run_cancelled
    assert log[-1].sequence == len(first) + 1
    assert (cancelled.content, cancelled.note) == ("one ", "never mind")
    assert cancelled.usage.output_tokens == 5
    assert list(cancelled.message_ids) == await here.door.messages(live.run_id)
    assert await here.door.free(live.session_id)
    with pytest.raises(RunNotPaused):
        await here.engine.resume(going_on(live, len(first)))


async def test_a_cancel_and_a_continue_at_one_moment_leave_one_end(cluster: Cluster) -> None:
    here, there = await cluster.two(three_segments())
    for _ in range(5):
        live = await here.start()
        at = (await watch(live))[-1].sequence
        resumed, ended = await asyncio.gather(
            here.engine.resume(going_on(live, at)), there.cancel(live.run_id), return_exceptions=True
        )
        assert not isinstance(ended, BaseException)
        assert ended.status is RunStatus.CANCELLED
        if isinstance(resumed, BaseException):
            assert isinstance(resumed, RunNotPaused)
        log = await here.door.log(live.run_id)
        assert numbers(log) == list(range(1, len(log) + 1))
        assert [kind for kind in kinds(log) if kind in ENDS] == ["run_cancelled"]
        assert await here.door.free(live.session_id)


async def test_a_pause_that_nobody_continues_expires(cluster: Cluster) -> None:
    here, there = await cluster.two(three_segments(), pause_timeout=0.01)
    live = await here.start()
    first = await watch(live)
    waiting = await there.queue(await here.door.session(live.session_id), "second")
    await until(lambda: expired(there, live.run_id))
    log = await there.watch(live.run_id, len(first))
    assert [event.run_cancelled.reason for event in log] == [event_pb2.CANCEL_REASON_EXPIRED]
    assert log[0].sequence == len(first) + 1
    assert kinds(await watch(waiting))[:2] == ["run_queued", "run_started"]


async def expired(process: Process, run_id: object) -> bool:
    await process.engine._keeper.sweep()
    [run] = [run for run in await process.door.runs() if run.id == run_id]
    return run.status.final


async def test_one_that_is_continued_in_time_does_not_expire(cluster: Cluster) -> None:
    gate = asyncio.Event()
    runner = three_segments()
    runner.named["second"] = Script(gate.wait)
    here, there = await cluster.two(runner, lease=30.0)
    live = await here.start()
    at = (await watch(live))[-1].sequence
    resumed = await there.engine.resume(going_on(live, at))
    paused = await here.door.run(live.run_id)
    for process in (here, there):
        await process.engine._keeper.sweep()
    assert await here.door.store.expired_runs(10) == []
    assert paused.status is RunStatus.RUNNING
    gate.set()
    assert kinds(await watch(resumed, at)) == ["run_continued", "run_completed"]


async def test_only_the_time_in_which_it_runs_counts(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pauses and queues take as long as they take; each segment adds to what the ones before have used."""
    used: list[float] = []
    loop = asyncio.get_running_loop()
    call_later = loop.call_later

    def note(delay: float, callback: Callable[..., object], *args: object) -> asyncio.TimerHandle:
        if args and getattr(args[0], "reason", None) == event_pb2.CANCEL_REASON_MAX_DURATION:
            used.append(100.0 - delay)
        return call_later(delay, callback, *args)

    monkeypatch.setattr(loop, "call_later", note)
    seconds = 0.05

    async def work() -> None:
        await asyncio.sleep(seconds)

    runner = ScriptedRunner(
        work, finish=pause("second"), second=Script(work, finish=pause("third")), third=Script(work)
    )
    here, there = await cluster.two(runner)
    limits = Limits(max_duration=timedelta(seconds=100))
    started = loop.time()
    live = await here.start(limits=limits)
    events = await watch(live)
    busy = loop.time() - started
    await asyncio.sleep(4 * seconds)  # nobody hurries
    resumed = await there.engine.resume(going_on(live, events[-1].sequence))
    assert used[0] == 0.0
    assert seconds * 0.9 <= used[1] <= busy
    events = await watch(resumed, resumed.after_sequence)
    await here.engine.resume(going_on(live, events[-1].sequence))
    assert used[2] - used[1] >= seconds * 0.9


async def test_a_run_whose_time_is_over_ends_also_when_it_was_continued(cluster: Cluster) -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(text("a"), finish=pause("second"), second=Script(text("b"), forever.wait))
    here, there = await cluster.two(runner)
    live = await here.start(limits=Limits(max_duration=timedelta(seconds=1)))
    events = await watch(live)
    if kinds(events)[-1] == "run_paused":  # a busy machine may need all of the time for the first segment
        resumed = await there.engine.resume(going_on(live, events[-1].sequence))
        events = await watch(resumed, resumed.after_sequence)
    assert events[-1].run_cancelled.reason == event_pb2.CANCEL_REASON_MAX_DURATION
    assert "1 s" in events[-1].run_cancelled.note


async def test_an_outage_while_one_is_continued_leaves_it_paused(cluster: Cluster) -> None:
    here, there = await cluster.two(three_segments())
    live = await here.start()
    at = (await watch(live))[-1].sequence
    there.door.down = True
    with pytest.raises(StorageUnavailable):
        await there.engine.resume(going_on(live, at))
    there.door.down = False
    assert await paused_at(here, live.run_id) == at
    resumed = await there.engine.resume(going_on(live, at))
    assert kinds(await watch(resumed, at))[-1] == "run_paused"


async def test_an_outage_at_the_pause_delays_it(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_PAUSE", 0.01)
    here, _ = await cluster.two(three_segments())
    here.door.fail("end_run")
    live = await here.start()
    follower = asyncio.create_task(watch(live))
    await until(lambda: here.door.calls["end_run"] >= 2)
    assert not follower.done()
    del here.door.traps["end_run"]
    first = await follower
    assert written(first) == "one "
    assert await paused_at(here, live.run_id) == first[-1].sequence


async def test_an_agent_that_is_not_served_there_leaves_it_paused(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = await cluster.two(three_segments())
    live = await here.start()
    at = (await watch(live))[-1].sequence

    def nobody(name: str) -> None:
        raise LookupError(name)

    monkeypatch.setattr(there.engine._catalog, "agent", nobody)
    with pytest.raises(LookupError):
        await there.engine.resume(going_on(live, at))
    assert await paused_at(here, live.run_id) == at
