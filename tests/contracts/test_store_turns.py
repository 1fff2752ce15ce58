"""Turns: one run at a time in a session, the others in order, and nobody comes in between."""

import asyncio
import random
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Ended, Page, Started
from dragoman.errors import SessionBusy, SessionNotFound, TooManyRuns
from dragoman.records import Cancellation, Run, RunStatus, Session, SessionConflict
from dragoman.storage import SqlStore
from dragoman.v1 import event_pb2

HOLDER = ids.new_id()
WISH = Cancellation(event_pb2.CANCEL_REASON_CALLER, "service", "enough")
INTERRUPTED = Cancellation(event_pb2.CANCEL_REASON_INTERRUPTED)


def held(session: Session) -> Run:
    return replace(make.run(session), holder=HOLDER)


async def busy(store: SqlStore) -> tuple[Session, Run]:
    """A session whose turn a run has."""
    session = make.session()
    run = held(session)
    await store.start_run(run, session)
    return session, run


async def queue(store: SqlStore, session: Session) -> Run:
    started = await store.start_run(held(session), None, conflict=SessionConflict.QUEUE, max_queued=100)
    assert started.run.status is RunStatus.QUEUED
    return started.run


async def turn(store: SqlStore, session: Session) -> UUID | None:
    return (await store.get_session(make.ALICE, session.id)).active_run_id


async def wishes(store: SqlStore, *runs: Run) -> dict[UUID, Cancellation]:
    found = await store.notices(HOLDER, [run.id for run in runs])
    return {notice.run_id: notice.cancellation for notice in found if notice.cancellation is not None}


@pytest.mark.parametrize("conflict", list(SessionConflict))
@pytest.mark.parametrize("new", [True, False], ids=["new session", "free session"])
async def test_a_free_session_is_taken_at_once(store: SqlStore, conflict: SessionConflict, new: bool) -> None:
    session = make.session()
    if not new:
        await store.create_session(session)
    # The store says how a run begins, not the caller.
    run = replace(held(session), status=RunStatus.QUEUED)
    started = await store.start_run(run, session if new else None, conflict=conflict)
    taken = replace(session, active_run_id=run.id, run_count=1)
    assert started == Started(replace(run, status=RunStatus.RUNNING), taken)
    assert await store.get_run(make.ALICE, run.id) == started.run


async def test_runs_get_their_turn_in_the_order_in_which_they_came(store: SqlStore, peer: SqlStore) -> None:
    session, run = await busy(store)
    waiting = []
    for place in range(1, 7):
        other = held(session)
        started = await (store, peer)[place % 2].start_run(
            other, None, conflict=SessionConflict.QUEUE, max_queued=6
        )
        assert (started.run, started.position) == (replace(other, status=RunStatus.QUEUED), place)
        assert await store.get_run(make.ALICE, other.id) == started.run
        waiting.append(other)
    assert await turn(peer, session) == run.id
    for place, following in enumerate(waiting):
        assert await (store, peer)[place % 2].end_run(make.end(run)) == Ended(True, following.id)
        run = following
        assert await turn(peer, session) == run.id
        assert (await store.get_run(make.ALICE, run.id)).status is RunStatus.RUNNING
        statuses = await peer.progress([later.id for later in waiting[place + 1 :]])
        assert {progress.status for progress in statuses.values()} <= {RunStatus.QUEUED}
    assert await store.end_run(make.end(run)) == Ended(True)
    assert await turn(store, session) is None


async def test_many_who_come_at_once_stand_in_one_queue(store: SqlStore, peer: SqlStore) -> None:
    session, run = await busy(store)
    started = await asyncio.gather(
        *(
            (store, peer)[place % 2].start_run(
                held(session), None, conflict=SessionConflict.QUEUE, max_queued=30
            )
            for place in range(30)
        )
    )
    assert sorted(one.position for one in started) == list(range(1, 31))
    for one in sorted(started, key=lambda one: one.position):
        assert (await store.end_run(make.end(run))).next_run_id == one.run.id
        run = one.run


async def test_a_queue_is_bounded(store: SqlStore) -> None:
    session, run = await busy(store)
    for _ in range(2):
        await queue(store, session)
    with pytest.raises(TooManyRuns) as refused:
        await store.start_run(held(session), None, conflict=SessionConflict.QUEUE, max_queued=2)
    assert refused.value.subject == f"session/{session.id}"
    assert refused.value.metadata["limit"] == "2"
    assert (await store.get_session(make.ALICE, session.id)).run_count == 3
    # Who interrupts does not wait behind them.
    await store.start_run(held(session), None, conflict=SessionConflict.INTERRUPT, max_queued=2)
    assert await turn(store, session) == run.id


async def test_nobody_overtakes_when_the_turn_is_handed_over(store: SqlStore, peer: SqlStore) -> None:
    session, run = await busy(store)
    waiting = [await queue(store, session) for _ in range(10)]
    over = asyncio.Event()
    tried = 0

    async def push() -> None:
        nonlocal tried
        while not over.is_set():
            with pytest.raises(SessionBusy):
                await peer.start_run(held(session), None)
            tried += 1

    pushers = [asyncio.create_task(push()) for _ in range(4)]
    for following in waiting:
        goal = tried + 4
        ending = asyncio.create_task(store.end_run(make.end(run)))
        while tried < goal and not any(pusher.done() for pusher in pushers):
            await asyncio.sleep(0.001)
        assert await ending == Ended(True, following.id)
        run = following
    over.set()
    await asyncio.gather(*pushers)
    assert len(await store.list_runs(make.ALICE, Page(100))) == 11


