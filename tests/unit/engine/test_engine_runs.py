"""Whole runs through the engine: what observers see, what is stored, and that there is always exactly one end."""

import asyncio
import gc
from dataclasses import replace
from datetime import timedelta
from typing import Any, cast

import pytest

from dragoman import ids
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
from dragoman.records import Owner, Run, RunStatus, utcnow
from dragoman.v1 import event_pb2

from .engine_fakes import (
    OWNER,
    MemoryStore,
    ScriptedRunner,
    call,
    draft,
    engine_of,
    message,
    text,
    thought,
    tool,
    watch,
)

ENDS = {"run_completed", "run_failed", "run_cancelled", "run_paused"}


def kinds(events: list[event_pb2.RunEvent]) -> list[str]:
    return [event.WhichOneof("event") or "" for event in events]


def assert_whole(events: list[event_pb2.RunEvent]) -> None:
    """Contiguous from 1, begun by run_started, one end, and that one last."""
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert kinds(events)[0] == "run_started"
    assert [kind for kind in kinds(events) if kind in ENDS] == [kinds(events)[-1]]
    assert all(event.create_time.seconds > 0 for event in events)


async def test_a_run_is_streamed_whole_and_stored_as_it_was_streamed() -> None:
    store = MemoryStore()
    runner = ScriptedRunner(text("Hel"), text("lo"), tool("t1"), text("!"))
    runner.calls = [call(input_tokens=3, output_tokens=2)]
    async with engine_of(runner, store) as engine:
        live = await engine.start(draft())
        events = await watch(live)
        run = await live.wait()
    assert_whole(events)
    assert "".join(event.content_delta.text for event in events) == "Hello!"
    assert events[-1].run_completed.content == "Hello!"
    assert events[-1].run_completed.usage.total_tokens == 5
    assert events[-1].run_completed.cost.unpriced_calls == 1
    assert store.log(run.id) == events
    assert (run.status, run.last_sequence) == (RunStatus.COMPLETED, len(events))
    assert store.active == {}
    assert engine.active_runs == 0


async def test_deltas_of_one_source_join_within_the_interval_and_others_do_not() -> None:
    runner = ScriptedRunner(
        text("a"), text("b"), text("c"), thought("x"), text("d", "member"), text("e"), tool("t")
    )
    async with engine_of(runner, MemoryStore(), flush_interval=1.0) as engine:
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


async def test_with_no_interval_every_delta_is_an_event() -> None:
    runner = ScriptedRunner(*(text(letter) for letter in "abcde"))
    async with engine_of(runner, MemoryStore(), flush_interval=0) as engine:
        events = await watch(await engine.start(draft()))
    assert kinds(events).count("content_delta") == 5


async def test_a_waiting_delta_goes_out_when_its_time_comes() -> None:
    silence = asyncio.Event()
    runner = ScriptedRunner(text("a"), text("b"), silence.wait)
    async with engine_of(runner, MemoryStore(), flush_interval=0.02) as engine:
        live = await engine.start(draft())
        seen = ""
        async for event in live.events():
            seen += event.content_delta.text
            if seen == "ab":
                silence.set()
        assert seen == "ab"


async def test_observers_may_come_at_any_time_and_from_any_sequence() -> None:
    gate = asyncio.Event()
    runner = ScriptedRunner(text("a"), tool("1"), gate.wait, text("b"), tool("2"))
    async with engine_of(runner, MemoryStore(), flush_interval=0) as engine:
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


async def test_one_observer_leaving_disturbs_neither_the_run_nor_the_others() -> None:
    gate = asyncio.Event()
    store = MemoryStore()
    async with engine_of(ScriptedRunner(text("a"), gate.wait, text("b")), store) as engine:
        live = await engine.start(draft())
        leaver, stayer = (asyncio.create_task(watch(live)) for _ in range(2))
        await asyncio.sleep(0.01)
        leaver.cancel()
        gate.set()
        assert_whole(await stayer)
        assert (await live.wait()).status is RunStatus.COMPLETED


async def test_a_caller_who_leaves_while_the_run_is_claimed_does_not_stop_it() -> None:
    store = MemoryStore()
    store.block = asyncio.Event()
    async with engine_of(ScriptedRunner(text("a")), store) as engine:
        caller = asyncio.create_task(engine.start(draft()))
        await asyncio.sleep(0.01)
        caller.cancel()
        with pytest.raises(asyncio.CancelledError):
            await caller
        store.block.set()
        await engine.drain(5)
    assert [end.status for end in store.ends] == [RunStatus.COMPLETED]


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
    runner: ScriptedRunner, reason: str
) -> None:
    store = MemoryStore()
    async with engine_of(runner, store) as engine:
        live = await engine.start(draft())
        events = await watch(live)
    assert_whole(events)
    failed = events[-1].run_failed
    assert failed.content == "par"
    assert reason in str(failed.error.details[0].value)
    assert b"secret" not in events[-1].SerializeToString()
    assert store.runs[live.run_id].status is RunStatus.FAILED
    assert store.active == {}


