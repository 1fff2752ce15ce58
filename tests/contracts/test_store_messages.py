"""Messages and media: byte for byte, in order, the last runs only, each medium once."""

import asyncio
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.engine.ports import Page
from dragoman.records import Media, Message, Owner, Run, RunStatus, Session
from dragoman.storage import SqlStore

BOB = Owner("service", "bob")

messages = st.builds(
    Message,
    id=st.builds(ids.new_id),
    run_id=st.builds(ids.new_id),
    parent_run_id=st.none() | st.builds(ids.new_id),
    agent_name=make.names,
    role=st.sampled_from(["user", "assistant", "tool"]),
    provider=make.names,
    model=make.names,
    parts=st.binary(max_size=3000) | st.binary(max_size=30).map(lambda part: part * 1000),
    create_time=make.moments,
    media=st.lists(st.sampled_from([bytes([n]) * 32 for n in range(3)]), max_size=4).map(tuple),
    usage=st.none() | make.usages,
    cost=st.none() | make.costs,
)


async def ended(store: SqlStore, session: Session, *said: bytes, new: bool = False) -> Run:
    """A run that has left the messages."""
    run = make.run(session)
    await store.start_run(run, session if new else None)
    await store.end_run(make.end(run, messages=[make.message(run, parts=parts) for parts in said]))
    return run


@on_one_fixture()
@given(written=st.lists(messages, min_size=1, max_size=6))
async def test_messages_come_back_as_they_were(store: SqlStore, written: list[Message]) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    await store.end_run(make.end(run, messages=written))
    numbered = [replace(message, sequence=place) for place, message in enumerate(written, 1)]
    read = await store.list_messages(make.ALICE, session.id, Page(100), members=True)
    assert read == numbered
    own = [message for message in numbered if message.parent_run_id is None]
    assert await store.list_messages(make.ALICE, session.id, Page(100)) == own
    said = [replace(message, usage=None, cost=None) for message in own]
    assert await store.load_history(make.ALICE, session.id, None) == said
    assert await store.load_history(make.ALICE, session.id, 1) == said


async def test_pages_of_messages_in_both_directions(store: SqlStore) -> None:
    session = make.session()
    await store.create_session(session)
    runs = []
    member = ids.new_id()
    for _ in range(3):
        run = make.run(session)
        await store.start_run(run, None)
        said = [make.message(run), make.member_message(run, member), make.message(run, "assistant")]
        await store.end_run(make.end(run, messages=said))
        runs.append(run)

    async def pages(size: int, newest_first: bool, run: Run | None, members: bool) -> list[int]:
        found: list[int] = []
        while page := await store.list_messages(
            make.ALICE,
            session.id,
            Page(size, found[-1] if found else None),
            run_id=None if run is None else run.id,
            newest_first=newest_first,
            members=members,
        ):
            assert len(page) <= size
            found += [message.sequence for message in page]
        return found

    for size in (1, 2, 4, 100):
        assert await pages(size, False, None, True) == list(range(1, 10))
        assert await pages(size, True, None, True) == list(range(9, 0, -1))
        assert await pages(size, False, None, False) == [1, 3, 4, 6, 7, 9]
        assert await pages(size, True, runs[1], True) == [6, 5, 4]
        assert await pages(size, False, runs[1], False) == [4, 6]


@pytest.mark.parametrize(
    ("last", "expected"),
    [(0, []), (1, [b"5"]), (2, [b"3", b"4", b"5"]), (3, [b"1", b"2", b"3", b"4", b"5"]), (None, 5), (99, 5)],
)
async def test_history_is_that_of_the_last_runs(
    store: SqlStore, last: int | None, expected: list[bytes] | int
) -> None:
    session = make.session()
    await store.create_session(session)
    for said in ([b"1", b"2"], [b"3", b"4"], [], [b"5"], []):
        await ended(store, session, *said)
    other = make.session()
    await ended(store, other, b"not this one", new=True)
    history = [message.parts for message in await store.load_history(make.ALICE, session.id, last)]
    assert history == (expected if isinstance(expected, list) else [b"1", b"2", b"3", b"4", b"5"])


@pytest.mark.parametrize(
    ("names", "each", "last", "expected"),
    [
        (["ann", "bob"], 1, 99, [b"bob 1", b"ann 2", b"more 2"]),
        (["ann"], 2, 99, [b"ann 1", b"more 1", b"ann 2", b"more 2"]),
        (["bob"], 9, 99, [b"bob 0", b"bob 1"]),
        (["ann", "bob"], 9, 1, []),
        (["ann", "bob"], 9, 2, [b"ann 2", b"more 2"]),
        (["ann", "bob"], 9, 3, [b"ann 1", b"more 1", b"bob 1", b"ann 2", b"more 2"]),
        (["cy"], 9, 99, []),
        (["lead"], 9, 99, []),
        ([], 9, 99, []),
    ],
    ids=[
        "each one's last",
        "the last two",
        "all",
        "no run",
        "one run",
        "two runs",
        "nested",
        "own",
        "nobody",
    ],
)
async def test_a_members_history_is_that_of_its_last_runs(
    store: SqlStore, names: list[str], each: int, last: int, expected: list[bytes]
) -> None:
    """What its leader asked of it, in the session's last runs; not what a team within the team did."""
    session = make.session()
    other = make.session()
    for number, (of, members) in enumerate(
        [
            (session, ["ann", "bob"]),
            (session, ["ann", "bob"]),
            (session, ["ann"]),
            (session, []),
            (other, ["ann"]),
        ]
    ):
        run = make.run(of)
        await store.start_run(run, of if number in (0, 4) else None)
        said = [replace(make.message(run, parts=b"own"), agent_name="lead")]
        for name in members:
            member = make.member_message(run, ids.new_id())
            said.append(replace(member, agent_name=name, parts=f"{name} {number}".encode()))
            said.append(
                replace(
                    said[-1],
                    id=ids.new_id(),
                    run_id=ids.new_id(),
                    parent_run_id=member.run_id,
                    agent_name="cy",
                )
            )
            if name == "ann":
                said.append(replace(said[-2], id=ids.new_id(), parts=f"more {number}".encode(), usage=None))
        await store.end_run(make.end(run, messages=said))
    found = await store.load_member_history(make.ALICE, session.id, names, each, last)
    assert [message.parts for message in found] == expected
    assert await store.load_member_history(BOB, session.id, names, each, last) == []


