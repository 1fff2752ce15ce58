"""Budgets: what all runs of somebody may spend in a day, over processes, pauses, queues and midnights."""

import asyncio
from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, cast

import pytest

from dragoman.engine import Budgets, Engine
from dragoman.engine.ports import BudgetPeriod, BudgetRule, Page, Store
from dragoman.errors import BudgetExceeded, InvalidInput, StorageUnavailable
from dragoman.records import Limits, RunStatus, SessionConflict, utcnow
from dragoman.v1 import event_pb2

from .engine_fakes import (
    OWNER,
    Script,
    ScriptedRunner,
    Spend,
    draft,
    going_on,
    kinds,
    pause,
    text,
    until,
    watch,
)
from .engine_processes import Cluster, Door, Process, engine_of

USED_UP = event_pb2.CANCEL_REASON_BUDGET_EXCEEDED
DAY, MONTH = BudgetPeriod.DAY, BudgetPeriod.MONTH


def fail_with(error: Exception, *_: Any) -> None:
    raise error


def asked_since(door: Door, reads: int) -> bool:
    return door.calls["spending"] > reads


class Clock:
    """The present moment, and some time."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utcnow() + self.ahead


def rule(
    limit: int = 10, principal: str = "local", agent: str = "", period: BudgetPeriod = MONTH
) -> BudgetRule:
    """In a zone where it is not about midnight: no test must see a period end."""
    zone = "UTC" if 2 <= utcnow().hour < 22 else "Asia/Tokyo"
    return BudgetRule(principal, agent, period, Decimal(limit), zone)


def runner(*steps: object, **options: Any) -> ScriptedRunner:
    """A token costs 1."""
    made = ScriptedRunner(*steps, **options)
    made.pricer.unit = Decimal(1)
    return made


def budgets(door: Door, *rules: BudgetRule, **options: Any) -> Budgets:
    """Asks the ledger every time."""
    return Budgets(cast("Store", door), "ZAR", rules, **{"max_age": 0, **options})


async def spend(engine: Engine, message: str = "hello") -> Sequence[event_pb2.RunEvent]:
    return await watch(await engine.start(draft(message=message)))


async def test_a_run_that_uses_the_budget_up_ends_before_its_next_call(door: Door) -> None:
    script = runner(text("a"), Spend(4), Spend(8), text("b"), Spend(1))
    async with engine_of(script, door, budgets=budgets(door, rule())) as engine:
        live = await engine.start(draft())
        last = (await watch(live))[-1]
        assert last.run_cancelled.reason == USED_UP
        assert (
            "the budget of ZAR 10 a month for principal local is used up until 20" in last.run_cancelled.note
        )
        assert (last.run_cancelled.content, last.run_cancelled.usage.total_tokens) == ("ab", 12)
        assert await door.bill(live.run_id) == [4, 8]
        with pytest.raises(BudgetExceeded) as refused:
            await engine.start(draft())
        assert refused.value.subject == "principal local"
        assert (refused.value.retry_after or 0) > 0
    assert len(await door.runs()) == 1
    assert len(await door.store.list_sessions(OWNER, "", Page(9))) == 1


async def test_the_last_answer_is_kept(door: Door) -> None:
    async with engine_of(runner(Spend(10), text("a")), door, budgets=budgets(door, rule())) as engine:
        assert kinds(await spend(engine))[-1] == "run_completed"
        with pytest.raises(BudgetExceeded):
            await engine.start(draft())


async def test_a_new_period_begins_with_nothing_spent(door: Door) -> None:
    clock = Clock()
    asked = budgets(door, rule(period=DAY), clock=clock)
    async with engine_of(runner(Spend(10)), door, budgets=asked) as engine:
        await spend(engine)
        [state] = await engine.budgets(OWNER, "")
        assert utcnow() < state.reset_time <= utcnow() + timedelta(days=1)
        with pytest.raises(BudgetExceeded) as refused:
            await engine.start(draft())
        assert refused.value.metadata["reset_time"] == f"{state.reset_time:%Y-%m-%dT%H:%M:%SZ}"
        clock.ahead = timedelta(days=1)
        assert kinds(await spend(engine))[-1] == "run_completed"


@pytest.mark.parametrize(
    ("principal", "agent", "holds"),
    [
        ("local", "", True),
        ("*", "", True),
        ("lo?al", "", True),
        ("Local", "", False),
        ("loc", "", False),
        ("", "echo", True),
        ("", "*", True),
        ("", "e", False),
        ("local", "echo", True),
        ("*", "echo", True),
        ("other", "echo", False),
        ("local", "other", False),
    ],
)
async def test_for_whom_a_budget_holds(door: Door, principal: str, agent: str, holds: bool) -> None:
    asked = budgets(door, rule(1, principal, agent))
    async with engine_of(runner(Spend(1)), door, budgets=asked) as engine:
        await spend(engine)
        states = await engine.budgets(OWNER, "echo")
        if not holds:
            assert states == []
            await spend(engine)
            return
        [state] = states
        assert (state.principal, state.agent_name) == ("local" if principal else "", "echo" if agent else "")
        assert (state.limit, state.spent, state.currency) == (Decimal(1), Decimal(1), "ZAR")
        with pytest.raises(BudgetExceeded) as refused:
            await engine.start(draft())
    assert refused.value.subject == " with ".join(
        filter(None, ("principal local" * bool(principal), "agent echo" * bool(agent)))
    )


async def test_of_several_the_one_counts_that_lasts_longest(door: Door) -> None:
    asked = budgets(door, rule(3, period=DAY), rule(3), rule(99, "*"), rule(3, "", "echo", DAY))
    async with engine_of(runner(Spend(3)), door, budgets=asked) as engine:
        await spend(engine)
        with pytest.raises(BudgetExceeded) as refused:
            await engine.start(draft())
        states = await engine.budgets(OWNER, "")
    assert refused.value.metadata["period"] == "month"
    assert [(state.principal, state.period, state.limit) for state in states] == [
        ("local", DAY, Decimal(3)),
        ("local", MONTH, Decimal(3)),
        ("local", MONTH, Decimal(99)),
        ("", DAY, Decimal(3)),
    ]


async def test_a_model_without_a_price_is_not_run_under_a_budget(door: Door) -> None:
    script = ScriptedRunner(text("a"))
    async with engine_of(script, door, budgets=budgets(door, rule())) as engine:
        with pytest.raises(InvalidInput) as refused:
            await engine.start(draft())
        assert [violation.field for violation in refused.value.violations] == ["agent_name"]
        with pytest.raises(InvalidInput) as refused:
            await engine.start(draft(limits=Limits(max_cost=Decimal(1))))
        assert [violation.field for violation in refused.value.violations] == ["limits.max_cost"]
    assert await door.runs() == []


async def test_a_call_that_nobody_can_price_is_the_last(door: Door) -> None:
    async def forget() -> None:
        script.pricer.unit = None

    script = runner(forget, Spend(1), text("a"), Spend(1))
    async with engine_of(script, door, budgets=budgets(door, rule())) as engine:
        live = await engine.start(draft())
        last = (await watch(live))[-1]
    assert last.run_cancelled.reason == USED_UP
    assert "no known price" in last.run_cancelled.note
    assert await door.bill(live.run_id) == [1]


async def test_a_paused_run_stays_paused_when_the_budget_is_used_up(door: Door) -> None:
    script = runner(Spend(1), finish=pause("next"), next=Script(Spend(1)), spender=Script(Spend(10)))
    clock = Clock()
    async with engine_of(script, door, budgets=budgets(door, rule(), clock=clock)) as engine:
        live = await engine.start(draft())
        at = (await watch(live))[-1].sequence
        await spend(engine, "spender")
        with pytest.raises(BudgetExceeded):
            await engine.resume(going_on(live, at))
        assert (await door.run(live.run_id)).status is RunStatus.PAUSED
        clock.ahead = timedelta(days=40)
        resumed = await engine.resume(going_on(live, at))
        assert kinds(await watch(resumed, at))[-1] == "run_completed"


async def test_a_run_that_has_waited_is_asked_when_its_turn_has_come(cluster: Cluster) -> None:
    gate = asyncio.Event()
    script = runner(gate.wait, Spend(10), next=Script(text("never"), Spend(1)))
    here = await budgeted(cluster, script, rule())
    there = await budgeted(cluster, script, rule())
    first = await here.start()
    session = await here.door.session(first.session_id)
    waiting = await there.queue(session, "next")
    gate.set()
    await watch(first)
    events = await watch(waiting)
    assert kinds(events) == ["run_queued", "run_cancelled"]
    assert events[-1].run_cancelled.reason == USED_UP
    assert (await here.door.run(waiting.run_id)).status is RunStatus.CANCELLED
    assert await here.door.free(session.id)


async def test_who_has_waited_begins_although_the_ledger_cannot_be_asked(door: Door) -> None:
    gate = asyncio.Event()
    script = runner(gate.wait, Spend(1), next=Script(Spend(1), text("a")))
    async with engine_of(script, door, budgets=budgets(door, rule())) as engine:
        first = await engine.start(draft())
        session = await door.session(first.session_id)
        waiting = await engine.start(draft(session, "next", conflict=SessionConflict.QUEUE))
        door.fail("spending")
        gate.set()
        assert kinds(await watch(waiting))[-1] == "run_completed"


async def budgeted(cluster: Cluster, script: ScriptedRunner, *rules: BudgetRule, **options: Any) -> Process:
    """A process whose budgets read the ledger through its own connections."""
    process = await cluster.process(script, budgets=None)
    mine = budgets(process.door, *rules, **options)
    process.engine._budgets = mine
    return process


RUNS = 50


async def test_many_runs_overshoot_a_budget_by_one_call_each(cluster: Cluster) -> None:
    """All begin while a little is left; all have a call under way when nothing is; none makes another one."""
    under_way, gate = 0, asyncio.Event()

    async def meet() -> None:
        nonlocal under_way
        under_way += 1
        await gate.wait()

    script = runner(Spend(1, waits=meet), text("a"), Spend(1), text("b"), first=Script(Spend(9)))
    processes = [await budgeted(cluster, script, rule()) for _ in range(2)]
    await watch(await processes[0].start(message="first"))
    lives = await asyncio.gather(*(processes[number % 2].start() for number in range(RUNS)))
    await until(lambda: under_way == RUNS)
    gate.set()
    ends = [(await watch(live))[-1] for live in lives]
    assert {end.run_cancelled.reason for end in ends} == {USED_UP}
    assert [await processes[0].door.bill(live.run_id) for live in lives] == [[1]] * RUNS
    for process in processes:
        with pytest.raises(BudgetExceeded):
            await process.start()
        [state] = await process.engine.budgets(OWNER, "")
        assert state.spent == 9 + RUNS
    assert len(await processes[0].door.runs()) == 1 + RUNS


async def test_what_other_processes_spend_is_known_when_the_ledger_is_asked(cluster: Cluster) -> None:
    gate = asyncio.Event()
    script = runner(Spend(1), text("a"), gate.wait, Spend(1), spender=Script(Spend(9)))
    here, there = [await budgeted(cluster, script, rule()) for _ in range(2)]
    live = await here.start()
    await watch(await there.start(message="spender"))
    await here.engine._budgets.refresh()
    gate.set()
    assert (await watch(live))[-1].run_cancelled.reason == USED_UP
    assert await here.door.bill(live.run_id) == [1]


async def test_the_watch_finds_it_by_itself(cluster: Cluster) -> None:
    gate = asyncio.Event()
    script = runner(gate.wait, Spend(1), spender=Script(Spend(10)))
    process = await cluster.process(script)
    other = await cluster.process(script)
    watching = budgets(process.door, rule(), max_age=0.05)
    process.engine._budgets = watching
    task = asyncio.create_task(watching.run())
    live = await process.start()
    held = watching.watch(watching.held(OWNER, "echo"))
    # Neither a store that does not answer nor a defect ends it.
    for trouble in (StorageUnavailable(), ValueError("a defect")):
        reads = process.door.calls["spending"]
        process.door.traps["spending"] = partial(fail_with, trouble)
        await until(partial(asked_since, process.door, reads))
    process.door.traps.clear()
    await watch(await other.start(message="spender"))
    await until(lambda: held.used_up() is not None)
    held.close()
    gate.set()
    assert (await watch(live))[-1].run_cancelled.reason == USED_UP
    task.cancel()
    await asyncio.wait([task])


async def test_while_the_database_is_away_nothing_begins_and_what_runs_goes_on(door: Door) -> None:
    gate = asyncio.Event()
    script = runner(Spend(1), gate.wait, Spend(1), text("a"))
    async with engine_of(script, door, budgets=budgets(door, rule())) as engine:
        live = await engine.start(draft())
        await until(lambda: len(script.begun) == 1)
        door.fail("spending")
        with pytest.raises(StorageUnavailable):
            await engine.start(draft())
        gate.set()
        assert kinds(await watch(live))[-1] == "run_completed"
        door.traps.clear()
        [state] = await engine.budgets(OWNER, "")
        assert state.spent == 2
    assert len(await door.runs()) == 1


async def test_who_comes_while_the_ledger_is_read_waits_for_that(door: Door) -> None:
    async with engine_of(runner(text("a")), door, budgets=budgets(door, rule(), max_age=60)) as engine:
        gate = door.hold("spending")
        starting = [asyncio.create_task(engine.start(draft())) for _ in range(20)]
        await until(lambda: door.calls["spending"] == 1)
        gate.set()
        for start in starting:
            await watch(await start)
        await engine.start(draft())
        assert door.calls["spending"] == 1


async def test_without_budgets_the_ledger_is_not_asked(door: Door) -> None:
    async with engine_of(runner(Spend(1)), door) as engine:
        await spend(engine)
        assert await engine.budgets(OWNER, "echo") == []
    assert door.calls["spending"] == 0
