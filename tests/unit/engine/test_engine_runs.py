"""Whole runs through the engine: what observers see, what is stored, and that there is always exactly one end."""

import asyncio
import functools
import gc
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast
from uuid import UUID

import pytest

from dragoman.engine import LiveRun
from dragoman.engine.ports import Outcome, Store
from dragoman.errors import (
    AgentNotFound,
    Draining,
    ModelUnavailable,
    RunNotFound,
    SessionBusy,
    StorageUnavailable,
    TooManyRuns,
)
from dragoman.records import EventChunk, Owner, RunStatus
from dragoman.v1 import event_pb2

from .engine_fakes import (
    OWNER,
    Script,
    ScriptedRunner,
    Spend,
    assert_whole,
    draft,
    kinds,
    text,
    thought,
    tool,
    until,
    watch,
)
from .engine_processes import Door, engine_of


async def test_a_run_is_streamed_whole_and_stored_as_it_was_streamed(door: Door) -> None:
    runner = ScriptedRunner(text("Hel"), text("lo"), tool("t1"), Spend(5), text("!"))
    async with engine_of(runner, door) as engine:
        live = await engine.start(draft())
        events = await watch(live)
        run = await live.wait()
    assert_whole(events)
    assert "".join(event.content_delta.text for event in events) == "Hello!"
    assert events[-1].run_completed.content == "Hello!"
    assert events[-1].run_completed.usage.total_tokens == 5
    assert events[-1].run_completed.cost.unpriced_calls == 1
    assert await door.log(run.id) == events
    assert (run.status, run.last_sequence) == (RunStatus.COMPLETED, len(events))
    assert await door.free(live.session_id)
    assert engine.active_runs == 0


async def test_deltas_of_one_source_join_within_the_interval_and_others_do_not(door: Door) -> None:
    runner = ScriptedRunner(
        text("a"), text("b"), text("c"), thought("x"), text("d", "member"), text("e"), tool("t")
    )
    async with engine_of(runner, door, flush_interval=1.0) as engine:
        events = await watch(await engine.start(draft()))
    shown = [
        (kind, event.content_delta.text or event.reasoning_delta.text)
        for kind, event in zip(kinds(events), events, strict=True)
    ]
    assert shown[1:-1] == [
        ("content_delta", "a"),  # the first goes out at once
        ("content_delta", "bc"),
        ("reasoning_delta", "x"),
        ("content_delta", "d"),
        ("content_delta", "e"),
        ("tool_call_started", ""),
    ]


async def test_with_no_interval_every_delta_is_an_event(door: Door) -> None:
    runner = ScriptedRunner(*(text(letter) for letter in "abcde"))
    async with engine_of(runner, door, flush_interval=0) as engine:
        events = await watch(await engine.start(draft()))
    assert kinds(events).count("content_delta") == 5


async def test_a_waiting_delta_goes_out_when_its_time_comes(door: Door) -> None:
    silence = asyncio.Event()
    runner = ScriptedRunner(text("a"), text("b"), silence.wait)
    async with engine_of(runner, door, flush_interval=0.02) as engine:
        live = await engine.start(draft())
        seen = ""
        async for event in live.events(0):
            seen += event.content_delta.text
            if seen == "ab":
                silence.set()
        assert seen == "ab"


async def test_observers_may_come_at_any_time_and_from_any_sequence(door: Door) -> None:
    gate = asyncio.Event()
    runner = ScriptedRunner(text("a"), tool("1"), gate.wait, text("b"), tool("2"))
    async with engine_of(runner, door, flush_interval=0) as engine:
        live = await engine.start(draft())
        early = asyncio.create_task(watch(live))
        late = asyncio.create_task(watch(live, after=2))
        await asyncio.sleep(0)
        gate.set()
        whole = await early
        assert await late == whole[2:]
        assert await watch(live) == whole
        assert await watch(live, after=len(whole)) == []
        assert_whole(whole)


async def test_one_observer_leaving_disturbs_neither_the_run_nor_the_others(door: Door) -> None:
    gate = asyncio.Event()
    async with engine_of(ScriptedRunner(text("a"), gate.wait, text("b")), door) as engine:
        live = await engine.start(draft())
        leaver, stayer = (asyncio.create_task(watch(live)) for _ in range(2))
        await asyncio.sleep(0.01)
        leaver.cancel()
        gate.set()
        assert_whole(await stayer)
        assert (await live.wait()).status is RunStatus.COMPLETED


