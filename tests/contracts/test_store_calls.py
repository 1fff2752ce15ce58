"""Model calls are booked while their run goes on, and each is in the ledger once, whoever ends the run."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Ended, Page, UsageQuery, UsageRow
from dragoman.records import (
    CallStatus,
    ModelCall,
    Owner,
    Run,
    RunCalls,
    RunStatus,
    SessionConflict,
    TokenUsage,
    totals,
)
from dragoman.storage import SqlStore
from dragoman.storage.sessions import BATCH
from dragoman.storage.tables import runs

HOLDER = ids.new_id()
LEASE = timedelta(seconds=30)


async def running(store: SqlStore) -> Run:
    session = make.session()
    run = replace(make.run(session), holder=HOLDER)
    await store.start_run(run, session)
    return run


def booked(run: Run, *calls: ModelCall) -> RunCalls:
    return RunCalls(run.id, run.session_id, run.owner, run.agent_name, "ZAR", calls)


def spent(run: Run, number: int) -> ModelCall:
    """A priced call, the later ones later."""
    price = make.cost(Decimal(number), Decimal(number * 18))
    at = run.create_time + timedelta(seconds=number)
    return replace(make.call(run, priced=price), start_time=at)


async def usage(store: SqlStore) -> UsageRow:
    [row] = await store.query_usage(make.ALICE, UsageQuery(), Page(9))
    return row


async def abandon(store: SqlStore, run: Run) -> Ended:
    """Ends it as another process does, which takes what is booked."""
    await store._database.write(
        lambda c: c.execute(
            sa.update(runs).where(runs.c.id == run.id).values(lease_time=make.NOW - LEASE * 9)
        )
    )
    known = totals(await store.run_calls(run.owner, run.id), "ZAR")
    end = make.end(run, status=RunStatus.CANCELLED, first=10_000, events=[b"abandoned"])
    return await store.end_run(replace(end, totals=known, lapsed=LEASE))


@on_one_fixture()
@given(
    usages=st.lists(make.usages, min_size=1, max_size=4),
    cost=st.none() | make.costs,
    first_token=st.none() | make.durations,
    status=st.sampled_from(CallStatus),
)
async def test_a_call_is_the_newest_that_was_booked(
    store: SqlStore,
    usages: list[TokenUsage],
    cost: None,
    first_token: timedelta | None,
    status: CallStatus,
) -> None:
    run = await running(store)
    one = replace(spent(run, 1), cost=cost, time_to_first_token=first_token, parent_run_id=ids.new_id())
    other = spent(run, 2)
    for tokens in usages:
        latest = replace(one, usage=tokens, status=status)
        await store.append_events([], [booked(run, latest, other)])
        assert await store.run_calls(make.ALICE, run.id) == [latest, other]
    assert await store.run_calls(Owner("service", "bob"), run.id) == []
    assert await store.run_calls(make.ALICE, ids.new_id()) == []


async def test_calls_and_events_of_many_runs_in_one_append(store: SqlStore) -> None:
    everyone = [await running(store) for _ in range(10)]
    calls = {run.id: [spent(run, number) for number in range(1, 4)] for run in everyone}
    for _ in range(2):
        await store.append_events(
            [make.chunk(run, 1, b"a") for run in everyone[::2]],
            [booked(run, *calls[run.id]) for run in reversed(everyone)],
        )
    for place, run in enumerate(everyone):
        assert await store.run_calls(make.ALICE, run.id) == calls[run.id]
        assert (await store.get_run(make.ALICE, run.id)).last_sequence == (place + 1) % 2
    assert (await usage(store)).model_calls == 30
    many = [spent(everyone[0], 4) for _ in range(BATCH + 3)]
    for _ in range(2):
        await store.append_events([], [booked(everyone[0], *many)])
    assert len(await store.run_calls(make.ALICE, everyone[0].id)) == BATCH + 6


@pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.COMPLETED])
async def test_calls_are_booked_only_for_runs_that_are_held(store: SqlStore, status: RunStatus) -> None:
    run, other = await running(store), await running(store)
    queued = replace(run, id=ids.new_id())
    await store.start_run(queued, None, conflict=SessionConflict.QUEUE, max_queued=1)
    await store.append_events([], [booked(queued, spent(queued, 1))])
    await store.end_run(make.end(run, status=status))
    unknown = replace(run, id=ids.new_id())
    late = [booked(run, spent(run, 1)), booked(unknown, spent(unknown, 1)), booked(other, spent(other, 1))]
    await store.append_events([make.chunk(other, 1, b"a")], late)
    assert await store.run_calls(make.ALICE, run.id) == []
    assert (await usage(store)).model_calls == 2


async def test_an_end_replaces_what_was_booked(store: SqlStore) -> None:
    run = await running(store)
    begun, over = spent(run, 1), spent(run, 2)
    await store.append_events([], [booked(run, replace(begun, status=CallStatus.INTERRUPTED))])
    end = replace(make.end(run, calls=[begun, over]), booked=True)
    for _ in range(2):
        assert await store.end_run(end) == Ended(True)
        assert await store.run_calls(make.ALICE, run.id) == [begun, over]
    row = await usage(store)
    assert (row.model_calls, row.amount) == (2, Decimal(54))


async def test_calls_of_a_run_that_goes_on_add_up(store: SqlStore) -> None:
    run = await running(store)
    first, second = spent(run, 1), spent(run, 2)
    await store.append_events([], [booked(run, first)])
    await store.end_run(replace(make.end(run, status=RunStatus.PAUSED, calls=[first]), booked=True))
    assert (await store.get_run(make.ALICE, run.id)).totals == totals([first], "ZAR")
    end = make.end(run, status=RunStatus.CANCELLED, first=3, calls=[second])
    await store.end_run(replace(end, totals=totals([first, second], "ZAR")))
    assert await store.run_calls(make.ALICE, run.id) == [first, second]


async def test_a_late_end_books_its_calls_once_and_changes_nothing_else(
    store: SqlStore, peer: SqlStore
) -> None:
    """A process that was taken for dead comes back: its run has ended, but its calls were made."""
    run = await running(store)
    known, more = spent(run, 1), spent(run, 2)
    await store.append_events([make.chunk(run, 1, b"a")], [booked(run, replace(known, usage=TokenUsage()))])
    assert await abandon(peer, run) == Ended(True)
    ended = await store.get_run(make.ALICE, run.id)
    assert ended.totals.model_calls == 1

    late = make.end(run, first=2, calls=[known, more], messages=[make.message(run)])
    late = replace(late, media=(make.medium(b"picture"),), booked=True)
    for offered in (late, late, replace(late, booked=False)):
        assert await store.end_run(offered) == Ended(False)
    corrected = totals([known, more], "ZAR")
    assert await store.get_run(make.ALICE, run.id) == replace(ended, totals=corrected)
    assert await store.run_calls(make.ALICE, run.id) == [known, more]
    row = await usage(store)
    assert (row.model_calls, row.amount, row.usage) == (2, corrected.amount, corrected.usage)
    assert await store.list_messages(make.ALICE, run.session_id, Page(9)) == []
    assert await store.get_media(make.ALICE, [late.media[0].sha256]) == {}
    # Without calls there is nothing to correct.
    empty = replace(late, calls=(), totals=totals([], "ZAR"))
    assert await store.end_run(empty) == Ended(False)
    assert (await store.get_run(make.ALICE, run.id)).totals == corrected


async def test_both_ends_at_once_book_each_call_once(store: SqlStore, peer: SqlStore) -> None:
    for _ in range(15):
        run = await running(store)
        calls = [spent(run, 1), spent(run, 2)]
        await store.append_events([], [booked(run, calls[0])])
        own = replace(make.end(run, calls=calls, messages=[make.message(run)]), booked=True)
        abandoned, ended = await asyncio.gather(abandon(peer, run), store.end_run(own))
        assert abandoned.stored is not ended.stored
        assert await store.run_calls(make.ALICE, run.id) == calls
        assert (await store.get_run(make.ALICE, run.id)).totals == totals(calls, "ZAR")
        said = await store.list_messages(make.ALICE, run.session_id, Page(9))
        assert len(said) == ended.stored
