"""Sessions: what is stored is what is read, lists are complete and stable, and nobody sees another owner's."""

from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Page, TimeKey, UsageQuery
from dragoman.errors import InvalidInput, SessionBusy, SessionNotFound
from dragoman.records import EventChunk, Owner, RunStatus, Session
from dragoman.storage import SqlStore

STRANGERS = [
    Owner("service", "bob"),
    Owner("service", ""),
    Owner("service", "Alice"),
    Owner("service", "alice "),
    Owner("service", "älice"),
    Owner("other", "alice"),
    Owner("Service", "alice"),
    Owner("alice", "service"),
]

sessions = st.builds(
    Session,
    id=st.builds(ids.new_id),
    owner=st.builds(Owner, make.names, make.names),
    agent_name=make.names,
    title=make.names,
    metadata=make.labels,
    inputs=make.json_objects,
    create_time=make.moments,
    update_time=make.moments,
)


@on_one_fixture()
@given(session=sessions)
async def test_a_session_comes_back_as_it_was(store: SqlStore, session: Session) -> None:
    await store.create_session(session)
    read = await store.get_session(session.owner, session.id)
    assert read == session
    assert read.create_time.tzinfo is UTC
    assert list(read.inputs) == list(session.inputs)


async def test_a_session_that_is_there_already_is_left_alone(store: SqlStore) -> None:
    session = make.session()
    await store.create_session(session)
    await store.create_session(replace(session, title="a repeated attempt"))
    assert await store.get_session(make.ALICE, session.id) == session


async def test_inputs_have_a_limit(store: SqlStore) -> None:
    session = replace(make.session(), inputs={"text": "x" * 2**20})
    with pytest.raises(InvalidInput) as refused:
        await store.create_session(session)
    assert refused.value.violations[0].field == "inputs"
    with pytest.raises(InvalidInput):
        await store.start_run(make.run(session), session)
    assert await store.list_sessions(make.ALICE, "", Page(10)) == []


async def test_an_update_changes_what_it_names(store: SqlStore) -> None:
    session = replace(make.session(), title="old", metadata={"k": "v"})
    await store.create_session(session)
    titled = await store.update_session(make.ALICE, session.id, title="neu 😀", metadata=None)
    assert (titled.title, titled.metadata) == ("neu 😀", {"k": "v"})
    assert titled.update_time > session.update_time
    labelled = await store.update_session(make.ALICE, session.id, title=None, metadata={})
    assert (labelled.title, labelled.metadata) == ("neu 😀", {})
    assert await store.get_session(make.ALICE, session.id) == labelled


async def all_pages(fetch: Callable[[Page[TimeKey]], Awaitable[list[Session]]], size: int) -> list[Session]:
    found: list[Session] = []
    after: TimeKey | None = None
    while page := await fetch(Page(size, after)):
        assert len(page) <= size
        found += page
        after = (page[-1].update_time, page[-1].id)
    return found


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_pages_hold_each_session_once_the_newest_first(store: SqlStore, size: int) -> None:
    made = []
    for number in range(12):
        # Three moments for twelve sessions: ties on every page.
        time = make.NOW + timedelta(microseconds=number % 3)
        made.append(make.session(agent_name=("one", "two")[number % 2], time=time))
        await store.create_session(made[-1])
    made.sort(key=lambda session: (session.update_time, session.id.bytes), reverse=True)
    assert await all_pages(lambda page: store.list_sessions(make.ALICE, "", page), size) == made
    ones = [session for session in made if session.agent_name == "one"]
    assert await all_pages(lambda page: store.list_sessions(make.ALICE, "one", page), size) == ones
    assert await store.list_sessions(make.ALICE, "One", Page(10)) == []


async def test_a_run_moves_its_session_to_the_front(store: SqlStore) -> None:
    first, second = make.session(), make.session(time=make.NOW + timedelta(seconds=1))
    for session in (first, second):
        await store.create_session(session)
    run = make.run(first, make.NOW + timedelta(seconds=2))
    await store.start_run(run, None)
    assert [s.id for s in await store.list_sessions(make.ALICE, "", Page(9))] == [first.id, second.id]


@pytest.mark.parametrize("stranger", STRANGERS)
async def test_what_is_another_owners_is_not_there(store: SqlStore, stranger: Owner) -> None:
    session = make.session()
    run = make.run(session)
    picture = make.medium(b"picture")
    said = replace(make.message(run), media=(picture.sha256,))
    await store.start_run(run, session)
    await store.end_run(make.end(run, messages=[said], media=[picture], calls=[make.call(run)]))

    not_found: list[Awaitable[object]] = [
        store.get_session(stranger, session.id),
        store.update_session(stranger, session.id, title="mine", metadata=None),
        store.delete_session(stranger, session.id),
        store.list_messages(stranger, session.id, Page(10)),
        store.start_run(replace(make.run(session), owner=stranger), None),
    ]
    for attempt in not_found:
        with pytest.raises(SessionNotFound):
            await attempt
    assert await store.list_sessions(stranger, "", Page(10)) == []
    assert await store.load_history(stranger, session.id, None) == []
    assert await store.load_history(stranger, session.id, 5) == []
    assert await store.get_media(stranger, [picture.sha256]) == {}
    assert await store.query_usage(stranger, UsageQuery(), Page(10)) == []
    assert (await store.get_session(make.ALICE, session.id)).title == ""


async def test_a_deleted_session_is_gone_with_all_that_hung_on_it(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    large = make.message(run, parts=bytes(range(256)) * 20_000)
    await store.start_run(run, session)
    await store.append_events([EventChunk(run.id, 1, 1, (b"e",))])
    await store.end_run(make.end(run, first=2, messages=[large], calls=[make.call(run)]))
    before = await store.query_usage(make.ALICE, UsageQuery(), Page(10))

    await store.delete_session(make.ALICE, session.id)

    for gone in (
        store.get_session(make.ALICE, session.id),
        store.list_messages(make.ALICE, session.id, Page(10)),
        store.delete_session(make.ALICE, session.id),
    ):
        with pytest.raises(SessionNotFound):
            await gone
    assert await store.list_runs(make.ALICE, Page(10)) == []
    assert await store.query_usage(make.ALICE, UsageQuery(), Page(10)) == before
    assert before[0].model_calls == 1


async def test_a_session_in_use_is_not_deleted(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    with pytest.raises(SessionBusy) as busy:
        await store.delete_session(make.ALICE, session.id)
    assert busy.value.metadata == {"session_id": str(session.id), "run_id": str(run.id)}
    await store.end_run(make.end(run, status=RunStatus.FAILED))
    await store.delete_session(make.ALICE, session.id)
