"""Runs: a session has one at a time, an end is written once, and leases tell who is abandoned."""

import asyncio
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Page, Started, TimeKey
from dragoman.errors import RunNotFound, SessionBusy, SessionNotFound
from dragoman.records import Owner, Run, RunStatus, Totals
from dragoman.storage import SqlStore

BOB = Owner("service", "bob")


@on_one_fixture()
@given(
    names=st.tuples(make.names, make.names, make.names),
    labels=make.labels,
    times=st.tuples(make.moments, make.moments),
    totals=st.builds(
        Totals,
        usage=make.usages,
        usd=make.money,
        amount=make.money,
        currency=st.sampled_from(["", "ZAR"]),
        model_calls=st.integers(0, 2**40),
        unpriced_calls=st.integers(0, 2**40),
    ),
    inputs=make.json_objects,
    last=st.binary(max_size=3000),
)
async def test_a_run_comes_back_as_it_was(
    store: SqlStore,
    names: tuple[str, str, str],
    labels: dict[str, str],
    times: tuple[datetime, datetime],
    totals: Totals,
    inputs: dict[str, object],
    last: bytes,
) -> None:
    session = replace(make.session(), agent_name=names[0], inputs=inputs, metadata=labels, title=names[1])
    started = replace(
        make.run(session),
        model=names[1],
        provider=names[2],
        metadata=labels,
        create_time=times[0],
        update_time=times[1],
    )
    begun = await store.start_run(started, session)
    assert begun == Started(started, await store.get_session(make.ALICE, session.id))
    assert await store.get_run(make.ALICE, started.id) == started

    end = replace(make.end(started, events=[last]), totals=totals)
    await store.end_run(end)
    assert await store.get_run(make.ALICE, started.id) == replace(
        started,
        status=RunStatus.COMPLETED,
        update_time=end.end_time,
        end_time=end.end_time,
        last_sequence=1,
        totals=totals,
        last_event=last,
    )


async def test_a_run_takes_its_sessions_turn_until_it_ends(store: SqlStore) -> None:
    session = make.session()
    first, second = make.run(session), make.run(session)
    begun = await store.start_run(first, session)
    assert begun == Started(first, replace(session, active_run_id=first.id, run_count=1))
    with pytest.raises(SessionBusy) as busy:
        await store.start_run(second, None)
    assert busy.value.metadata == {"session_id": str(session.id), "run_id": str(first.id)}
    with pytest.raises(RunNotFound):
        await store.get_run(make.ALICE, second.id)

    await store.end_run(make.end(first, messages=[make.message(first), make.message(first, "assistant")]))
    freed = await store.get_session(make.ALICE, session.id)
    assert (freed.active_run_id, freed.message_count, freed.run_count) == (None, 2, 1)
    again = (await store.start_run(second, None)).session
    assert (again.active_run_id, again.message_count, again.run_count) == (second.id, 2, 2)


async def test_a_run_needs_a_session_of_its_own_agent(store: SqlStore) -> None:
    session = make.session(agent_name="example")
    await store.create_session(session)
    strangers = [
        replace(make.run(session), session_id=ids.new_id()),
        replace(make.run(session), agent_name="Example"),
        replace(make.run(session), owner=BOB),
    ]
    for run in strangers:
        with pytest.raises(SessionNotFound):
            await store.start_run(run, None)
        with pytest.raises(RunNotFound):
            await store.get_run(run.owner, run.id)
    assert (await store.get_session(make.ALICE, session.id)).run_count == 0


@pytest.mark.parametrize("new", [True, False])
async def test_starting_again_after_an_unacknowledged_commit_is_harmless(store: SqlStore, new: bool) -> None:
    session = make.session()
    if not new:
        await store.create_session(session)
    run = make.run(session)
    given_session = session if new else None
    first = await store.start_run(run, given_session)
    assert await store.start_run(run, given_session) == first
    assert len(await store.list_runs(make.ALICE, Page(10))) == 1