async def test_a_runner_that_cannot_even_begin_fails_the_run() -> None:
    runner = ScriptedRunner()
    runner.refuses = RuntimeError("defect")
    async with engine_of(runner, MemoryStore()) as engine:
        events = await watch(await engine.start(draft()))
    assert kinds(events) == ["run_started", "run_failed"]


async def test_a_paused_run_says_what_it_waits_for_frees_the_session_and_can_be_cancelled() -> None:
    def pause(outcome: Outcome) -> None:
        outcome.status = "paused"
        outcome.requirements = [event_pb2.Requirement(id="r1", confirmation=event_pb2.ConfirmationNeed())]
        outcome.messages = [said]

    store, said = MemoryStore(), message(ids.new_id())
    async with engine_of(ScriptedRunner(text("a"), finish=pause), store) as engine:
        live = await engine.start(draft())
        events = await watch(live)
        assert events[-1].run_paused.requirements[0].id == "r1"
        assert store.active == {}
        assert (
            await engine.cancel(OWNER, live.run_id, by="local", note="never mind")
        ).status is RunStatus.CANCELLED
        assert (
            await engine.cancel(OWNER, live.run_id, by="local", note="again")
        ).status is RunStatus.CANCELLED
    assert [end.status for end in store.ends] == [RunStatus.PAUSED, RunStatus.CANCELLED]
    log = store.log(live.run_id)
    cancelled = log[-1].run_cancelled
    assert (cancelled.content, cancelled.note) == ("a", "never mind")
    assert list(cancelled.message_ids) == [str(said.id)]
    assert [event.sequence for event in log] == list(range(1, len(log) + 1))


async def test_cancel_ends_a_run_once_with_what_it_had() -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(text("half "), text("a sentence"), forever.wait)
    runner.calls = [call(input_tokens=7)]
    store = MemoryStore()
    async with engine_of(runner, store) as engine:
        live = await engine.start(draft())
        observer = asyncio.create_task(watch(live))
        while live.run.status is RunStatus.RUNNING and "sentence" not in runner.begun[0].outcome().content:
            await asyncio.sleep(0.001)
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
    assert cancelled.usage.input_tokens == 7
    assert first == second
    assert third.status is RunStatus.CANCELLED
    assert runner.begun[0].stopped
    assert runner.begun[0].closed
    assert len(store.ends) == 1


async def test_another_owner_cannot_cancel_and_learns_nothing() -> None:
    forever = asyncio.Event()
    async with engine_of(ScriptedRunner(forever.wait), MemoryStore()) as engine:
        live = await engine.start(draft())
        with pytest.raises(RunNotFound):
            await engine.cancel(Owner("somebody else"), live.run_id, by="x", note="")
        assert live.run.status is RunStatus.RUNNING


async def test_refusals_before_a_run_exists_write_nothing() -> None:
    forever = asyncio.Event()
    store = MemoryStore()
    async with engine_of(ScriptedRunner(forever.wait), store, max_runs=2) as engine:
        live = await engine.start(draft())
        session = store.sessions[live.session_id]
        with pytest.raises(SessionBusy):
            await engine.start(draft(session))
        with pytest.raises(AgentNotFound):
            await engine.start(replace(draft(), agent_name="nobody"))
        await engine.start(draft())
        with pytest.raises(TooManyRuns):
            await engine.start(draft())
        assert len(store.runs) == 2
        drained = asyncio.create_task(engine.drain(0.01))
        await asyncio.sleep(0)
        with pytest.raises(Draining):
            await engine.start(draft())
        await drained
    assert {end.status for end in store.ends} == {RunStatus.CANCELLED}


async def test_drain_lets_runs_finish_and_ends_the_rest_as_drained() -> None:
    quick, forever = asyncio.Event(), asyncio.Event()
    store = MemoryStore()
    runner = ScriptedRunner(quick.wait)
    async with engine_of(runner, store) as engine:
        finishing = await engine.start(draft())
        await asyncio.sleep(0)
        runner.script = (forever.wait,)
        staying = await engine.start(draft())
        asyncio.get_running_loop().call_later(0.02, quick.set)
        await engine.drain(0.2)
        assert (await finishing.wait()).status is RunStatus.COMPLETED
        assert (await watch(staying))[-1].run_cancelled.reason == event_pb2.CANCEL_REASON_DRAINED
    assert store.active == {}


async def test_when_the_end_cannot_be_stored_observers_are_told_and_none_sees_an_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dragoman.engine.run.END_ATTEMPTS", 1)
    store = MemoryStore()

    async def break_down() -> None:
        store.down = True

    async with engine_of(ScriptedRunner(text("a"), break_down), store) as engine:
        live = await engine.start(draft())
        seen: list[event_pb2.RunEvent] = []
        with pytest.raises(StorageUnavailable):  # noqa: PT012 - what was seen before the error matters
            async for event in live.events():
                seen.append(event)
        assert kinds(seen) == ["run_started", "content_delta"]
        with pytest.raises(StorageUnavailable):
            await live.wait()