async def test_who_interrupts_asks_all_to_end_and_comes_next(store: SqlStore) -> None:
    session, active = await busy(store)
    first, second = await queue(store, session), await queue(store, session)
    await store.request_cancel(make.ALICE, second.id, WISH)
    run = held(session)
    started = await store.start_run(run, None, conflict=SessionConflict.INTERRUPT)
    assert (started.run.status, started.position) == (RunStatus.QUEUED, 1)
    assert {other.id for other in started.interrupted} == {active.id, first.id, second.id}
    # The first wish counts.
    asked = {active.id: INTERRUPTED, first.id: INTERRUPTED, second.id: WISH}
    assert await wishes(store, active, first, second, run) == asked
    # One that waits ends without having had the turn, and leaves it where it is.
    assert await store.end_run(make.end(first, status=RunStatus.CANCELLED)) == Ended(True)
    assert await turn(store, session) == active.id
    assert (await store.end_run(make.end(active, status=RunStatus.CANCELLED))).next_run_id == run.id
    assert await store.end_run(make.end(second, status=RunStatus.CANCELLED)) == Ended(True)
    assert await turn(store, session) == run.id


async def test_a_paused_run_that_is_interrupted_is_for_the_caller_to_end(store: SqlStore) -> None:
    session, paused = await busy(store)
    await store.end_run(make.end(paused, status=RunStatus.PAUSED))
    started = await store.start_run(held(session), None, conflict=SessionConflict.INTERRUPT)
    [interrupted] = started.interrupted
    assert (interrupted.id, interrupted.status) == (paused.id, RunStatus.PAUSED)
    assert started.run.status is RunStatus.QUEUED
    assert (await wishes(store, paused)) == {}
    end = replace(make.end(paused, status=RunStatus.CANCELLED, first=3), only_paused=True)
    assert await store.end_run(end) == Ended(True, started.run.id)


async def test_a_turn_is_not_given_to_one_that_is_to_end(store: SqlStore) -> None:
    session, run = await busy(store)
    first, second = await queue(store, session), await queue(store, session)
    await store.request_cancel(make.ALICE, first.id, WISH)
    third = await store.start_run(held(session), None, conflict=SessionConflict.QUEUE, max_queued=2)
    assert third.position == 2
    assert (await store.end_run(make.end(run))).next_run_id == second.id
    # And one that is asked just after it has got it hands it on.
    await store.request_cancel(make.ALICE, second.id, WISH)
    ended = await store.end_run(make.end(second, status=RunStatus.CANCELLED))
    assert ended.next_run_id == third.run.id
    assert await store.end_run(make.end(third.run)) == Ended(True)
    assert await turn(store, session) is None
    assert (await store.start_run(held(session), None)).run.status is RunStatus.RUNNING
    assert (await store.end_run(make.end(first, status=RunStatus.CANCELLED))) == Ended(True)


async def test_a_session_with_a_run_that_waits_cannot_be_deleted(store: SqlStore) -> None:
    session, run = await busy(store)
    waiting = await queue(store, session)
    await store.request_cancel(make.ALICE, waiting.id, WISH)
    await store.end_run(make.end(run))
    assert await turn(store, session) is None
    with pytest.raises(SessionBusy) as refused:
        await store.delete_session(make.ALICE, session.id)
    assert refused.value.metadata["run_id"] == str(waiting.id)
    await store.end_run(make.end(waiting, status=RunStatus.CANCELLED))
    await store.delete_session(make.ALICE, session.id)
    with pytest.raises(SessionNotFound):
        await store.get_session(make.ALICE, session.id)


@on_one_fixture()
@given(
    steps=st.lists(st.sampled_from(["queue", "reject", "interrupt", "cancel", "end", "drop"]), max_size=25),
    seed=st.integers(0, 2**16),
)
async def test_the_queue_is_as_a_list_would_have_it(store: SqlStore, steps: list[str], seed: int) -> None:
    """Whatever comes and goes: the turn is the first one's that is not asked to end, and none is lost."""
    choice = random.Random(seed)
    session = make.session()
    await store.create_session(session)
    active: Run | None = None
    waiting: list[Run] = []  # not asked to end
    asked: list[Run] = []  # asked before they had the turn
    conflicts = {"queue": SessionConflict.QUEUE, "interrupt": SessionConflict.INTERRUPT}
    for step in steps:
        if step in ("queue", "reject", "interrupt"):
            run = held(session)
            starting = store.start_run(
                run, None, conflict=conflicts.get(step, SessionConflict.REJECT), max_queued=3
            )
            refusal = {"reject": SessionBusy, "queue": TooManyRuns if len(waiting) >= 3 else None}.get(step)
            if active is not None and refusal is not None:
                with pytest.raises(refusal):
                    await starting
                continue
            started = await starting
            if active is None:
                active = run
                assert started.run.status is RunStatus.RUNNING
                continue
            if step == "interrupt":
                asked += waiting
                waiting.clear()
            waiting.append(run)
            assert (started.run.status, started.position) == (RunStatus.QUEUED, len(waiting))
        elif step == "cancel" and waiting:
            run = waiting.pop(choice.randrange(len(waiting)))
            await store.request_cancel(make.ALICE, run.id, WISH)
            asked.append(run)
        elif step == "drop" and asked:
            run = asked.pop(choice.randrange(len(asked)))
            assert await store.end_run(make.end(run, status=RunStatus.CANCELLED)) == Ended(True)
        elif step == "end" and active is not None:
            ended = await store.end_run(make.end(active))
            active = waiting.pop(0) if waiting else None
            assert ended == Ended(True, active.id if active else None)
        assert await turn(store, session) == (active.id if active else None)
    everyone = [*asked, *waiting, *([active] if active else [])]
    found = await store.progress([run.id for run in everyone])
    assert {key for key, value in found.items() if value.status is RunStatus.QUEUED} == {
        run.id for run in [*asked, *waiting]
    }
