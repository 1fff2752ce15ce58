"""Pauses: a paused run keeps its session's turn and all that it needs, and one of those who continue it wins."""

import asyncio
import os
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Continued, Ended, Page, RequestRecord
from dragoman.errors import RequestIdReused, RunNotFound, RunNotPaused, SessionBusy
from dragoman.records import Limits, Owner, Pause, RequestKey, Run, RunEnd, RunStatus, Session, utcnow
from dragoman.storage import SqlStore
from dragoman.storage.tables import pieces, run_pauses

HOLDER, OTHER = ids.new_id(), ids.new_id()
KEY = RequestKey("go on", bytes(32))
PAUSE = Pause(b"state", "so far", timedelta(seconds=4), make.NOW + timedelta(days=1))


def pausing(run: Run, pause: Pause = PAUSE, *, first: int = 1) -> RunEnd:
    end = make.end(run, status=RunStatus.PAUSED, first=first, events=[b"on", b"paused"])
    return replace(end, pause=pause)


async def paused(store: SqlStore, pause: Pause = PAUSE) -> tuple[Session, Run]:
    session = make.session()
    run = replace(make.run(session), holder=HOLDER)
    await store.start_run(run, session)
    assert await store.end_run(pausing(run, pause)) == Ended(True)
    return session, run


async def rows(store: SqlStore, table: sa.Table) -> list[Any]:
    return list(await store._database.read(lambda c: c.execute(sa.select(table)).all()))


@on_one_fixture()
@given(
    pause=st.builds(Pause, st.binary(max_size=3000), make.names, make.durations, make.moments),
    limits=st.builds(
        Limits,
        st.none() | make.money,
        st.none() | st.integers(0, 2**62),
        st.none() | make.durations,
    ),
)
async def test_a_pause_and_limits_come_back_as_they_were(
    store: SqlStore, pause: Pause, limits: Limits
) -> None:
    session = make.session()
    run = replace(make.run(session), holder=HOLDER, limits=limits)
    await store.start_run(run, session)
    await store.end_run(pausing(run, pause))
    stored = await store.get_run(make.ALICE, run.id)
    assert (stored.status, stored.holder, stored.limits) == (RunStatus.PAUSED, None, limits)
    continued = await store.continue_run(make.ALICE, run.id, after_sequence=2, holder=OTHER)
    assert (continued.pause, continued.run.limits) == (pause, limits)


async def test_a_paused_run_keeps_its_sessions_turn(store: SqlStore) -> None:
    session, run = await paused(store)
    assert await store.end_run(pausing(run)) == Ended(True)  # again
    stored = await store.get_run(make.ALICE, run.id)
    assert (stored.status, stored.end_time, stored.last_event) == (RunStatus.PAUSED, None, b"paused")
    assert (await store.get_session(make.ALICE, session.id)).active_run_id == run.id
    with pytest.raises(SessionBusy):
        await store.start_run(make.run(session), None)
    with pytest.raises(SessionBusy):
        await store.delete_session(make.ALICE, session.id)
    # Nobody holds it, so no lease runs out, and nothing is written to it.
    assert await store.abandoned_runs(timedelta(days=-1), 9) == []
    await store.append_events([make.chunk(run, 3, b"late")])
    assert (await store.get_run(make.ALICE, run.id)).last_sequence == 2


async def test_a_run_goes_on_where_it_was_paused(store: SqlStore, peer: SqlStore) -> None:
    session = make.session()
    run = replace(make.run(session), holder=HOLDER)
    await store.start_run(run, session)
    said = [make.message(run), make.message(run, "assistant")]
    await store.end_run(replace(pausing(run), messages=tuple(said)))
    continued = await peer.continue_run(make.ALICE, run.id, after_sequence=2, holder=OTHER, request=KEY)
    stored = await store.get_run(make.ALICE, run.id)
    assert continued == Continued(
        stored,
        2,
        await store.get_session(make.ALICE, session.id),
        PAUSE,
        tuple(message.id for message in said),
    )
    assert (stored.status, stored.holder, stored.last_event) == (RunStatus.RUNNING, OTHER, b"")
    assert await rows(store, run_pauses) == []
    assert await store.find_request(make.ALICE, KEY) == RequestRecord(KEY, session.id, run.id, 2)
    # The pause that is over is known again by who repeats it.
    assert await store.end_run(pausing(run)) == Ended(True)

    # A second pause, and the same again.
    assert await peer.end_run(pausing(run, replace(PAUSE, content="more"), first=3)) == Ended(True)
    again = await store.continue_run(make.ALICE, run.id, after_sequence=4, holder=HOLDER)
    assert again.pause == replace(PAUSE, content="more")
    last = make.end(run, first=5, events=[b"end"], messages=[make.message(run)])
    assert await store.end_run(last) == Ended(True)
    messages = await store.list_messages(make.ALICE, session.id, Page(9))
    assert [message.sequence for message in messages] == [1, 2, 3]
    chunks = await store.read_events(make.ALICE, run.id, 0, 2**20)
    assert [event for chunk in chunks for event in chunk.events] == [b"on", b"paused"] * 2 + [b"end"]