async def test_a_caller_who_leaves_while_the_run_is_claimed_does_not_stop_it(door: Door) -> None:
    gate = door.hold("start_run")
    async with engine_of(ScriptedRunner(text("a")), door) as engine:
        caller = asyncio.create_task(engine.start(draft()))
        await asyncio.sleep(0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        gate.set()
        await engine.drain(5)
    assert [run.status for run in await door.runs()] == [RunStatus.COMPLETED]


def fails(error: Exception | None) -> Any:
    def finish(outcome: Outcome) -> None:
        outcome.status, outcome.error = "failed", cast("Any", error)

    return finish


@pytest.mark.parametrize(
    ("runner", "reason"),
    [
        (
            ScriptedRunner(
                text("par"), finish=fails(ModelUnavailable("OVERLOADED", "the model is overloaded"))
            ),
            "MODEL_UNAVAILABLE",
        ),
        (ScriptedRunner(text("par"), RuntimeError("secret")), "INTERNAL"),
        (ScriptedRunner(text("par"), ModelUnavailable("TIMEOUT", "too slow")), "MODEL_UNAVAILABLE"),
        (ScriptedRunner(text("par"), finish=lambda outcome: None), "INTERNAL"),
    ],
)
async def test_whatever_goes_wrong_is_one_failed_event_that_keeps_the_text(
    door: Door, runner: ScriptedRunner, reason: str
) -> None:
    async with engine_of(runner, door) as engine:
        live = await engine.start(draft())
        events = await watch(live)
    assert_whole(events)
    failed = events[-1].run_failed
    assert failed.content == "par"
    assert reason in str(failed.error.details[0].value)
    assert b"secret" not in events[-1].SerializeToString()
    assert (await door.run(live.run_id)).status is RunStatus.FAILED
    assert await door.free(live.session_id)


async def test_a_runner_that_cannot_even_begin_fails_the_run(door: Door) -> None:
    runner = ScriptedRunner()
    runner.refuses = RuntimeError("defect")
    async with engine_of(runner, door) as engine:
        events = await watch(await engine.start(draft()))
    assert kinds(events) == ["run_started", "run_failed"]


async def test_cancel_ends_a_run_once_with_what_it_had(door: Door) -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(Spend(7), text("half "), text("a sentence"), forever.wait)
    async with engine_of(runner, door) as engine:
        live = await engine.start(draft())
        observer = asyncio.create_task(watch(live))
        await until(lambda: bool(runner.begun) and "sentence" in runner.begun[0].outcome().content)
        first, second = await asyncio.gather(
            engine.cancel(OWNER, live.run_id, by="local", note="enough"),
            engine.cancel(OWNER, live.run_id, by="local", note="too late"),
        )
        events = await observer
        third = await engine.cancel(OWNER, live.run_id, by="local", note="much too late")
    assert_whole(events)
    cancelled = events[-1].run_cancelled
    assert (cancelled.reason, cancelled.cancelled_by, cancelled.note) == (
        event_pb2.CANCEL_REASON_CALLER,
        "local",
        "enough",
    )
    assert cancelled.content == "half a sentence"
    assert cancelled.usage.output_tokens == 7
    assert first == second
    assert third.status is RunStatus.CANCELLED
    assert runner.begun[0].stopped
    assert runner.begun[0].closed
    assert await door.bill(live.run_id) == [7]
    assert await door.log(live.run_id) == events


async def test_another_owner_cannot_cancel_and_learns_nothing(door: Door) -> None:
    forever = asyncio.Event()
    async with engine_of(ScriptedRunner(forever.wait), door) as engine:
        live = await engine.start(draft())
        with pytest.raises(RunNotFound):
            await engine.cancel(Owner("somebody else"), live.run_id, by="x", note="")
        assert (await door.run(live.run_id)).status is RunStatus.RUNNING


async def test_refusals_before_a_run_exists_write_nothing(door: Door) -> None:
    forever = asyncio.Event()
    async with engine_of(ScriptedRunner(forever.wait), door, max_runs=2) as engine:
        live = await engine.start(draft())
        session = await door.session(live.session_id)
        with pytest.raises(SessionBusy):
            await engine.start(draft(session))
        with pytest.raises(AgentNotFound):
            await engine.start(replace(draft(), agent_name="nobody"))
        await engine.start(draft())
        with pytest.raises(TooManyRuns):
            await engine.start(draft())
        assert len(await door.runs()) == 2
        drained = asyncio.create_task(engine.drain(0.01))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await engine.start(draft())
        await drained
    assert {run.status for run in await door.runs()} == {RunStatus.CANCELLED}


async def test_drain_lets_runs_finish_and_ends_the_rest_as_drained(door: Door) -> None:
    quick, forever = asyncio.Event(), asyncio.Event()
    runner = ScriptedRunner(forever.wait, quick=Script(quick.wait))
    async with engine_of(runner, door) as engine:
        finishing, staying = await engine.start(draft(message="quick")), await engine.start(draft())
        draining = asyncio.create_task(engine.drain(60))
        await until(lambda: engine._draining)
        quick.set()
        assert (await finishing.wait()).status is RunStatus.COMPLETED
        assert (await door.run(staying.run_id)).status is RunStatus.RUNNING
        await engine.drain(0.01)
        assert (await watch(staying))[-1].run_cancelled.reason == event_pb2.CANCEL_REASON_DRAINED
        await draining
    assert await door.free(staying.session_id)


async def test_when_the_end_cannot_be_stored_observers_are_told_and_none_sees_an_end(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_ATTEMPTS", 1)

    async def break_down() -> None:
        door.down = True

    async with engine_of(ScriptedRunner(text("a"), break_down), door) as engine:
        live = await engine.start(draft())
        seen: list[event_pb2.RunEvent] = []
        with pytest.raises(StorageUnavailable):  # noqa: PT012 - what was seen before the error matters
            async for event in live.events(0):
                seen.append(event)
        assert kinds(seen) == ["run_started", "content_delta"]
        with pytest.raises(StorageUnavailable):
            await live.wait()


async def test_an_outage_shorter_than_patience_loses_nothing(door: Door) -> None:
    gate = asyncio.Event()
    script = (*(tool(str(n)) for n in range(50)), gate.wait, tool("last"))
    async with engine_of(ScriptedRunner(*script), door) as engine:
        live = await engine.start(draft())
        door.down = True
        before = door.calls["append_events"]
        await until(lambda: door.calls["append_events"] > before)
        door.down = False
        gate.set()
        events = await watch(live)
    assert_whole(events)
    assert await door.log(live.run_id) == events


async def stored(door: Door, run_id: UUID, last_sequence: int) -> bool:
    return (await door.run(run_id)).last_sequence >= last_sequence


async def test_events_of_many_runs_share_writes(door: Door) -> None:
    gate = asyncio.Event()
    async with engine_of(ScriptedRunner(text("a"), tool("1"), gate.wait), door) as engine:
        runs = [await engine.start(draft()) for _ in range(50)]
        for live in runs:
            await until(functools.partial(stored, door, live.run_id, 3))
        assert door.calls["append_events"] < 10
        gate.set()
        for live in runs:
            assert_whole(await watch(live))


async def test_an_observer_that_is_far_behind_catches_up_from_the_store(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.log.KEEP", 10)
    monkeypatch.setattr("dragoman.engine.log.STEP", 3)
    monkeypatch.setattr("dragoman.engine.engine.WRITE_INTERVAL", 0.0)

    async def breathe() -> None:
        await asyncio.sleep(0.003)

    script: list[object] = []
    for number in range(200):
        script += [tool(str(number)), *([breathe] if number % 20 == 0 else [])]
    async with engine_of(ScriptedRunner(*script), door) as engine:
        live = await engine.start(draft())
        assert isinstance(live, LiveRun)
        slow = live.events(0)
        first = await anext(slow)
        await live.wait()
        kept = live._log._kept  # what bounded memory means
        assert len(kept) < 100
        rest = [event async for event in slow]
    assert_whole([first, *rest])
    assert len(rest) == 201


async def test_one_run_that_cannot_be_stored_does_not_hold_up_the_others(
    door: Door, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dragoman.engine.engine.WRITE_INTERVAL", 0.0)
    first, second = asyncio.Event(), asyncio.Event()
    async with engine_of(ScriptedRunner(first.wait, tool("1"), second.wait, text("b")), door) as engine:
        bad, good = await engine.start(draft()), await engine.start(draft())
        before = (await door.run(bad.run_id)).last_sequence

        def poison(chunks: Sequence[EventChunk], calls: object) -> None:
            if any(chunk.run_id == bad.run_id for chunk in chunks):
                raise ValueError("a defect")

        door.traps["append_events"] = poison
        first.set()
        await until(functools.partial(stored, door, good.run_id, 2))
        assert (await door.run(bad.run_id)).last_sequence == before
        second.set()
        for live in (bad, good):
            assert_whole(await watch(live))
            assert (await live.wait()).status is RunStatus.COMPLETED


async def test_a_defect_while_leases_are_kept_does_not_end_the_keeping(door: Door) -> None:
    def defective(*_: object) -> None:
        raise ValueError("a defect")

    door.traps["renew_leases"] = defective
    forever = asyncio.Event()
    async with engine_of(ScriptedRunner(forever.wait), door, lease=0.06) as engine:
        await engine.start(draft())
        await until(lambda: door.calls["renew_leases"] >= 3)


async def test_memory_returns_after_many_runs(door: Door) -> None:
    runner = ScriptedRunner(text("a"), tool("1"))
    async with engine_of(runner, door) as engine:
        for _ in range(20):
            await asyncio.gather(*[(await engine.start(draft())).wait() for _ in range(10)])
        await until(lambda: not engine._tasks)
        runner.begun.clear()
        assert engine.active_runs == 0

        def gone() -> bool:
            gc.collect()
            return not any(
                isinstance(thing, LiveRun) and thing._log._store is cast("Store", door)
                for thing in gc.get_objects()
            )

        await until(gone)  # what ended last may still be on its way out of a callback