async def test_an_outage_shorter_than_patience_loses_nothing() -> None:
    store = MemoryStore()
    gate = asyncio.Event()
    async with engine_of(
        ScriptedRunner(*(tool(str(n)) for n in range(50)), gate.wait, tool("last")), store
    ) as engine:
        store_up, store.down = asyncio.create_task(asyncio.sleep(0.1)), False
        live = await engine.start(draft())
        store.down = True
        await store_up
        store.down = False
        gate.set()
        events = await watch(live)
    assert_whole(events)
    assert store.log(live.run_id) == events


async def test_events_of_many_runs_share_writes() -> None:
    store = MemoryStore()
    gate = asyncio.Event()
    async with engine_of(ScriptedRunner(text("a"), tool("1"), gate.wait), store) as engine:
        runs = [await engine.start(draft()) for _ in range(50)]
        while any(not store.events[live.run_id] for live in runs):
            await asyncio.sleep(0.005)
        assert store.writes < 10
        gate.set()
        for live in runs:
            assert_whole(await watch(live))


async def test_an_observer_that_is_far_behind_catches_up_from_the_store(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dragoman.engine.log.KEEP", 10)
    monkeypatch.setattr("dragoman.engine.log.STEP", 3)
    monkeypatch.setattr("dragoman.engine.engine.WRITE_INTERVAL", 0.0)
    store = MemoryStore()

    async def breathe() -> None:
        await asyncio.sleep(0.003)

    script: list[object] = []
    for number in range(200):
        script += [tool(str(number)), *([breathe] if number % 20 == 0 else [])]
    async with engine_of(ScriptedRunner(*script), store) as engine:
        live = await engine.start(draft())
        slow = live.events()
        first = await anext(slow)
        await live.wait()
        kept = live._log._kept  # what bounded memory means
        assert len(kept) < 100
        rest = [event async for event in slow]
    assert_whole([first, *rest])
    assert len(rest) == 201


async def test_abandoned_runs_are_ended_and_their_sessions_freed() -> None:
    store = MemoryStore()
    runner = ScriptedRunner()
    async with engine_of(runner, store) as engine:
        live = await engine.start(draft())
        await live.wait()
        dead: Run = replace(
            store.runs[live.run_id], id=live.run_id, status=RunStatus.RUNNING, last_sequence=4
        )
    store.runs[dead.id] = dead
    store.active[dead.session_id] = dead.id
    store.leases[dead.id] = utcnow() - timedelta(minutes=5)
    async with engine_of(runner, store, lease=1.0):
        while dead.id in store.leases:
            await asyncio.sleep(0.005)
    last = event_pb2.RunEvent.FromString(store.runs[dead.id].last_event)
    assert (last.sequence, last.run_cancelled.reason) == (5, event_pb2.CANCEL_REASON_ABANDONED)
    assert store.active == {}


async def test_one_run_that_cannot_be_stored_does_not_hold_up_the_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("dragoman.engine.engine.WRITE_INTERVAL", 0.0)
    store = MemoryStore()
    first, second = asyncio.Event(), asyncio.Event()
    async with engine_of(ScriptedRunner(first.wait, tool("1"), second.wait, text("b")), store) as engine:
        bad, good = await engine.start(draft()), await engine.start(draft())
        store.poisoned.add(bad.run_id)
        first.set()
        while len(store.log(good.run_id)) < 2:
            await asyncio.sleep(0.001)
        assert len(store.log(bad.run_id)) < 2
        second.set()
        for live in (bad, good):
            assert_whole(await watch(live))
            assert (await live.wait()).status is RunStatus.COMPLETED


async def test_a_defect_while_leases_are_kept_does_not_end_the_keeping(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = MemoryStore()
    calls = 0

    async def defective(run_ids: object, now: object) -> None:
        nonlocal calls
        calls += 1
        raise ValueError("a defect")

    monkeypatch.setattr(store, "renew_leases", defective)
    forever = asyncio.Event()
    async with engine_of(ScriptedRunner(forever.wait), store, lease=0.03) as engine:
        await engine.start(draft())
        while calls < 3:
            await asyncio.sleep(0.005)


async def test_memory_returns_after_many_runs() -> None:
    store = MemoryStore()
    async with engine_of(ScriptedRunner(text("a"), tool("1")), store) as engine:
        for _ in range(20):
            await asyncio.gather(*[(await engine.start(draft())).wait() for _ in range(10)])
        while engine._tasks:
            await asyncio.sleep(0.001)
        gc.collect()
        assert engine.active_runs == 0
        assert not [
            thing
            for thing in gc.get_objects()
            if isinstance(thing, LiveRun) and thing._log._store is cast("Store", store)
        ]