async def test_one_of_many_continues(store: SqlStore, peer: SqlStore) -> None:
    _, run = await paused(store)
    holders = [ids.new_id() for _ in range(40)]
    results = await asyncio.gather(
        *(
            (store, peer)[place % 2].continue_run(make.ALICE, run.id, after_sequence=2, holder=holder)
            for place, holder in enumerate(holders)
        ),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, Continued)]
    assert [one.pause for one in won] == [PAUSE]
    assert {str(error) for error in results if isinstance(error, RunNotPaused)} == {
        f"run {run.id} is not paused, it is running"
    }
    assert sum(isinstance(result, RunNotPaused) for result in results) == 39
    assert (await store.get_run(make.ALICE, run.id)).holder == won[0].run.holder


async def test_the_same_request_continues_once(store: SqlStore, peer: SqlStore) -> None:
    _, run = await paused(store)
    results = await asyncio.gather(
        *(
            (store, peer)[place % 2].continue_run(
                make.ALICE, run.id, after_sequence=2, holder=HOLDER, request=KEY
            )
            for place in range(20)
        )
    )
    assert sorted(result.pause is None for result in results) == [False] + [True] * 19
    assert {(result.run.id, result.after_sequence) for result in results} == {(run.id, 2)}
    with pytest.raises(RequestIdReused):
        await store.continue_run(
            make.ALICE, run.id, after_sequence=2, holder=OTHER, request=replace(KEY, digest=bytes([1] * 32))
        )
    # Also when the run has gone on, and ended.
    await store.end_run(make.end(run, first=3))
    late = await peer.continue_run(make.ALICE, run.id, after_sequence=2, holder=OTHER, request=KEY)
    assert (late.pause, late.after_sequence, late.run.status) == (None, 2, RunStatus.COMPLETED)


async def test_what_is_not_paused_there_cannot_be_continued(store: SqlStore) -> None:
    _, run = await paused(store)
    for after_sequence in (0, 1, 3):
        with pytest.raises(RunNotPaused):
            await store.continue_run(make.ALICE, run.id, after_sequence=after_sequence, holder=OTHER)
    for owner in (Owner("service", "bob"), Owner("other", "alice")):
        with pytest.raises(RunNotFound):
            await store.continue_run(owner, run.id, after_sequence=2, holder=OTHER)
    await store.end_run(make.end(run, first=3, status=RunStatus.FAILED))
    with pytest.raises(RunNotPaused, match="it is failed"):
        await store.continue_run(make.ALICE, run.id, after_sequence=4, holder=OTHER, request=KEY)
    assert await store.find_request(make.ALICE, KEY) is None


async def test_paused_runs_expire(store: SqlStore) -> None:
    soon = utcnow() - timedelta(minutes=5)
    _, second = await paused(store, replace(PAUSE, expire_time=soon + timedelta(seconds=1)))
    _, first = await paused(store, replace(PAUSE, expire_time=soon))
    await paused(store, replace(PAUSE, expire_time=utcnow() + timedelta(hours=1)))
    assert [run.id for run in await store.expired_runs(9)] == [first.id, second.id]
    assert [run.id for run in await store.expired_runs(1)] == [first.id]
    await store.continue_run(make.ALICE, first.id, after_sequence=2, holder=OTHER)
    await store.end_run(make.end(second, first=3))
    assert await store.expired_runs(9) == []