async def test_an_end_is_written_once(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    end = make.end(run, messages=[make.message(run)], calls=[make.call(run)], media=[make.medium(b"m")])
    await store.end_run(end)
    ended = await store.get_run(make.ALICE, run.id)
    other = replace(end, status=RunStatus.FAILED, chunk=make.chunk(run, 3, b"late"))
    for repeated in (end, other, replace(other, media=())):
        await store.end_run(repeated)
    assert await store.get_run(make.ALICE, run.id) == ended
    assert len(await store.list_messages(make.ALICE, session.id, Page(10))) == 1
    assert await store.read_events(make.ALICE, run.id, 0, 2**20) == [end.chunk]
    assert (await store.get_session(make.ALICE, session.id)).message_count == 1


async def test_a_late_end_leaves_the_next_run_its_turn(store: SqlStore) -> None:
    session = make.session()
    first, second = make.run(session), make.run(session)
    await store.start_run(first, session)
    await store.end_run(make.end(first))
    await store.start_run(second, None)
    await store.end_run(make.end(first))
    assert (await store.get_session(make.ALICE, session.id)).active_run_id == second.id


@pytest.mark.parametrize("owner", [BOB, Owner("other", "alice")])
async def test_an_end_needs_a_run_of_the_owners(store: SqlStore, owner: Owner) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    picture = make.medium(b"picture")
    for end in (make.end(run), make.end(run, media=[picture])):
        with pytest.raises(RunNotFound):
            await store.end_run(replace(end, owner=owner))
    assert await store.get_media(owner, [picture.sha256]) == {}
    assert (await store.get_run(make.ALICE, run.id)).status is RunStatus.RUNNING
    with pytest.raises(RunNotFound):
        await store.get_run(owner, run.id)
    with pytest.raises(RunNotFound):
        await store.read_events(owner, run.id, 0, 2**20)
    assert await store.list_runs(owner, Page(10)) == []


async def test_runs_are_listed_the_newest_first_by_any_filter(store: SqlStore) -> None:
    sessions = [make.session(agent_name=name) for name in ("one", "two")]
    for session in sessions:
        await store.create_session(session)
    runs: list[Run] = []
    for number in range(12):
        run = make.run(sessions[number % 2], make.NOW + timedelta(microseconds=number % 3))
        await store.start_run(run, None)
        status = (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)[number % 3]
        await store.end_run(make.end(run, status=status))
        runs.append(await store.get_run(make.ALICE, run.id))
    runs.sort(key=lambda run: (run.create_time, run.id.bytes), reverse=True)

    async def pages(**filters: object) -> list[Run]:
        found: list[Run] = []
        after: TimeKey | None = None
        while page := await store.list_runs(make.ALICE, Page(2, after), **filters):  # type: ignore[arg-type] # by case
            found += page
            after = (page[-1].create_time, page[-1].id)
        return found

    assert await pages() == runs
    assert await pages(session_id=sessions[0].id) == [r for r in runs if r.session_id == sessions[0].id]
    assert await pages(agent_name="two") == [r for r in runs if r.agent_name == "two"]
    failed = [r for r in runs if r.status is RunStatus.FAILED]
    assert await pages(status=RunStatus.FAILED) == failed
    both = [r for r in failed if r.agent_name == "one"]
    assert await pages(status=RunStatus.FAILED, agent_name="one") == both
    assert 0 < len(both) < len(failed)


async def test_one_of_many_gets_the_turn(store: SqlStore) -> None:
    session = make.session()
    await store.create_session(session)
    runs = [make.run(session) for _ in range(64)]
    results = await asyncio.gather(*(store.start_run(run, None) for run in runs), return_exceptions=True)
    won = [run for run, result in zip(runs, results, strict=True) if not isinstance(result, BaseException)]
    assert len(won) == 1
    assert all(isinstance(result, SessionBusy) for result in results if isinstance(result, BaseException))
    assert (await store.get_session(make.ALICE, session.id)).active_run_id == won[0].id
    assert [run.id for run in await store.list_runs(make.ALICE, Page(100))] == [won[0].id]


async def test_many_ends_of_one_run_are_one(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    ends = [
        make.end(run, status=status, messages=[make.message(run)], calls=[make.call(run)])
        for status in (RunStatus.COMPLETED, RunStatus.CANCELLED) * 25
    ]
    await asyncio.gather(*(store.end_run(end) for end in ends))
    messages = await store.list_messages(make.ALICE, session.id, Page(100))
    assert [message.sequence for message in messages] == [1]
    stored = await store.get_run(make.ALICE, run.id)
    assert stored.status in (RunStatus.COMPLETED, RunStatus.CANCELLED)
    assert stored.totals.model_calls == 1