async def test_a_running_run_has_no_history_yet(store: SqlStore) -> None:
    session = make.session()
    await ended(store, session, b"before", new=True)
    await store.start_run(make.run(session), None)
    assert [m.parts for m in await store.load_history(make.ALICE, session.id, 1)] == [b"before"]


async def test_a_message_of_many_megabytes(store: SqlStore) -> None:
    session = make.session()
    large = [os.urandom(10_000_000), b"compressible " * 1_000_000, b"small"]
    await ended(store, session, *large, new=True)
    assert [m.parts for m in await store.load_history(make.ALICE, session.id, 1)] == large


@pytest.mark.parametrize("size", [0, 1, 2**20, 2**20 + 1, 10_000_000])
async def test_a_medium_of_any_size(store: SqlStore, size: int) -> None:
    picture = make.medium(os.urandom(size))
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    said = replace(make.message(run), media=(picture.sha256,))
    await store.end_run(make.end(run, messages=[said], media=[picture]))
    unknown = bytes(32)
    assert await store.get_media(make.ALICE, [picture.sha256, unknown]) == {picture.sha256: picture}
    assert await store.get_media(make.ALICE, []) == {}


async def say(store: SqlStore, session: Session, *data: bytes) -> None:
    """A run whose one message refers to media, the first of them twice."""
    media = [make.medium(part) for part in data]
    run = make.run(session)
    await store.start_run(run, None)
    hashes = tuple(medium.sha256 for medium in [*media, media[0]])
    said = replace(make.message(run), media=hashes)
    await store.end_run(make.end(run, messages=[said], media=media))


async def test_a_medium_stays_while_a_session_refers_to_it(store: SqlStore) -> None:
    one, two, bobs = make.session(), make.session(), make.session(BOB)
    for session in (one, two, bobs):
        await store.create_session(session)
    shared, alone = make.medium(b"shared"), make.medium(b"alone")
    await say(store, one, b"shared", b"alone")
    await say(store, one, b"shared")
    await say(store, two, b"shared")
    await say(store, bobs, b"shared")
    both = [shared.sha256, alone.sha256]

    await store.delete_session(make.ALICE, one.id)
    assert await store.get_media(make.ALICE, both) == {shared.sha256: shared}
    await store.delete_session(make.ALICE, two.id)
    assert await store.get_media(make.ALICE, both) == {}
    assert await store.get_media(BOB, both) == {shared.sha256: shared}


async def test_media_survive_deletions_at_the_same_moment(store: SqlStore) -> None:
    """Sessions with one picture end and are deleted all at once: who still refers to it still has it."""
    kept = []
    for _ in range(10):
        leaving, staying = make.session(), make.session()
        for session in (leaving, staying):
            await store.create_session(session)
        await say(store, leaving, b"picture")
        await asyncio.gather(
            store.delete_session(make.ALICE, leaving.id), say(store, staying, b"picture", b"other")
        )
        kept.append(staying)
        picture, other = make.medium(b"picture"), make.medium(b"other")
        assert len(await store.get_media(make.ALICE, [picture.sha256, other.sha256])) == 2
        await store.delete_session(make.ALICE, staying.id)
        assert await store.get_media(make.ALICE, [picture.sha256, other.sha256]) == {}


async def test_a_medium_that_is_deleted_just_before_it_is_referred_to_is_put_again(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    leaving, staying = make.session(), make.session()
    for session in (leaving, staying):
        await store.create_session(session)
    await say(store, leaving, b"picture")
    put = store._media.put
    times = 0

    async def put_and_delete(owner: Owner, medium: Media, limit: int) -> None:
        nonlocal times
        await put(owner, medium, limit)
        times += 1
        if times == 1:
            await store.delete_session(make.ALICE, leaving.id)

    monkeypatch.setattr(store._media, "put", put_and_delete)
    await say(store, staying, b"picture")
    picture = make.medium(b"picture")
    assert times == 2
    assert await store.get_media(make.ALICE, [picture.sha256]) == {picture.sha256: picture}
    assert len(await store.list_messages(make.ALICE, staying.id, Page(9))) == 1


async def test_one_picture_in_many_runs_at_once_is_stored_once(store: SqlStore) -> None:
    sessions = [make.session() for _ in range(20)]
    for session in sessions:
        await store.create_session(session)
    await asyncio.gather(*(say(store, session, b"same", b"too") for session in sessions))
    same = make.medium(b"same")
    for session in sessions:
        assert await store.get_media(make.ALICE, [same.sha256]) == {same.sha256: same}
        await store.delete_session(make.ALICE, session.id)
    assert await store.get_media(make.ALICE, [same.sha256]) == {}


async def test_a_reference_to_a_medium_that_is_not_there_does_not_stop_the_end(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    said = replace(make.message(run), media=(b"?" * 32,))
    await store.end_run(make.end(run, messages=[said]))
    assert (await store.get_run(make.ALICE, run.id)).status is RunStatus.COMPLETED
    assert (await store.list_messages(make.ALICE, session.id, Page(1)))[0].media == (b"?" * 32,)
