"""Calls that are priced again: the ledger, the run's totals and the messages agree, and the old figures are kept."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Ended, Page
from dragoman.records import CallStatus, Cost, Message, ModelCall, Run, RunCalls, RunStatus, totals
from dragoman.storage import Change, Chosen, LedgerRow, SqlStore
from dragoman.storage.tables import model_call_prices

LATER = make.NOW + timedelta(days=40)
MESSAGES: Page[int] = Page(1000)


def price(number: int | str, version: str = "test 1") -> Cost:
    """So many dollars, at 18 rands each."""
    usd = Decimal(number)
    return replace(
        make.cost(usd, usd * 18),
        price_version=version,
        unit_prices={"input_tokens": usd, "output_tokens": usd},
    )


def call(run: Run, number: int, cost: Cost | None) -> ModelCall:
    return replace(make.call(run, priced=cost), start_time=make.NOW + timedelta(seconds=number))


def written(call: ModelCall, run: Run) -> Message:
    """The message that a call wrote."""
    return replace(
        make.message(run, "assistant"),
        run_id=call.run_id,
        provider=call.provider,
        model=call.model,
        usage=call.usage,
        cost=call.cost,
    )


async def ended(
    store: SqlStore, costs: Sequence[Cost | None], status: RunStatus = RunStatus.COMPLETED
) -> tuple[Run, list[ModelCall]]:
    """A run with a call for each cost, and for each a message between messages of tools."""
    session = make.session()
    run = make.run(session)
    calls = [call(run, number, cost) for number, cost in enumerate(costs)]
    messages = [make.message(run)]
    for each in calls:
        messages += [written(each, run), make.message(run, "tool")]
    await store.start_run(run, session)
    await store.end_run(make.end(run, status=status, calls=calls, messages=messages))
    return run, calls


async def everything(store: SqlStore, chosen: Chosen | None = None, limit: int = 1000) -> list[LedgerRow]:
    """All that is chosen, stretch by stretch."""
    rows: list[LedgerRow] = []
    after: UUID | None = None
    while True:
        stretch = await store.scan_calls(chosen or Chosen(), after, limit)
        rows += stretch.rows
        if stretch.last is None:
            return rows
        after = stretch.last


async def changes(store: SqlStore, new: dict[UUID, Cost]) -> list[Change]:
    return [Change(row, new[row.call.id]) for row in await everything(store) if row.call.id in new]


async def kept(store: SqlStore) -> dict[UUID, list[tuple[datetime, Decimal | None]]]:
    """The dollars that were replaced, by call."""
    query = sa.select(model_call_prices).order_by(model_call_prices.c.replace_time)
    found: dict[UUID, list[tuple[datetime, Decimal | None]]] = {}
    for row in await store._database.read(lambda c: c.execute(query).all()):
        assert row.currency == "ZAR"
        assert (row.price_version is None) == (row.usd is None) == (row.unit_prices is None)
        found.setdefault(row.call_id, []).append((row.replace_time, row.usd))
    return found


async def agrees(store: SqlStore, run: Run) -> list[Decimal | None]:
    """The costs of a run's calls in dollars, once everything agrees with them."""
    calls = await store.run_calls(run.owner, run.id)
    stored = await store.get_run(run.owner, run.id)
    assert stored.totals == totals(calls, "ZAR")
    messages = await store.list_messages(run.owner, run.session_id, MESSAGES, members=True)
    assert [m.cost for m in messages if m.role == "assistant"] == [each.cost for each in calls]
    assert all(m.cost is None for m in messages if m.role != "assistant")
    return [None if each.cost is None else each.cost.usd for each in calls]


async def test_ledger_totals_and_messages_agree_and_old_figures_are_kept(store: SqlStore) -> None:
    run, (first, second, third) = await ended(store, [price(1), None, price(3)])
    other, _ = await ended(store, [price(7)])
    before = await store.get_run(run.owner, run.id)
    due = await changes(store, {first.id: price(2, "test 2"), second.id: price("0.5", "test 2")})

    replaced = await store.replace_costs(due, LATER)

    assert replaced.done == {first.id, second.id}
    assert not replaced.unended
    assert not replaced.changed
    assert await agrees(store, run) == [Decimal(2), Decimal("0.5"), Decimal(3)]
    assert (await store.run_calls(run.owner, run.id))[0] == replace(first, cost=price(2, "test 2"))
    assert await agrees(store, other) == [Decimal(7)]
    assert await kept(store) == {first.id: [(LATER, Decimal(1))], second.id: [(LATER, None)]}
    # What callers were told stays told.
    after = await store.get_run(run.owner, run.id)
    assert (after.last_event, after.update_time) == (before.last_event, before.update_time)
    assert third.id not in await kept(store)


