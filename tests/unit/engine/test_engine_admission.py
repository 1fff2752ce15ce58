"""Places for runs: of a principal and of all together, taken once for each run and always given back."""

import asyncio
import random
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal
from functools import partial
from typing import Any, cast

import pytest

from dragoman.engine import Budgets, Engine
from dragoman.engine.ports import BudgetPeriod, BudgetRule, RunDraft, Store
from dragoman.errors import (
    BudgetExceeded,
    DragomanError,
    InvalidInput,
    SessionBusy,
    StorageUnavailable,
    TooManyRuns,
)
from dragoman.quotas import NO_QUOTAS, QuotaRule, Quotas, QuotaTable
from dragoman.records import Owner, RunStatus, SessionConflict, utcnow
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
    request,
    text,
    until,
    watch,
)
from .engine_processes import Door, engine_of

OTHER = Owner("other")


def each(limit: int, **others: int) -> QuotaTable:
    """So many runs for everybody but these."""
    return QuotaTable(
        Quotas(max_runs=limit), [QuotaRule(name, Quotas(max_runs=n)) for name, n in others.items()]
    )


def by(owner: Owner, **more: Any) -> RunDraft:
    return replace(draft(**more), owner=owner)


def free(engine: Engine) -> bool:
    return engine.active_runs == 0 and not engine.places.names()


async def test_a_principal_has_its_places_and_no_more(door: Door) -> None:
    forever = asyncio.Event()
    async with engine_of(ScriptedRunner(forever.wait), door, max_runs=4, quotas=each(2, other=9)) as engine:
        first = await engine.start(draft())
        session = await door.session(first.session_id)
        await engine.start(draft(session, conflict=SessionConflict.QUEUE))  # waiting is being here
        with pytest.raises(TooManyRuns) as refused:
            await engine.start(draft())
        assert (refused.value.subject, refused.value.metadata["limit"]) == ("principal/local", "2")
        # Users of one principal share its places.
        with pytest.raises(TooManyRuns):
            await engine.start(by(Owner("local", "ann")))
        for _ in range(2):
            await engine.start(by(OTHER))
        with pytest.raises(TooManyRuns) as refused:
            await engine.start(by(OTHER))
        assert refused.value.subject == "server"
        assert (engine.places.of("local"), engine.places.of("other")) == (2, 2)
        await engine.cancel(OWNER, first.run_id, by="local", note="")
        await engine.start(draft())
        # Credentials say otherwise.
        with pytest.raises(TooManyRuns) as refused:
            await engine.start(draft(quotas=Quotas(max_runs=1)))
        assert refused.value.metadata["limit"] == "1"
        forever.set()
        await until(lambda: free(engine))


async def test_who_saw_his_run_end_can_start_the_next(door: Door) -> None:
    async with engine_of(ScriptedRunner(text("a")), door, quotas=each(1)) as engine:
        for _ in range(20):
            live = await engine.start(draft())
            assert kinds(await watch(live))[-1] == "run_completed"
        for _ in range(20):
            await (await engine.start(draft())).wait()
        assert len(await door.runs()) == 40


async def test_of_many_at_once_as_many_as_there_are_places(door: Door) -> None:
    forever = asyncio.Event()
    async with engine_of(ScriptedRunner(forever.wait), door, quotas=each(3)) as engine:
        came = await asyncio.gather(*(engine.start(draft()) for _ in range(30)), return_exceptions=True)
        assert sum(isinstance(each, TooManyRuns) for each in came) == 27
        assert len(await door.runs()) == engine.active_runs == 3


async def test_the_same_request_is_no_other_run(door: Door) -> None:
    """Made again while it is claimed, and when it runs."""
    forever, claim = asyncio.Event(), door.hold("start_run")
    asked = draft(request=request("a"))
    async with engine_of(ScriptedRunner(forever.wait), door, quotas=each(1)) as engine:
        callers = [asyncio.create_task(engine.start(asked)) for _ in range(5)]
        await until(lambda: door.calls["start_run"] == 1)
        with pytest.raises(TooManyRuns):
            await engine.start(draft(request=request("b")))
        claim.set()
        runs = {(await caller).run_id for caller in callers}
        assert len(runs) == len(await door.runs()) == engine.active_runs == 1
        # What finds it now is for whoever asks for it: the engine has no place to look for one.
        with pytest.raises(TooManyRuns):
            await engine.start(asked)
        found = await engine.find(OWNER, request("a"))
        assert found is not None
        assert {found.run_id} == runs
        door.traps.clear()
        await engine.cancel(OWNER, found.run_id, by="local", note="")
        # It has ended, there is a place, and it is found; the place is free again.
        assert {(await engine.start(asked)).run_id} == runs
        assert free(engine)


