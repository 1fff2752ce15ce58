"""Runs through the engine when agents do not let go and the store does not answer, or not as it should."""

import asyncio
from collections.abc import AsyncGenerator

import pytest

from dragoman.engine import LiveRun
from dragoman.engine.ports import Outcome
from dragoman.errors import Internal, RunNotFound, RunNotResumable, StorageUnavailable
from dragoman.records import Cancellation, RunEnd, RunStatus
from dragoman.v1 import event_pb2

from .engine_fakes import (
    OWNER,
    Remember,
    Script,
    ScriptedRun,
    ScriptedRunner,
    Spend,
    draft,
    kinds,
    numbers,
    text,
    until,
    watch,
)
from .engine_processes import Door, end_abandoned, engine_of

CANCELLED = Cancellation(event_pb2.CANCEL_REASON_CALLER, "somebody")


def spending(*steps: object) -> ScriptedRunner:
    """A runner whose runs leave a message and a bill."""
    return ScriptedRunner(Remember(), Spend(120), *steps)


class Stubborn(ScriptedRun):
    """Goes on whatever is done to it, until `enough`."""

    enough = False
    said = 0

    async def events(self) -> AsyncGenerator[event_pb2.RunEvent, None]:
        while not self.enough:
            try:
                await asyncio.sleep(0.001)
            except asyncio.CancelledError:
                continue
            Stubborn.said += 1
            yield text("word ")