@pytest.mark.parametrize("status", [RunStatus.CANCELLED, RunStatus.FAILED])
async def test_a_paused_run_can_end(store: SqlStore, status: RunStatus) -> None:
    session, run = await paused(store, replace(PAUSE, continuation=os.urandom(3_000_000)))
    assert len(await rows(store, pieces)) > 1
    end = replace(make.end(run, status=status, first=3, events=[b"end"]), only_paused=True)
    assert await store.end_run(end) == Ended(True)
    assert await store.end_run(end) == Ended(True)
    stored = await store.get_run(make.ALICE, run.id)
    assert (stored.status, stored.last_sequence, stored.last_event) == (status, 3, b"end")
    assert await rows(store, run_pauses) == await rows(store, pieces) == []
    assert (await store.get_session(make.ALICE, session.id)).active_run_id is None
    await store.delete_session(make.ALICE, session.id)


async def test_an_end_for_a_paused_run_alone_leaves_others_alone(store: SqlStore) -> None:
    session, run = await paused(store)
    end = replace(make.end(run, status=RunStatus.CANCELLED, first=3, events=[b"expired"]), only_paused=True)
    stale = replace(end, chunk=make.chunk(run, 2, b"one", b"expired"))
    assert await store.end_run(stale) == Ended(False)
    await store.continue_run(make.ALICE, run.id, after_sequence=2, holder=OTHER)
    assert await store.end_run(end) == Ended(False)
    assert (await store.get_run(make.ALICE, run.id)).status is RunStatus.RUNNING
    # Paused once more, but not where it was seen.
    await store.end_run(pausing(run, first=3))
    assert await store.end_run(end) == Ended(False)
    assert (await store.get_session(make.ALICE, session.id)).active_run_id == run.id


async def test_an_end_and_a_continuation_at_once_are_one_of_both(store: SqlStore, peer: SqlStore) -> None:
    for _ in range(20):
        _, run = await paused(store)
        end = replace(make.end(run, status=RunStatus.CANCELLED, first=3, events=[b"x"]), only_paused=True)
        continued, ended = await asyncio.gather(
            peer.continue_run(make.ALICE, run.id, after_sequence=2, holder=OTHER),
            store.end_run(end),
            return_exceptions=True,
        )
        status = (await store.get_run(make.ALICE, run.id)).status
        if isinstance(continued, Continued):
            assert (ended, status) == (Ended(False), RunStatus.RUNNING)
        else:
            assert isinstance(continued, RunNotPaused)
            assert (ended, status) == (Ended(True), RunStatus.CANCELLED)


async def test_large_pauses(store: SqlStore, peer: SqlStore) -> None:
    pause = replace(PAUSE, continuation=os.urandom(5_000_000), content=os.urandom(3_000_000).hex())
    session, run = await paused(store, pause)
    assert (await peer.continue_run(make.ALICE, run.id, after_sequence=2, holder=OTHER)).pause == pause
    assert await rows(store, pieces) == []
    await store.end_run(make.end(run, first=3))
    await store.delete_session(make.ALICE, session.id)


async def test_two_calls_of_one_process_do_not_take_each_other_for_themselves(store: SqlStore) -> None:
    """Also when the first attempt of one came to nothing: what tells them apart is not the holder alone."""
    _, run = await paused(store)
    transact = store._database._writes.transact
    failed = asyncio.Event()
    loop = asyncio.get_running_loop()

    def failing(work: Any) -> Any:
        """The first attempt is made, and taken back."""
        store._database._writes.transact = transact  # type: ignore[method-assign] # once is enough
        with store._database._writes.engine.connect() as connection:
            transaction = connection.begin()
            work(connection)
            transaction.rollback()
        loop.call_soon_threadsafe(failed.set)
        raise sa.exc.OperationalError("COMMIT", {}, _Busy(1213, "deadlock"))

    store._database._writes.transact = failing  # type: ignore[method-assign] # as above
    first = asyncio.create_task(store.continue_run(make.ALICE, run.id, after_sequence=2, holder=HOLDER))
    await failed.wait()
    results = await asyncio.gather(
        first,
        store.continue_run(make.ALICE, run.id, after_sequence=2, holder=HOLDER),
        return_exceptions=True,
    )
    assert sorted(isinstance(result, Continued) for result in results) == [False, True]
    assert sum(isinstance(result, RunNotPaused) for result in results) == 1


class _Busy(Exception):
    """As a driver says that a transaction is to be made again."""