async def test_what_came_to_no_run_gives_its_place_back(door: Door) -> None:
    forever = asyncio.Event()
    async with engine_of(ScriptedRunner(forever.wait), door, quotas=each(2)) as engine:
        live = await engine.start(draft())
        session = await door.session(live.session_id)
        door.fail("start_run")
        for _ in range(3):
            with pytest.raises(StorageUnavailable):
                await engine.start(draft())
        door.traps.clear()
        for _ in range(3):
            with pytest.raises(SessionBusy):
                await engine.start(draft(session))
        claim = door.hold("start_run")
        leaving = asyncio.create_task(engine.start(draft(session)))
        await until(lambda: engine.active_runs == 2)
        leaving.cancel()
        await asyncio.wait({leaving})
        assert engine.active_runs == 2  # it is carried through
        claim.set()
        await until(lambda: engine.active_runs == 1)


async def test_a_pause_gives_the_place_back_and_who_goes_on_needs_one(door: Door) -> None:
    forever = asyncio.Event()
    runner = ScriptedRunner(finish=pause("rest"), rest=Script(text("b")), busy=Script(forever.wait))
    async with engine_of(runner, door, quotas=each(1)) as engine:
        paused = await (await engine.start(draft())).wait()
        assert paused.status is RunStatus.PAUSED
        await until(lambda: free(engine))
        busy = await engine.start(draft(message="busy"))
        on = going_on(paused, paused.last_sequence)
        with pytest.raises(TooManyRuns):
            await engine.resume(on)
        assert (await door.run(paused.id)).status is RunStatus.PAUSED
        await engine.cancel(OWNER, busy.run_id, by="local", note="")
        assert kinds(await watch(await engine.resume(on)))[-1] == "run_completed"
        assert free(engine)


async def test_an_end_that_cannot_be_stored_keeps_its_place(door: Door) -> None:
    gate = asyncio.Event()
    async with engine_of(ScriptedRunner(gate.wait), door, quotas=each(1)) as engine:
        live = await engine.start(draft())
        door.fail("end_run")
        gate.set()
        await until(lambda: door.calls["end_run"] > 0)
        with pytest.raises(TooManyRuns):
            await engine.start(draft())
        door.traps.clear()
        assert (await live.wait()).status is RunStatus.COMPLETED
        assert free(engine)


async def test_places_whatever_happens(door: Door) -> None:
    """Runs that end, fail, pause, wait, interrupt, are cancelled and left, by callers who stay or go."""
    rng = random.Random(11)
    forever = asyncio.Event()
    runner = ScriptedRunner(
        text("a"),
        fail=Script(ValueError("a defect")),
        wait=Script(finish=pause("rest")),
        rest=Script(text("b")),
        hang=Script(forever.wait),
    )
    async with engine_of(runner, door, max_runs=12, quotas=each(5)) as engine:
        sessions = [await door.session((await engine.start(draft())).session_id) for _ in range(3)]
        await until(lambda: free(engine))

        async def one(number: int) -> None:
            owner = OWNER if number % 3 else OTHER
            asked = by(
                owner,
                session=rng.choice([None, *sessions]) if owner is OWNER else None,
                message=rng.choice(["hello", "fail", "wait", "hang"]),
                conflict=rng.choice(list(SessionConflict)),
                cancel_on_disconnect=rng.random() < 0.5,
                request=request(f"r{number // 2}") if rng.random() < 0.5 else None,
            )
            starting = asyncio.create_task(engine.start(asked))
            if rng.random() < 0.3:
                await asyncio.sleep(rng.random() / 200)
                starting.cancel()
            with suppress(DragomanError, asyncio.CancelledError):
                live = await starting
                assert engine.places.of("local") <= 5
                if asked.message == "hang":
                    await engine.cancel(owner, live.run_id, by="local", note="")
                run = await live.wait()
                if run.status is RunStatus.PAUSED:
                    await (await engine.resume(going_on(run, run.last_sequence))).wait()

        async def end_all() -> None:
            for run in await door.runs():
                if not run.status.final:
                    await engine.cancel(run.owner, run.id, by="local", note="")

        tasks = {asyncio.create_task(one(number)) for number in range(60)}
        left = tasks
        while left:
            _, left = await asyncio.wait(left, timeout=1)
            # Some wait behind a run that hangs, or that pauses, and whose caller has gone.
            await end_all()
        await asyncio.gather(*tasks)
        await until(lambda: free(engine))


