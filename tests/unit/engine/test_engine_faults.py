"""Runs through the engine when agents do not let go and the store does not answer, or not as it should."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace

import pytest

from dragoman.engine.ports import Outcome
from dragoman.engine.terminal import Cancellation
from dragoman.errors import Internal, RunNotFound, RunNotResumable, StorageUnavailable
from dragoman.records import RunEnd, RunStatus, TokenUsage
from dragoman.v1 import event_pb2

from .engine_fakes import (
    MemoryStore,
    ScriptedRun,
    ScriptedRunner,
    call,
    complete,
    draft,
    engine_of,
    message,
    text,
    watch,
)

CANCELLED = Cancellation(event_pb2.CANCEL_REASON_CALLER, "somebody")
SPENT = TokenUsage(input_tokens=100, output_tokens=20)


def spending(*script: object) -> ScriptedRunner:
    """A runner whose runs leave a message and a bill."""

    def finish(outcome: Outcome) -> None:
        complete(outcome)
        outcome.messages.append(message(outcome.calls[0].run_id))

    runner = ScriptedRunner(*script, finish=finish)
    runner.calls = [call(input_tokens=100, output_tokens=20)]
    return runner


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


async def test_who_does_not_let_go_is_left_behind_and_heard_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.engine.run.STOP_GRACE", 0.05)
    store, runner = MemoryStore(), ScriptedRunner()
    monkeypatch.setattr(runner, "begin", lambda order: Stubborn(runner, order))
    async with engine_of(runner, store, flush_interval=0.0) as engine:
        live = await engine.start(draft())
        watching = asyncio.create_task(watch(live))
        late = live.events()
        while not live._log.last_sequence > 3:
            await asyncio.sleep(0.001)
        live.cancel(CANCELLED)
        events = await watching
        ended = await live.wait()
        said = Stubborn.said
        while Stubborn.said < said + 3:  # it goes on talking
            await asyncio.sleep(0.001)
        assert [event async for event in late] == events
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[-1].HasField("run_cancelled")
    assert store.log(live.run_id) == events
    assert ended.last_sequence == len(events)
    Stubborn.enough = True


async def test_an_outcome_that_cannot_be_told_is_a_failed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: ScriptedRun) -> Outcome:
        raise ValueError("a defect")

    monkeypatch.setattr(ScriptedRun, "outcome", broken)
    store = MemoryStore()
    async with engine_of(ScriptedRunner(text("a")), store) as engine:
        live = await engine.start(draft())
        events = await watch(live)
    assert [event.WhichOneof("event") for event in events] == ["run_started", "content_delta", "run_failed"]
    assert store.runs[live.run_id].status is RunStatus.FAILED
    assert store.active == {}


async def test_what_the_store_cannot_take_does_not_take_the_bill_and_the_session_with_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    end_run = store.end_run

    async def picky(end: RunEnd) -> None:
        if end.messages:
            raise ValueError("secret: a column is too short")
        await end_run(end)

    monkeypatch.setattr(store, "end_run", picky)
    async with engine_of(spending(text("a")), store) as engine:
        live = await engine.start(draft())
        events = await watch(live)
        run = await live.wait()
    last = events[-1]
    assert last.HasField("run_failed")
    assert last.sequence == len(events) == run.last_sequence
    assert b"secret" not in last.SerializeToString()
    assert last.run_failed.usage.input_tokens == 100
    assert store.ends[0].totals.usage == SPENT
    assert [one.usage for one in store.ends[0].calls] == [SPENT]
    assert store.log(live.run_id) == events
    assert store.active == {}


async def test_a_store_that_takes_no_end_at_all_keeps_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()

    async def defective(end: RunEnd) -> None:
        raise ValueError("secret")

    monkeypatch.setattr(store, "end_run", defective)
    async with engine_of(spending(text("a")), store) as engine:
        live = await engine.start(draft())
        with pytest.raises(Internal):
            await watch(live)
        with pytest.raises(Internal):
            await live.wait()
        while engine.active_runs:
            await asyncio.sleep(0.001)


async def test_an_end_is_kept_until_the_store_takes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_ATTEMPTS", 1)
    monkeypatch.setattr("dragoman.engine.run.END_PAUSE", 0.01)
    store = MemoryStore()

    async def break_down() -> None:
        store.down = True

    async with engine_of(spending(text("a"), break_down), store, lease=0.05) as engine:
        live = await engine.start(draft())
        with pytest.raises(StorageUnavailable):
            await watch(live)
        with pytest.raises(StorageUnavailable):
            await live.wait()
        assert store.active  # nobody has been told an end, and nobody is
        store.down = False
        while engine.active_runs:
            await asyncio.sleep(0.001)
    (end,) = store.ends
    assert (end.status, end.totals.usage, len(end.messages)) == (RunStatus.COMPLETED, SPENT, 1)
    assert [event.sequence for event in store.log(live.run_id)] == [1, 2, 3]
    assert store.active == {}


async def test_a_process_that_stops_does_not_wait_for_a_store_that_is_down(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_ATTEMPTS", 1)
    store = MemoryStore()

    async def break_down() -> None:
        store.down = True

    async with asyncio.timeout(5), engine_of(spending(text("a"), break_down), store) as engine:
        live = await engine.start(draft())
        with pytest.raises(StorageUnavailable):
            await live.wait()
    assert store.ends == []


@pytest.mark.parametrize(("grace", "status"), [(0.0, RunStatus.CANCELLED), (5.0, RunStatus.COMPLETED)])
async def test_a_run_that_is_claimed_while_the_server_stops_is_drained_like_the_others(
    grace: float, status: RunStatus
) -> None:
    store, gate = MemoryStore(), asyncio.Event()
    store.block = asyncio.Event()
    script = () if status is RunStatus.COMPLETED else (gate.wait,)
    async with asyncio.timeout(10), engine_of(ScriptedRunner(*script), store) as engine:
        starting = asyncio.create_task(engine.start(draft()))
        await asyncio.sleep(0)
        draining = asyncio.create_task(engine.drain(grace))
        await asyncio.sleep(0.01)
        store.block.set()
        await draining
        assert (await (await starting).wait()).status is status


@pytest.mark.parametrize("deleted", [False, True])
async def test_a_run_that_another_process_has_ended_has_no_second_end(
    deleted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, gate = MemoryStore(), asyncio.Event()
    lapsing = True

    async def renew(run_ids: object, now: object) -> None:
        if lapsing:
            raise StorageUnavailable

    monkeypatch.setattr(store, "renew_leases", renew)
    runner = spending(text("a"), gate.wait)
    async with engine_of(runner, store, lease=0.06) as engine:
        stopped, unaware = await engine.start(draft()), await engine.start(draft())
        observers = [asyncio.create_task(watch(live)) for live in (stopped, unaware)]
        while not engine._lapsed():
            await asyncio.sleep(0.005)
        for live in (stopped, unaware):
            swept = replace(store.runs[live.run_id], status=RunStatus.CANCELLED, last_event=b"swept")
            store.runs[live.run_id] = swept
            store.active.pop(live.session_id)
        unaware.cancel(CANCELLED)  # it ends before this process has looked
        with pytest.raises(RunNotResumable):
            await observers[1]
        if deleted:
            del store.runs[stopped.run_id]
        lapsing = False
        with pytest.raises(RunNotFound if deleted else RunNotResumable):  # it is looked for, and stopped
            await observers[0]
        assert [run.stopped for run in runner.begun] == [True, True]
    assert store.ends == []
