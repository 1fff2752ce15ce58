"""Request ids: the same request is done once, however often, wherever and whenever it is made."""

import asyncio
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest
import sqlalchemy as sa
from support import make

from dragoman import ids
from dragoman.engine.ports import Page, RequestRecord, Started
from dragoman.errors import RequestIdReused, SessionBusy
from dragoman.records import Owner, RequestKey, Run, RunStatus, Session, SessionConflict
from dragoman.storage import SqlStore
from dragoman.storage.tables import requests

KEY = RequestKey("request 1 ", bytes(range(32)))
OTHER = replace(KEY, digest=bytes(32))


async def kept(store: SqlStore) -> list[str]:
    """The ids of all requests that are known."""
    return list(
        await store._database.read(lambda c: c.execute(sa.select(requests.c.request_id)).scalars().all())
    )


@pytest.mark.parametrize("new", [True, False], ids=["new session", "session that is there"])
@pytest.mark.parametrize("conflict", list(SessionConflict))
async def test_fifty_duplicates_through_two_processes_are_one_run(
    store: SqlStore, peer: SqlStore, new: bool, conflict: SessionConflict
) -> None:
    there = make.session()
    if not new:
        await store.create_session(there)

    async def start(place: int) -> Started:
        session = make.session() if new else there
        return await (store, peer)[place % 2].start_run(
            make.run(session), session if new else None, conflict=conflict, max_queued=9, request=KEY
        )

    started = await asyncio.gather(*(start(place) for place in range(50)))
    assert Counter(one.created for one in started) == {True: 1, False: 49}
    [run] = await store.list_runs(make.ALICE, Page(100))
    [session] = await store.list_sessions(make.ALICE, "", Page(100))
    assert {one.run.id for one in started} == {run.id}
    assert {one.session.id for one in started} == {run.session_id} == {session.id}
    assert {one.run.status for one in started} == {RunStatus.RUNNING}
    assert (session.run_count, session.active_run_id) == (1, run.id)
    assert await peer.find_request(make.ALICE, KEY) == RequestRecord(KEY, run.session_id, run.id, 0)


async def test_a_request_is_found_whatever_has_become_of_its_run(store: SqlStore) -> None:
    session = make.session()
    first = await store.start_run(make.run(session), session, request=KEY)
    waiting = [RequestKey(f"waits {number}", bytes(32)) for number in range(2)]
    for key in waiting:
        await store.start_run(
            make.run(session), None, conflict=SessionConflict.QUEUE, max_queued=2, request=key
        )
    again = await store.start_run(make.run(session), None, request=KEY)
    assert (again.run, again.created, again.position) == (first.run, False, 0)
    for place, key in enumerate(waiting, 1):
        # Before the queue could be too long, and the session busy.
        queued = await store.start_run(make.run(session), None, request=key)
        assert (queued.created, queued.position, queued.run.status) == (False, place, RunStatus.QUEUED)
    await store.end_run(make.end(first.run))
    ended = await store.start_run(make.run(session), None, request=KEY)
    assert (ended.created, ended.run.status) == (False, RunStatus.COMPLETED)
    assert (await store.get_session(make.ALICE, session.id)).run_count == 3


async def test_the_same_id_for_something_else_is_refused(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session, request=KEY)
    for attempt in (
        store.start_run(make.run(session), None, request=OTHER),
        store.create_session(make.session(), OTHER),
        store.find_request(make.ALICE, OTHER),
    ):
        with pytest.raises(RequestIdReused) as refused:
            await attempt
        assert refused.value.metadata == {"request_id": KEY.id}
    assert [one.id for one in await store.list_runs(make.ALICE, Page(9))] == [run.id]
    assert len(await store.list_sessions(make.ALICE, "", Page(9))) == 1


@pytest.mark.parametrize(
    "owner", [Owner("service", "bob"), Owner("other", "alice")], ids=["user", "principal"]
)
async def test_request_ids_are_each_owners_own(store: SqlStore, owner: Owner) -> None:
    mine = await store.create_session(make.session(), KEY)
    assert await store.find_request(owner, OTHER) is None
    theirs = await store.create_session(make.session(owner), OTHER)
    assert theirs.id != mine.id
    # An id is compared byte by byte.
    for near in ("request 1", "REQUEST 1 ", "request 1  "):
        assert await store.find_request(make.ALICE, replace(KEY, id=near)) is None


async def test_a_session_is_made_once(store: SqlStore, peer: SqlStore) -> None:
    wanted = [make.session() for _ in range(50)]
    made = await asyncio.gather(
        *((store, peer)[place % 2].create_session(session, KEY) for place, session in enumerate(wanted))
    )
    [session] = await store.list_sessions(make.ALICE, "", Page(100))
    assert made == [session] * 50
    assert await store.find_request(make.ALICE, KEY) == RequestRecord(KEY, session.id, None, 0)


async def test_what_was_refused_is_not_noted(store: SqlStore) -> None:
    session = make.session()
    first = make.run(session)
    await store.start_run(first, session)
    with pytest.raises(SessionBusy):
        await store.start_run(make.run(session), None, request=KEY)
    assert await store.find_request(make.ALICE, KEY) is None
    await store.end_run(make.end(first))
    assert (await store.start_run(make.run(session), None, request=KEY)).created


async def test_requests_go_with_their_session(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.create_session(session, RequestKey("session", bytes(32)))
    await store.start_run(run, None, request=KEY)
    await store.create_session(make.session(), RequestKey("other", bytes(32)))
    await store.end_run(make.end(run))
    await store.delete_session(make.ALICE, session.id)
    assert await kept(store) == ["other"]
    assert (await store.start_run(make.run(session), session, request=OTHER)).created


async def test_old_requests_are_forgotten_in_bounded_steps(store: SqlStore) -> None:
    sessions: list[Session] = []
    for age in range(10):
        time = make.NOW + timedelta(hours=age)
        sessions.append(replace(make.session(time=time)))
        await store.create_session(sessions[-1], RequestKey(f"{age}", bytes(32)))
    before = make.NOW + timedelta(hours=7)
    assert [await store.trim_requests(before, 3) for _ in range(4)] == [3, 3, 1, 0]
    assert sorted(await kept(store)) == ["7", "8", "9"]
    # The id may be used again.
    assert (await store.create_session(make.session(), RequestKey("0", bytes(32)))) not in sessions


async def test_a_run_without_a_request_can_be_queued_beside_one(store: SqlStore) -> None:
    session = make.session()
    await store.start_run(make.run(session), session, request=KEY)
    run: Run = make.run(session)
    started = await store.start_run(run, None, conflict=SessionConflict.QUEUE, max_queued=1)
    assert (started.created, started.run.id) == (True, run.id)
    assert await kept(store) == [KEY.id]
    assert await store.find_request(make.ALICE, RequestKey(str(ids.new_id()), KEY.digest)) is None
