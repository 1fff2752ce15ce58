"""Event logs are kept for a while: then the last event alone is left, and whoever asks for more is told so."""

import asyncio
import os
from datetime import timedelta

import pytest
import sqlalchemy as sa
from support import make

from dragoman.engine.ports import Page
from dragoman.errors import EventsTrimmed
from dragoman.records import EventChunk, Run, RunStatus
from dragoman.storage import SqlStore
from dragoman.storage.sessions import BATCH
from dragoman.storage.tables import pieces, run_events

ALL = 2**30
BEFORE = make.NOW + timedelta(hours=1)


async def ended(store: SqlStore, *events: bytes, last: bytes = b"end", age: int = 0) -> Run:
    """A run with the events, in a chunk each."""
    session = make.session(time=make.NOW - timedelta(minutes=age))
    run = make.run(session, session.create_time)
    await store.start_run(run, session)
    for first, event in enumerate(events, 1):
        await store.append_events([make.chunk(run, first, event)])
    await store.end_run(make.end(run, first=len(events) + 1, events=[last]))
    return run


async def count(store: SqlStore, table: sa.Table) -> int:
    return await store._database.read(
        lambda c: c.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
    )


async def test_the_last_event_is_left(store: SqlStore) -> None:
    run = await ended(store, b"a", b"b", b"c")
    before = await store.get_run(make.ALICE, run.id)
    assert await store.trim_events(BEFORE, 9) == 1
    assert await store.trim_events(BEFORE, 9) == 0
    assert await store.get_run(make.ALICE, run.id) == before
    for after in (0, 1, 2):
        with pytest.raises(EventsTrimmed) as trimmed:
            await store.read_events(make.ALICE, run.id, after, ALL)
        assert trimmed.value.metadata == {"run_id": str(run.id), "oldest_sequence": "4"}
    last = [EventChunk(run.id, 4, 4, (b"end",))]
    assert await store.read_events(make.ALICE, run.id, 3, 0) == last
    for after in (4, 5, 2**63 - 1):
        assert await store.read_events(make.ALICE, run.id, after, ALL) == []
    await store.delete_session(make.ALICE, run.session_id)


async def test_large_values_go_with_their_events_and_no_others(store: SqlStore) -> None:
    large, last = os.urandom(3_000_000), os.urandom(2_000_000)
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    await store.append_events([make.chunk(run, 1, large, b"small"), make.chunk(run, 3, large)])
    said = make.message(run, parts=os.urandom(3_000_000))
    await store.end_run(make.end(run, first=4, events=[large, last], messages=[said]))
    other = await ended(store, large, age=-90)
    before = await count(store, pieces)
    assert await store.trim_events(BEFORE, 9) == 1
    assert 0 < await count(store, pieces) < before
    assert (await store.get_run(make.ALICE, run.id)).last_event == last
    assert await store.read_events(make.ALICE, run.id, 4, ALL) == [EventChunk(run.id, 5, 5, (last,))]
    [message] = await store.list_messages(make.ALICE, session.id, Page(9))
    assert message.parts == said.parts
    assert (await store.read_events(make.ALICE, other.id, 0, ALL))[0].events == (large,)


async def test_a_log_of_more_chunks_than_one_statement_deletes(store: SqlStore) -> None:
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    chunks = [make.chunk(run, first, b"e") for first in range(1, 2 * BATCH + 4)]
    await store.append_events(chunks)
    await store.end_run(make.end(run, first=len(chunks) + 1, events=[b"end"]))
    assert await count(store, run_events) == len(chunks) + 1
    assert await store.trim_events(BEFORE, 1) == 1
    assert await count(store, run_events) == 0


async def test_only_old_logs_of_ended_runs_the_oldest_first(store: SqlStore) -> None:
    by_age = {age: await ended(store, b"a", age=age) for age in (3, 1, 2)}
    young = await ended(store, b"a", age=-120)
    session = make.session()
    running = make.run(session)
    await store.start_run(running, session)
    await store.append_events([make.chunk(running, 1, b"a")])
    other = make.session()
    paused = make.run(other)
    await store.start_run(paused, other)
    await store.end_run(make.end(paused, status=RunStatus.PAUSED))

    async def whole(run: Run) -> bool:
        try:
            return bool(await store.read_events(make.ALICE, run.id, 0, ALL))
        except EventsTrimmed:
            return False

    assert await store.trim_events(BEFORE, 2) == 2
    assert [await whole(by_age[age]) for age in (3, 2, 1)] == [False, False, True]
    assert await store.trim_events(BEFORE, 2) == 1
    assert await store.trim_events(BEFORE, 2) == 0
    assert [await whole(run) for run in (by_age[1], young, running, paused)] == [False, True, True, True]


async def test_two_who_trim_count_each_run_once(store: SqlStore, peer: SqlStore) -> None:
    runs = [await ended(store, b"a", b"b") for _ in range(10)]
    done = await asyncio.gather(store.trim_events(BEFORE, 99), peer.trim_events(BEFORE, 99))
    assert sum(done) == len(runs)
    assert await count(store, run_events) == 0


async def test_who_reads_while_a_log_is_trimmed_gets_all_or_is_told(store: SqlStore, peer: SqlStore) -> None:
    large = os.urandom(1_200_000)
    for _ in range(10):
        run = await ended(store, b"a", large, b"c")
        results = await asyncio.gather(
            *(peer.read_events(make.ALICE, run.id, 0, ALL) for _ in range(3)),
            store.trim_events(BEFORE, 1),
            *(peer.read_events(make.ALICE, run.id, 0, ALL) for _ in range(3)),
            return_exceptions=True,
        )
        for result in (*results[:3], *results[4:]):
            if not isinstance(result, EventsTrimmed):
                assert isinstance(result, list)
                assert [event for chunk in result for event in chunk.events] == [b"a", large, b"c", b"end"]
        assert results[3] == 1


async def test_a_log_that_was_never_noted_for_trimming_is_whole(store: SqlStore) -> None:
    """A release before this one may have ended the run, on the same database."""
    run = await ended(store, b"a")
    unnoted = sa.text("UPDATE runs SET log_time = NULL")
    await store._database.write(lambda c: c.execute(unnoted))
    assert await store.trim_events(BEFORE, 9) == 0
    chunks = await store.read_events(make.ALICE, run.id, 0, ALL)
    assert [event for chunk in chunks for event in chunk.events] == [b"a", b"end"]