async def test_who_does_not_let_go_is_left_behind_and_heard_no_more(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.run.STOP_GRACE", 0.05)
    runner = ScriptedRunner()
    monkeypatch.setattr(runner, "begin", lambda order, meter: Stubborn(Script(), order, meter, runner.pricer))
    async with engine_of(runner, door, flush_interval=0.0) as engine:
        live = await engine.start(draft())
        assert isinstance(live, LiveRun)
        watching = asyncio.create_task(watch(live))
        late = live.events(0)
        await until(lambda: live._log.last_sequence > 3)
        live.cancel(CANCELLED)
        events = await watching
        ended = await live.wait()
        said = Stubborn.said
        await until(lambda: Stubborn.said >= said + 3)  # it goes on talking
        assert [event async for event in late] == events
        Stubborn.enough = True
    assert numbers(events) == list(range(1, len(events) + 1))
    assert events[-1].HasField("run_cancelled")
    assert await door.log(live.run_id) == events
    assert ended.last_sequence == len(events)


async def test_an_outcome_that_cannot_be_told_is_a_failed_run(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: ScriptedRun) -> Outcome:
        raise ValueError("a defect")

    monkeypatch.setattr(ScriptedRun, "outcome", broken)
    async with engine_of(ScriptedRunner(text("a")), door) as engine:
        live = await engine.start(draft())
        events = await watch(live)
    assert kinds(events) == ["run_started", "content_delta", "run_failed"]
    assert (await door.run(live.run_id)).status is RunStatus.FAILED
    assert await door.free(live.session_id)


async def test_what_the_store_cannot_take_does_not_take_the_bill_and_the_session_with_it(door: Door) -> None:
    def picky(end: RunEnd) -> None:
        if end.messages:
            raise ValueError("secret: a column is too short")

    door.traps["end_run"] = picky
    async with engine_of(spending(text("a")), door) as engine:
        live = await engine.start(draft())
        events = await watch(live)
        run = await live.wait()
    last = events[-1]
    assert last.HasField("run_failed")
    assert last.sequence == len(events) == run.last_sequence
    assert b"secret" not in last.SerializeToString()
    assert last.run_failed.usage.output_tokens == 120
    assert (await door.run(live.run_id)).totals.usage.output_tokens == 120
    assert await door.bill(live.run_id) == [120]
    assert await door.log(live.run_id) == events
    assert await door.free(live.session_id)


async def test_a_store_that_takes_no_end_at_all_keeps_nobody_waiting(door: Door) -> None:
    def defective(end: RunEnd) -> None:
        raise ValueError("secret")

    door.traps["end_run"] = defective
    async with engine_of(spending(text("a")), door) as engine:
        live = await engine.start(draft())
        with pytest.raises(Internal):
            await watch(live)
        with pytest.raises(Internal):
            await live.wait()
        await until(lambda: not engine.active_runs)


async def test_an_end_is_kept_until_the_store_takes_it(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_ATTEMPTS", 1)
    monkeypatch.setattr("dragoman.engine.run.END_PAUSE", 0.01)

    async def break_down() -> None:
        door.down = True

    async with engine_of(spending(text("a"), break_down), door) as engine:
        live = await engine.start(draft())
        with pytest.raises(StorageUnavailable):
            await watch(live)
        with pytest.raises(StorageUnavailable):
            await live.wait()
        assert not await door.free(live.session_id)  # nobody has been told an end, and nobody is
        door.down = False
        await until(lambda: not engine.active_runs)
    run = await door.run(live.run_id)
    assert (run.status, run.totals.usage.output_tokens) == (RunStatus.COMPLETED, 120)
    assert len(await door.messages(live.run_id)) == 1
    assert numbers(await door.log(live.run_id)) == [1, 2, 3]
    assert await door.bill(live.run_id) == [120]
    assert await door.free(live.session_id)


async def test_an_end_whose_answer_was_lost_is_stored_once(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_PAUSE", 0.01)
    lost: list[RunEnd] = []

    async def lose_the_answer(end: RunEnd) -> None:
        if not lost:
            lost.append(end)
            await door.store.end_run(end)
            raise StorageUnavailable()

    door.traps["end_run"] = lose_the_answer
    async with engine_of(spending(text("a")), door) as engine:
        live = await engine.start(draft())
        events = await watch(live)
        assert (await live.wait()).status is RunStatus.COMPLETED
    assert door.calls["end_run"] == 2
    assert await door.log(live.run_id) == events
    assert await door.bill(live.run_id) == [120]
    assert len(await door.messages(live.run_id)) == 1


async def test_a_process_that_stops_does_not_wait_for_a_store_that_is_down(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_ATTEMPTS", 1)

    async def break_down() -> None:
        door.down = True

    async with asyncio.timeout(60), engine_of(spending(text("a"), break_down), door) as engine:
        live = await engine.start(draft())
        with pytest.raises(StorageUnavailable):
            await live.wait()
    assert (await door.run(live.run_id)).status is RunStatus.RUNNING


@pytest.mark.parametrize(("grace", "status"), [(0.0, RunStatus.CANCELLED), (60.0, RunStatus.COMPLETED)])
async def test_a_run_that_is_claimed_while_the_server_stops_is_drained_like_the_others(
    door: Door, grace: float, status: RunStatus
) -> None:
    gate, claim = asyncio.Event(), door.hold("start_run")
    script = () if status is RunStatus.COMPLETED else (gate.wait,)
    async with asyncio.timeout(60), engine_of(ScriptedRunner(*script), door) as engine:
        starting = asyncio.create_task(engine.start(draft()))
        await until(lambda: door.calls["start_run"] == 1)
        draining = asyncio.create_task(engine.drain(grace))
        await until(lambda: engine._draining)
        claim.set()
        await draining
        assert (await (await starting).wait()).status is status


async def test_a_caller_who_leaves_while_his_run_is_claimed_takes_it_with_him_if_he_said_so(
    door: Door,
) -> None:
    forever, claim = asyncio.Event(), door.hold("start_run")
    async with engine_of(ScriptedRunner(forever.wait), door) as engine:
        callers = [
            asyncio.create_task(engine.start(draft(cancel_on_disconnect=tied))) for tied in (True, False)
        ]
        await until(lambda: door.calls["start_run"] == 2)
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        claim.set()
        await until(lambda: engine.active_runs == 1)
        assert sorted(run.status for run in await door.runs()) == [RunStatus.CANCELLED, RunStatus.RUNNING]


async def test_a_run_that_was_deleted_elsewhere_is_stopped(door: Door) -> None:
    forever = asyncio.Event()
    runner = spending(text("a"), forever.wait)
    async with engine_of(runner, door, lease=0.3) as engine:
        live = await engine.start(draft())
        following = asyncio.create_task(watch(live))
        await until(lambda: bool(runner.begun) and "a" in runner.begun[0].outcome().content)
        # Another process has taken this one for dead, and the caller has then deleted the session.
        door.fail("renew_leases")
        await end_abandoned(door, live.run_id)
        await door.store.delete_session(OWNER, live.session_id)
        del door.traps["renew_leases"]
        with pytest.raises(RunNotFound):
            await door.run(live.run_id)
        with pytest.raises(RunNotResumable):
            await following
        assert runner.begun[0].stopped
        await until(lambda: not engine.active_runs)