# Budgets of credentials

DAY, MONTH = BudgetPeriod.DAY, BudgetPeriod.MONTH


def zone() -> str:
    """Where it is not about midnight: no test must see a day end."""
    return "UTC" if 2 <= utcnow().hour < 22 else "Asia/Tokyo"


def budgets(door: Door, *rules: BudgetRule) -> Budgets:
    return Budgets(cast("Store", door), "ZAR", rules, time_zone=zone(), max_age=0)


def spending(*steps: object, **named: Any) -> ScriptedRunner:
    """A token costs 1."""
    runner = ScriptedRunner(*steps, **named)
    runner.pricer.unit = Decimal(1)
    return runner


def spent(states: Sequence[Any]) -> list[tuple[str, BudgetPeriod, Decimal, Decimal]]:
    return [(state.principal, state.period, state.limit, state.spent) for state in states]


async def test_a_budget_of_credentials_holds_for_the_runs_they_start(door: Door) -> None:
    own = Quotas(budget_day=Decimal(10))
    script = spending(Spend(6), text("b"), Spend(8), small=Script(Spend(1)))
    async with engine_of(script, door, budgets=budgets(door)) as engine:
        # By credentials without one: nothing ends it, and it counts.
        assert kinds(await watch(await engine.start(draft(message="small"))))[-1] == "run_completed"
        ended = (await watch(await engine.start(draft(quotas=own))))[-1]
        assert ended.WhichOneof("event") == "run_completed"  # one call over, and no more
        assert spent(await engine.budgets(OWNER, "", own)) == [("local", DAY, Decimal(10), Decimal(15))]
        assert spent(await engine.budgets(OWNER, "")) == []
        with pytest.raises(BudgetExceeded) as refused:
            await engine.start(draft(quotas=own))
        assert refused.value.subject == "principal local"
        # Others of the same principal go on, and a wider budget does.
        for quotas in (NO_QUOTAS, Quotas(budget_day=Decimal(100))):
            await watch(await engine.start(draft(message="small", quotas=quotas)))
        # Another principal has spent nothing.
        await watch(await engine.start(by(OTHER, message="small", quotas=own)))
        assert free(engine)


async def test_a_run_ends_between_calls_when_the_budget_of_its_key_is_used_up(door: Door) -> None:
    own = Quotas(budget_month=Decimal(5))
    async with engine_of(spending(Spend(5), Spend(5)), door, budgets=budgets(door)) as engine:
        ended = (await watch(await engine.start(draft(quotas=own))))[-1]
        assert ended.run_cancelled.reason == event_pb2.CANCEL_REASON_BUDGET_EXCEEDED
        assert "a month for principal local" in ended.run_cancelled.note


async def test_the_same_budget_of_settings_and_of_credentials_is_one_account(door: Door) -> None:
    rule = BudgetRule("local", "", DAY, Decimal(50), zone())
    own = Quotas(budget_day=Decimal(20), budget_month=Decimal(30))
    async with engine_of(spending(Spend(7)), door, budgets=budgets(door, rule)) as engine:
        await watch(await engine.start(draft(quotas=own)))
        assert sorted(spent(await engine.budgets(OWNER, "echo", own)), key=lambda each: each[2]) == [
            ("local", DAY, Decimal(20), Decimal(7)),
            ("local", MONTH, Decimal(30), Decimal(7)),
            ("local", DAY, Decimal(50), Decimal(7)),
        ]


async def test_a_model_without_a_price_runs_under_no_budget(door: Door) -> None:
    runner = ScriptedRunner(text("a"))
    runner.pricer.unit = None
    async with engine_of(runner, door, budgets=budgets(door)) as engine:
        await watch(await engine.start(draft()))
        with pytest.raises(InvalidInput):
            await engine.start(draft(quotas=Quotas(budget_day=Decimal(1))))
        assert free(engine)


async def test_who_goes_on_is_held_to_the_budget_of_his_own_key(door: Door) -> None:
    runner = spending(Spend(5), rest=Script(Spend(5)))
    runner.script.finish = pause("rest")
    own = Quotas(budget_day=Decimal(5))
    async with engine_of(runner, door, budgets=budgets(door)) as engine:
        paused = await (await engine.start(draft())).wait()
        on = partial(going_on, paused, paused.last_sequence)
        with pytest.raises(BudgetExceeded):
            await engine.resume(on(quotas=own))
        assert (await door.run(paused.id)).status is RunStatus.PAUSED
        assert kinds(await watch(await engine.resume(on())))[-1] == "run_completed"