async def test_to_do_it_again_changes_nothing(store: SqlStore) -> None:
    run, [one] = await ended(store, [price(1)])
    due = await changes(store, {one.id: price(2)})
    for _ in range(2):
        assert (await store.replace_costs(due, LATER)).done == {one.id}
    assert await kept(store) == {one.id: [(LATER, Decimal(1))]}
    again = await changes(store, {one.id: price(3)})
    await store.replace_costs(again, LATER + timedelta(days=1))
    assert await agrees(store, run) == [Decimal(3)]
    assert await kept(store) == {
        one.id: [(LATER, Decimal(1)), (LATER + timedelta(days=1), Decimal(2))],
    }


@pytest.mark.parametrize("status", [RunStatus.RUNNING, RunStatus.PAUSED])
async def test_calls_of_runs_that_have_not_ended_are_left_alone(store: SqlStore, status: RunStatus) -> None:
    session = make.session()
    run = replace(make.run(session), holder=ids.new_id())
    await store.start_run(run, session)
    one = call(run, 1, price(1))
    await store.append_events([], [RunCalls(run.id, session.id, run.owner, run.agent_name, "ZAR", (one,))])
    if status is RunStatus.PAUSED:
        await store.end_run(replace(make.end(run, status=status, calls=[one]), booked=True))
    replaced = await store.replace_costs(await changes(store, {one.id: price(2)}), LATER)
    assert not replaced.done
    assert replaced.unended == {one.id}
    assert await store.run_calls(run.owner, run.id) == [one]
    assert await kept(store) == {}


async def test_a_call_that_has_changed_meanwhile_is_left_alone(store: SqlStore) -> None:
    run, [one] = await ended(store, [price(1)])
    read = await changes(store, {one.id: price(2)})
    await store.replace_costs(await changes(store, {one.id: price(5)}), LATER)
    replaced = await store.replace_costs(read, LATER + timedelta(days=1))
    assert not replaced.done
    assert replaced.changed == {one.id}
    assert await agrees(store, run) == [Decimal(5)]


async def test_the_ledger_of_a_deleted_session_is_priced_too(store: SqlStore) -> None:
    run, [one] = await ended(store, [None])
    await store.delete_session(run.owner, run.session_id)
    replaced = await store.replace_costs(await changes(store, {one.id: price(2)}), LATER)
    assert replaced.done == {one.id}
    [row] = await everything(store)
    assert row == LedgerRow(replace(one, cost=price(2)), run.id, "ZAR")


async def test_a_call_keeps_its_currency(store: SqlStore) -> None:
    _, [one] = await ended(store, [None])
    with pytest.raises(ValueError, match="currency"):
        await store.replace_costs(await changes(store, {one.id: replace(price(2), currency="EUR")}), LATER)
    assert await kept(store) == {}


async def test_a_process_that_comes_late_may_still_book_its_calls(store: SqlStore) -> None:
    """Its run was ended as abandoned, and its calls were priced again, before it woke up."""
    session = make.session()
    run = replace(make.run(session), holder=ids.new_id())
    await store.start_run(run, session)
    begun, over = call(run, 1, price(1)), call(run, 2, price(3))
    early = replace(begun, status=CallStatus.INTERRUPTED)
    await store.append_events([], [RunCalls(run.id, session.id, run.owner, run.agent_name, "ZAR", (early,))])
    abandoned = make.end(run, status=RunStatus.CANCELLED, first=10_000, events=[b"abandoned"])
    await store.end_run(replace(abandoned, totals=totals([early], "ZAR")))
    await store.replace_costs(await changes(store, {begun.id: price(9)}), LATER)

    late = replace(make.end(run, calls=[begun, over]), booked=True)
    for _ in range(2):
        assert await store.end_run(late) == Ended(False)

    assert await store.run_calls(run.owner, run.id) == [begun, over]
    assert (await store.get_run(run.owner, run.id)).totals == totals([begun, over], "ZAR")
    assert await kept(store) == {begun.id: [(LATER, Decimal(1))]}
    # And it can be priced again.
    await store.replace_costs(await changes(store, {begun.id: price(9)}), LATER + timedelta(days=1))
    assert (await store.run_calls(run.owner, run.id))[0].cost == price(9)


