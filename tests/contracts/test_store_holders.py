"""Holders: leases by the database's clock, ends of abandoned runs, and what processes tell each other through a run's row."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from uuid import UUID

import pytest
import sqlalchemy as sa
from support import make

from dragoman import ids
from dragoman.engine.ports import Ended, Notice, Page, Progress
from dragoman.errors import RunNotFound
from dragoman.records import Cancellation, Owner, Pause, Run, RunEnd, RunStatus, SessionConflict
from dragoman.storage import SqlStore
from dragoman.storage.tables import runs
from dragoman.v1 import event_pb2

HOLDER, OTHER = ids.new_id(), ids.new_id()
BOB = Owner("service", "bob")
LEASE = timedelta(seconds=30)
WISH = Cancellation(event_pb2.CANCEL_REASON_CALLER, "service", "enough ☂")
LATER = Cancellation(event_pb2.CANCEL_REASON_INTERRUPTED)


async def running(store: SqlStore, owner: Owner = make.ALICE) -> Run:
    session = make.session(owner)
    run = replace(make.run(session), holder=HOLDER)
    await store.start_run(run, session)
    return run


async def queued(store: SqlStore, behind: Run) -> Run:
    run = replace(make.run(replace(make.session(), id=behind.session_id)), holder=HOLDER)
    return (await store.start_run(run, None, conflict=SessionConflict.QUEUE, max_queued=9)).run


async def silence(store: SqlStore, *silent: Run) -> None:
    """Lets the leases of runs be an hour old."""
    keys = [run.id for run in silent]
    await store._database.write(
        lambda c: c.execute(
            sa.update(runs).where(runs.c.id.in_(keys)).values(lease_time=make.NOW - timedelta(days=365))
        )
    )


async def abandoned(store: SqlStore) -> set[UUID]:
    return {run.id for run in await store.abandoned_runs(LEASE, 9)}


def lapsed(run: Run, last_sequence: int = 0) -> RunEnd:
    """As another process ends it: its last event far behind those that are stored."""
    end = make.end(run, status=RunStatus.CANCELLED, first=last_sequence + 10_000, events=[b"abandoned"])
    return replace(end, lapsed=LEASE)


async def test_a_lease_runs_out_unless_it_is_renewed(store: SqlStore, peer: SqlStore) -> None:
    silent, renewed, theirs, ended = [await running(store, owner) for owner in (make.ALICE, BOB) * 2]
    waiting = await queued(store, silent)
    # The clock is the database's: when a run says that it was made does not matter.
    assert await abandoned(peer) == set()
    await store.end_run(make.end(ended))
    everyone = [silent, renewed, theirs, ended, waiting]
    await silence(store, *everyone)
    assert await abandoned(peer) == {silent.id, renewed.id, theirs.id, waiting.id}
    assert len(await peer.abandoned_runs(LEASE, 2)) == 2
    await store.renew_leases(HOLDER, [renewed.id, ended.id, ids.new_id()])
    # Only who holds a run can renew its lease.
    await store.renew_leases(OTHER, [theirs.id])
    await store.renew_leases(HOLDER, [])
    assert await abandoned(peer) == {silent.id, theirs.id, waiting.id}
    await store.renew_leases(HOLDER, [waiting.id])
    found = {run.id: run for run in await peer.abandoned_runs(LEASE, 9)}
    assert found[silent.id] == silent
    assert found.keys() == {silent.id, theirs.id}


async def test_a_lease_begins_anew_when_a_run_goes_on(store: SqlStore) -> None:
    run = await running(store)
    await silence(store, run)
    pause = Pause(b"", "", timedelta(0), make.NOW)
    await store.end_run(replace(make.end(run, status=RunStatus.PAUSED), pause=pause))
    assert await abandoned(store) == set()
    await store.continue_run(make.ALICE, run.id, after_sequence=2, holder=OTHER)
    assert await abandoned(store) == set()


async def test_an_abandoned_run_is_ended_by_one_of_many(store: SqlStore, peer: SqlStore) -> None:
    run = await running(store)
    following = await queued(store, run)
    await store.append_events([make.chunk(run, 1, b"a", b"b")])
    await silence(store, run)
    ends = [replace(lapsed(run, 2), messages=(make.message(run),)) for _ in range(10)]
    results = await asyncio.gather(*((store, peer)[place % 2].end_run(end) for place, end in enumerate(ends)))
    # The others bring the same last event, and take it for their own; but there is one end.
    assert all(result.stored for result in results)
    assert [result.next_run_id for result in results if result.next_run_id] == [following.id]
    assert len(await store.list_messages(make.ALICE, run.session_id, Page(9))) == 1
    ended = await store.get_run(make.ALICE, run.id)
    assert (ended.status, ended.last_sequence, ended.holder) == (RunStatus.CANCELLED, 10_002, None)


async def test_a_run_whose_lease_was_renewed_is_not_ended(store: SqlStore, peer: SqlStore) -> None:
    run = await running(store)
    await silence(store, run)
    [found] = await peer.abandoned_runs(LEASE, 9)
    await store.renew_leases(HOLDER, [run.id])
    end = replace(lapsed(found), messages=(make.message(run),), calls=(make.call(run),))
    assert await peer.end_run(end) == Ended(False)
    assert await store.get_run(make.ALICE, run.id) == run
    assert await store.run_calls(make.ALICE, run.id) == []
    assert (await store.get_session(make.ALICE, run.session_id)).active_run_id == run.id
    # Nor one that was paused or has ended meanwhile.
    await store.end_run(make.end(run, status=RunStatus.PAUSED))
    await silence(store, run)
    assert await peer.end_run(end) == Ended(False)
    await store.end_run(make.end(run, first=3))
    assert await peer.end_run(end) == Ended(False)
    assert (await store.get_run(make.ALICE, run.id)).status is RunStatus.COMPLETED


async def test_an_abandoned_run_of_which_nothing_is_stored_gets_its_beginning_with_its_end(
    store: SqlStore,
) -> None:
    bare, begun = await running(store), await running(store)
    await store.append_events([make.chunk(begun, 1, b"a", b"b")])
    await silence(store, bare, begun)
    for run in (bare, begun):
        # Whoever ends them has read both before anything was stored.
        end = replace(lapsed(run), opening=make.chunk(run, 1, b"started"))
        assert (await store.end_run(end)).stored
        assert (await store.end_run(end)).stored
        first = [make.chunk(run, 1, b"started")] if run is bare else [make.chunk(run, 1, b"a", b"b")]
        log = [*first, make.chunk(run, 10_000, b"abandoned")]
        assert await store.read_events(make.ALICE, run.id, 0, 2**20) == log
        assert await store.read_events(make.ALICE, run.id, 2, 2**20) == log[1:]
        ended = await store.get_run(make.ALICE, run.id)
        assert (ended.last_sequence, ended.last_event) == (10_000, b"abandoned")


async def test_a_gap_before_the_last_event_is_read_across(store: SqlStore) -> None:
    run = await running(store)
    for first in (1, 3):
        await store.append_events([make.chunk(run, first, b"a", b"b")])
    await silence(store, run)
    assert (await store.end_run(lapsed(run, 4))).stored
    last = make.chunk(run, 10_004, b"abandoned")
    whole = [make.chunk(run, 1, b"a", b"b"), make.chunk(run, 3, b"a", b"b"), last]
    expected = {0: whole, 2: whole[1:], 3: whole[1:], 4: [last], 5: [last], 10_003: [last], 10_004: []}
    for after, chunks in expected.items():
        for max_bytes in (0, 2**20):
            found = await store.read_events(make.ALICE, run.id, after, max_bytes)
            assert found == (chunks[:1] if max_bytes == 0 else chunks)
    # What its process has still to say comes too late.
    await store.append_events([make.chunk(run, 5, b"late")])
    assert await store.read_events(make.ALICE, run.id, 4, 2**20) == [last]


async def test_a_wish_to_cancel_reaches_the_holder(store: SqlStore, peer: SqlStore) -> None:
    run = await running(store)
    waiting = await queued(store, run)
    everyone = [run.id, waiting.id]
    assert await store.notices(HOLDER, everyone) == []
    assert await peer.request_cancel(make.ALICE, waiting.id, WISH) == waiting
    await peer.request_cancel(make.ALICE, waiting.id, LATER)  # the first counts
    assert await store.notices(HOLDER, everyone) == [Notice(waiting.id, RunStatus.QUEUED, WISH)]
    assert (await peer.request_cancel(make.ALICE, run.id, LATER)).status is RunStatus.RUNNING
    notices = {notice.run_id: notice for notice in await store.notices(HOLDER, everyone)}
    assert notices[run.id] == Notice(run.id, RunStatus.RUNNING, LATER)
    for owner in (BOB, Owner("other", "alice")):
        with pytest.raises(RunNotFound):
            await peer.request_cancel(owner, run.id, WISH)


@pytest.mark.parametrize("status", [RunStatus.PAUSED, RunStatus.COMPLETED])
async def test_nothing_is_wished_of_a_run_that_nobody_holds(store: SqlStore, status: RunStatus) -> None:
    run = await running(store)
    await store.end_run(make.end(run, status=status))
    found = await store.request_cancel(make.ALICE, run.id, WISH)
    assert found == await store.get_run(make.ALICE, run.id)
    assert found.status is status
    # The holder is told that it has it no more.
    assert await store.notices(HOLDER, [run.id]) == [Notice(run.id, status, None)]


async def test_a_wish_outlives_a_pause(store: SqlStore) -> None:
    run = await running(store)
    await store.request_cancel(make.ALICE, run.id, WISH)
    pause = Pause(b"", "", timedelta(0), make.NOW)
    await store.end_run(replace(make.end(run, status=RunStatus.PAUSED), pause=pause))
    assert await store.notices(HOLDER, [run.id]) == [Notice(run.id, RunStatus.PAUSED, WISH)]


async def test_holders_learn_who_has_the_turn_and_what_was_ended_elsewhere(
    store: SqlStore, peer: SqlStore
) -> None:
    run, taken, gone = await running(store), await running(store), ids.new_id()
    following, last = await queued(store, run), await queued(store, run)
    await silence(store, taken)
    await peer.end_run(lapsed(taken))
    await store.end_run(make.end(run))
    everyone = [run.id, taken.id, following.id, last.id, gone]
    notices = {notice.run_id: notice for notice in await store.notices(HOLDER, everyone)}
    assert notices == {
        run.id: Notice(run.id, RunStatus.COMPLETED, None),
        taken.id: Notice(taken.id, RunStatus.CANCELLED, None),
        following.id: Notice(following.id, RunStatus.RUNNING, None),
    }
    # Somebody else's are not its own.
    [other] = await store.notices(OTHER, [last.id])
    assert other == Notice(last.id, RunStatus.QUEUED, None)
    assert await store.notices(HOLDER, []) == []


async def test_progress_of_any_runs(store: SqlStore) -> None:
    run, theirs = await running(store), await running(store, BOB)
    await store.append_events([make.chunk(run, 1, b"a", b"b")])
    await store.end_run(make.end(theirs))
    assert await store.progress([run.id, theirs.id, ids.new_id()]) == {
        run.id: Progress(RunStatus.RUNNING, 2),
        theirs.id: Progress(RunStatus.COMPLETED, 2),
    }
    assert await store.progress([]) == {}


async def test_a_queued_run_has_a_log(store: SqlStore) -> None:
    waiting = await queued(store, await running(store))
    await store.append_events([make.chunk(waiting, 1, b"queued")])
    assert await store.progress([waiting.id]) == {waiting.id: Progress(RunStatus.QUEUED, 1)}
    end = make.end(waiting, status=RunStatus.CANCELLED, first=2, events=[b"end"])
    assert await store.end_run(end) == Ended(True)
    chunks = await store.read_events(make.ALICE, waiting.id, 0, 99)
    assert [event for chunk in chunks for event in chunk.events] == [b"queued", b"end"]


async def test_a_renewal_and_an_end_at_once_agree(store: SqlStore, peer: SqlStore) -> None:
    """Either the lease was renewed first, and the run goes on, or it has ended."""
    for _ in range(20):
        run = await running(store)
        await silence(store, run)
        _, ended = await asyncio.gather(store.renew_leases(HOLDER, [run.id]), peer.end_run(lapsed(run)))
        status = (await store.get_run(make.ALICE, run.id)).status
        assert (ended, status) in [
            (Ended(True), RunStatus.CANCELLED),
            (Ended(False), RunStatus.RUNNING),
        ]
