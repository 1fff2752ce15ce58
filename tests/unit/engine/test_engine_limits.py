"""What a run may spend: asked before every call, watched inside of them, and never more than one call over."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman import ids
from dragoman.engine.meter import RunMeter
from dragoman.errors import InvalidInput
from dragoman.records import Cancellation, Limits, ModelCall, RunStatus, TokenUsage, Totals, totals
from dragoman.v1 import event_pb2

from .engine_fakes import (
    OneAgent,
    Script,
    ScriptedRunner,
    Spend,
    call,
    draft,
    going_on,
    kinds,
    pause,
    text,
    tool,
    watch,
)
from .engine_processes import Cluster, Door, engine_of

TOKENS, COST = event_pb2.CANCEL_REASON_MAX_TOKENS, event_pb2.CANCEL_REASON_MAX_COST
DURATION = event_pb2.CANCEL_REASON_MAX_DURATION
FORTY = Limits(max_total_tokens=40)


def priced(*steps: object, unit: str | None = "0.5") -> ScriptedRunner:
    runner = ScriptedRunner(*steps)
    runner.pricer.unit = None if unit is None else Decimal(unit)
    return runner


@pytest.mark.parametrize(
    ("steps", "limits", "reason", "bill"),
    [
        pytest.param((Spend(20), Spend(20), text("a")), FORTY, 0, [20, 20], id="reached-by-the-last"),
        pytest.param((Spend(39), Spend(99), text("a")), FORTY, 0, [39, 99], id="passed-by-the-last"),
        pytest.param((Spend(40), text("a"), Spend(1)), FORTY, TOKENS, [40], id="reached-before-the-next"),
        pytest.param((Spend(15), Spend(50), Spend(1)), FORTY, TOKENS, [15, 50], id="passed-before-the-next"),
        pytest.param(
            (Spend(15), Spend(99, reports=(10, 25, 26), hangs=True)), FORTY, TOKENS, [15, 26], id="inside"
        ),
        pytest.param(
            (Spend(15), Spend(25, reports=(10, 25)), text("a")), FORTY, 0, [15, 25], id="reached-inside"
        ),
        pytest.param(
            (Spend(10), Spend(10), Spend(1)), Limits(max_cost=Decimal(10)), COST, [10, 10], id="cost"
        ),
        pytest.param(
            (Spend(10), Spend(99, reports=(11,), hangs=True)),
            Limits(max_cost=Decimal(10)),
            COST,
            [10, 11],
            id="cost-inside",
        ),
        pytest.param(
            (Spend(10), Spend(10), text("a")),
            Limits(max_cost=Decimal(10)),
            0,
            [10, 10],
            id="cost-of-the-last",
        ),
        pytest.param((Spend(), Spend()), Limits(max_total_tokens=0), TOKENS, [], id="nothing-at-all"),
        pytest.param((Spend(99), Spend(99)), Limits(), 0, [99, 99], id="no-limit"),
    ],
)
async def test_a_limit_ends_a_run_no_more_than_one_call_over(
    door: Door, steps: tuple[object, ...], limits: Limits, reason: int, bill: list[int]
) -> None:
    runner = priced(*steps)
    async with engine_of(runner, door) as engine:
        live = await engine.start(draft(limits=limits))
        last = (await watch(live))[-1]
    assert last.run_cancelled.reason == reason
    assert last.HasField("run_cancelled") == bool(reason)
    assert await door.bill(live.run_id) == bill
    spent = last.run_cancelled.usage if reason else last.run_completed.usage
    assert spent.output_tokens == sum(bill)
    run = await door.run(live.run_id)
    assert run.totals.amount == Decimal("0.5") * sum(bill)
    assert run.limits == limits


async def test_a_call_that_nobody_can_price_is_the_last_where_cost_is_limited(door: Door) -> None:
    # Known for the model that is configured, and not for the one that answers.
    async def forget() -> None:
        runner.pricer.unit = None

    runner = priced(forget, Spend(1), text("a"), Spend(1))
    async with engine_of(runner, door) as engine:
        live = await engine.start(draft(limits=Limits(max_cost=Decimal(10))))
        events = await watch(live)
    assert kinds(events)[-1] == "run_cancelled"
    assert events[-1].run_cancelled.reason == COST
    assert "no known price" in events[-1].run_cancelled.note
    assert await door.bill(live.run_id) == [1]


async def test_a_limit_of_cost_is_refused_for_a_model_without_a_price(door: Door) -> None:
    async with engine_of(priced(unit=None), door) as engine:
        with pytest.raises(InvalidInput) as refused:
            await engine.start(draft(limits=Limits(max_cost=Decimal(10))))
        assert [violation.field for violation in refused.value.violations] == ["limits.max_cost"]
    assert await door.runs() == []


async def test_the_lowest_of_all_limits_counts(door: Door) -> None:
    catalog = OneAgent()
    catalog.own_limits = Limits(max_total_tokens=50, max_duration=timedelta(seconds=70))
    server = Limits(max_total_tokens=60, max_cost=Decimal(5))
    async with engine_of(priced(text("a")), door, catalog=catalog, limits=server) as engine:
        live = await engine.start(draft(limits=Limits(max_total_tokens=40, max_cost=Decimal(9))))
        await watch(live)
    assert (await door.run(live.run_id)).limits == Limits(
        max_total_tokens=40, max_cost=Decimal(5), max_duration=timedelta(seconds=70)
    )


async def test_time_is_limited_and_waiting_for_a_turn_costs_none(cluster: Cluster) -> None:
    gate, forever = asyncio.Event(), asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(gate.wait, slow=Script(text("a"), forever.wait)))
    first = await here.start()
    session = await here.door.session(first.session_id)
    waiting = await there.queue(session, "slow", limits=Limits(max_duration=timedelta(milliseconds=50)))
    await asyncio.sleep(0.2)  # far longer than it may run
    assert (await here.door.run(waiting.run_id)).status is RunStatus.QUEUED
    gate.set()
    events = await watch(waiting)
    assert kinds(events)[:2] == ["run_queued", "run_started"]
    assert events[-1].run_cancelled.reason == DURATION
    assert await here.door.free(session.id)


async def test_what_was_spent_before_a_pause_counts(cluster: Cluster) -> None:
    runner = ScriptedRunner(
        Spend(30),
        finish=pause("second"),
        second=Script(Spend(5), finish=pause("third")),
        third=Script(Spend(6), tool("1"), Spend(1)),
    )
    here, there = await cluster.two(runner)
    live = await here.start(limits=FORTY)
    events = await watch(live)
    for process in (there, here):
        resumed = await process.engine.resume(going_on(live, events[-1].sequence))
        events = await watch(resumed, resumed.after_sequence)
    assert events[-1].run_cancelled.reason == TOKENS
    assert events[-1].run_cancelled.usage.output_tokens == 41
    assert await here.door.bill(live.run_id) == [5, 6, 30]


async def test_a_run_that_has_nothing_left_makes_no_call_after_its_pause(cluster: Cluster) -> None:
    runner = ScriptedRunner(Spend(40), finish=pause("next"), next=Script(Spend(1)))
    here, there = await cluster.two(runner)
    live = await here.start(limits=FORTY)
    at = (await watch(live))[-1].sequence
    resumed = await there.engine.resume(going_on(live, at))
    assert (await watch(resumed, at))[-1].run_cancelled.reason == TOKENS
    assert await here.door.bill(live.run_id) == [40]


# The meter alone


@given(
    reports=st.lists(st.tuples(st.integers(0, 2), st.integers(1, 30), st.booleans()), max_size=30),
    limit=st.integers(0, 60),
)
def test_however_calls_overlap_nothing_begins_once_the_limit_is_reached(
    reports: list[tuple[int, int, bool]], limit: int
) -> None:
    """`reports`: which of three calls under way, how many more tokens, whether it ends by that."""
    ends: list[Cancellation] = []
    booked: dict[UUID, ModelCall] = {}

    def book(made: ModelCall) -> None:
        booked[made.id] = made

    meter = RunMeter(Limits(max_total_tokens=limit), Totals(), end=ends.append, book=book)
    under_way: dict[int, ModelCall] = {}
    ended = Totals()
    for which, tokens, done in reports:
        if which not in under_way:
            reached = ended.usage.total_tokens >= limit
            allowed = meter.may_call()
            assert allowed <= (not reached)
            if not allowed:
                assert ends
                break
            under_way[which] = call(ids.new_id())
        made = under_way[which]
        made = under_way[which] = replace(
            made, usage=TokenUsage(output_tokens=made.usage.output_tokens + tokens)
        )
        meter.note(made, under_way=not done)
        if done:
            ended += totals([under_way.pop(which)], "")
        total = ended.usage.total_tokens + totals(under_way.values(), "").usage.total_tokens
        if not done and total > limit:
            assert ends
            break
    assert all(end.reason == TOKENS for end in ends)
    spent = totals(booked.values(), "").usage.total_tokens
    assert spent == ended.usage.total_tokens + totals(under_way.values(), "").usage.total_tokens