async def test_a_member_gets_its_own_messages_costs(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    leader = call(run, 1, price(1))
    member = replace(call(run, 2, price(1)), run_id=ids.new_id(), parent_run_id=run.id, agent_name="member")
    silent = replace(call(run, 3, price(1)), kind="memory_model")
    messages = [replace(written(member, run), parent_run_id=run.id), written(leader, run)]
    await store.start_run(run, session)
    await store.end_run(make.end(run, calls=[leader, member, silent], messages=messages))
    await store.replace_costs(await changes(store, {member.id: price(4), silent.id: price(6)}), LATER)
    stored = await store.list_messages(run.owner, session.id, MESSAGES, members=True)
    assert [m.cost for m in stored] == [price(4), price(1)]
    assert (await store.get_run(run.owner, run.id)).totals.usd == Decimal(11)


ONE_AGENT = "example"


@pytest.mark.parametrize(
    ("chosen", "expected"),
    [
        (Chosen(), [0, 1, 2, 3, 4]),
        (Chosen(start_time=make.NOW + timedelta(seconds=2)), [2, 3, 4]),
        (Chosen(end_time=make.NOW + timedelta(seconds=2)), [0, 1]),
        (Chosen(only_unpriced=True), [1, 3]),
        (Chosen(model="other"), [4]),
        (Chosen(agent_name=ONE_AGENT, only_unpriced=True, end_time=make.NOW + timedelta(seconds=3)), [1]),
        (Chosen(agent_name="nobody"), []),
    ],
    ids=["all", "since", "until", "unpriced", "model", "several", "nobody"],
)
@pytest.mark.parametrize("limit", [1, 2, 5, 1000])
async def test_the_chosen_calls_stretch_by_stretch(
    store: SqlStore, chosen: Chosen, expected: list[int], limit: int
) -> None:
    session = make.session()
    run = make.run(session)
    calls = [call(run, number, None if number % 2 else price(number)) for number in range(5)]
    calls[4] = replace(calls[4], model="other")
    await store.start_run(run, session)
    await store.end_run(make.end(run, calls=calls))
    found = await everything(store, chosen, limit)
    assert [row.call for row in found] == [calls[number] for number in expected]
    assert all((row.root_run_id, row.currency) == (run.id, "ZAR") for row in found)


async def test_servers_may_run_meanwhile(store: SqlStore, peer: SqlStore) -> None:
    """Runs begin, are booked and end, some after they were given up, while their calls are priced again and again."""
    over = asyncio.Event()

    async def serve(number: int) -> Run:
        session = make.session()
        run = replace(make.run(session), holder=ids.new_id())
        await store.start_run(run, session)
        calls = [call(run, place, price(1)) for place in range(3)]
        for place in range(len(calls)):
            booked = RunCalls(run.id, session.id, run.owner, run.agent_name, "ZAR", tuple(calls[: place + 1]))
            await store.append_events([make.chunk(run, place + 1, b"event")], [booked])
        if number % 3 == 0:
            given_up = make.end(run, status=RunStatus.CANCELLED, first=10_000, events=[b"given up"])
            await peer.end_run(replace(given_up, totals=totals(calls, "ZAR")))
        messages = [written(each, run) for each in calls]
        await store.end_run(replace(make.end(run, first=4, calls=calls, messages=messages), booked=True))
        return run

    async def price_again() -> None:
        time = LATER
        while not over.is_set():
            for target in (price(2), price(3)):
                rows = await everything(peer)
                time += timedelta(seconds=1)
                await peer.replace_costs([Change(row, target) for row in rows[-60:]], time)

    pricing = asyncio.create_task(price_again())
    runs = [
        run for start in range(0, 24, 8) for run in await asyncio.gather(*map(serve, range(start, start + 8)))
    ]
    over.set()
    await pricing
    last = [Change(row, price(4)) for row in await everything(store)]
    replaced = await store.replace_costs(last, LATER + timedelta(days=9))
    assert replaced.done == {change.row.call.id for change in last}
    for run in runs:
        calls = await store.run_calls(run.owner, run.id)
        assert [each.cost for each in calls] == [price(4)] * 3
        stored = await store.get_run(run.owner, run.id)
        assert stored.totals == totals(calls, "ZAR")
        messages = await store.list_messages(run.owner, run.session_id, MESSAGES)
        # A run that was given up has left none.
        assert [m.cost for m in messages] in ([price(4)] * 3, [])


dollars = st.none() | st.integers(0, 3)


@on_one_fixture()
@given(
    steps=st.lists(
        st.lists(st.tuples(dollars, st.integers(1, 3)), min_size=1, max_size=4), min_size=1, max_size=3
    )
)
async def test_whatever_is_priced_again_everything_agrees(
    store: SqlStore, steps: list[list[tuple[int | None, int]]]
) -> None:
    """Runs whose calls look alike, some of which are priced again, in one batch."""
    runs = [await ended(store, [None if old is None else price(old) for old, _ in step]) for step in steps]
    new = {
        each.id: replace(price(amount), rate_date=date(2026, 5, amount))
        for (_, calls), step in zip(runs, steps, strict=True)
        for each, (old, amount) in zip(calls, step, strict=True)
        if old != 3
    }
    replaced = await store.replace_costs(await changes(store, new), LATER)
    assert replaced.done == new.keys()
    history = await kept(store)
    for (run, calls), step in zip(runs, steps, strict=True):
        expected = [Decimal(3 if old == 3 else amount) for old, amount in step]
        assert await agrees(store, run) == expected
        for each in calls:
            cost = None if each.cost is None else each.cost.usd
            assert history.get(each.id, []) == ([(LATER, cost)] if each.id in new else [])
