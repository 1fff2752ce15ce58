"""The event log: contiguous, each event once, whatever is repeated; nothing after the last event."""

import asyncio
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import make
from support.examples import on_one_fixture

from dragoman import ids
from dragoman.errors import RunNotFound
from dragoman.records import EventChunk, Run, RunStatus
from dragoman.storage import SqlStore
from dragoman.storage.sessions import BATCH

ALL = 2**30
HOLDER = ids.new_id()


async def running(store: SqlStore) -> Run:
    session = make.session()
    run = replace(make.run(session), holder=HOLDER)
    await store.start_run(run, session)
    return run


async def read(store: SqlStore, run: Run, after: int = 0) -> list[bytes]:
    """All events after the sequence; checks that the chunks join."""
    chunks = await store.read_events(make.ALICE, run.id, after, ALL)
    events: dict[int, bytes] = {}
    for chunk in chunks:
        assert len(chunk.events) == chunk.last_sequence - chunk.first_sequence + 1
        assert events.keys().isdisjoint(range(chunk.first_sequence, chunk.last_sequence + 1))
        events.update(enumerate(chunk.events, chunk.first_sequence))
    assert sorted(events) == list(events)
    return [event for sequence, event in events.items() if sequence > after]


@on_one_fixture()
@given(chunks=st.lists(st.lists(st.binary(max_size=2000), min_size=1, max_size=5), min_size=1, max_size=5))
async def test_events_come_back_as_they_were(store: SqlStore, chunks: list[list[bytes]]) -> None:
    run = await running(store)
    first = 1
    appended = []
    for events in chunks:
        appended.append(make.chunk(run, first, *events))
        await store.append_events([appended[-1]])
        first += len(events)
    assert await store.read_events(make.ALICE, run.id, 0, ALL) == appended
    assert (await store.get_run(make.ALICE, run.id)).last_sequence == first - 1
    every = [event for events in chunks for event in events]
    for after in range(first):
        assert await read(store, run, after) == every[after:]
    assert await store.read_events(make.ALICE, run.id, 2**63 - 1, ALL) == []


async def test_chunks_of_many_runs_in_one_call(store: SqlStore) -> None:
    runs = [await running(store) for _ in range(20)]
    await store.append_events([make.chunk(run, 1, b"a", str(run.id).encode()) for run in runs])
    await store.append_events([make.chunk(run, 3, b"c") for run in runs[::2]])
    for place, run in enumerate(runs):
        expected = [b"a", str(run.id).encode(), b"c"][: 2 if place % 2 else 3]
        assert await read(store, run) == expected
        assert (await store.get_run(make.ALICE, run.id)).last_sequence == len(expected)
    await store.append_events([])


async def test_chunks_of_more_runs_than_one_statement_names(store: SqlStore) -> None:
    runs = [await running(store) for _ in range(BATCH + 20)]
    await store.append_events([make.chunk(run, 1, b"a", b"b") for run in runs])
    for run in (runs[0], runs[BATCH - 1], runs[BATCH], runs[-1]):
        assert await read(store, run) == [b"a", b"b"]
    await store.renew_leases(HOLDER, [run.id for run in runs])
    assert len(await store.progress([run.id for run in runs])) == len(runs)


async def test_appending_again_is_harmless_also_when_more_has_joined(store: SqlStore) -> None:
    run = await running(store)
    await store.append_events([make.chunk(run, 1, b"a", b"b")])
    await store.append_events([make.chunk(run, 1, b"a", b"b")])
    await store.append_events([make.chunk(run, 1, b"a", b"b", b"c")])
    await store.append_events([make.chunk(run, 2, b"b")])
    assert await read(store, run) == [b"a", b"b", b"c"]


async def test_an_end_leaves_out_what_an_append_has_stored_after_all(store: SqlStore) -> None:
    run = await running(store)
    await store.append_events([make.chunk(run, 1, b"a", b"b")])
    await store.end_run(make.end(run, first=2, events=[b"b", b"c", b"end"]))
    assert await read(store, run) == [b"a", b"b", b"c", b"end"]


@pytest.mark.parametrize("status", [RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.PAUSED])
async def test_nothing_is_appended_after_the_last_event(store: SqlStore, status: RunStatus) -> None:
    run, other = await running(store), await running(store)
    await store.end_run(make.end(run, status=status, events=[b"end"]))
    await store.append_events([make.chunk(run, 2, b"late"), make.chunk(other, 1, b"other")])
    assert await read(store, run) == [b"end"]
    assert await read(store, other) == [b"other"]


async def test_events_of_a_run_that_is_not_there_are_dropped(store: SqlStore) -> None:
    unknown = ids.new_id()
    await store.append_events([EventChunk(unknown, 1, 1, (b"e",))])
    with pytest.raises(RunNotFound):
        await store.read_events(make.ALICE, unknown, 0, ALL)


@pytest.mark.parametrize(
    ("max_bytes", "expected"), [(0, 1), (99, 1), (100, 1), (199, 1), (200, 2), (10_000, 5)]
)
async def test_a_read_is_bounded_but_gets_on(store: SqlStore, max_bytes: int, expected: int) -> None:
    run = await running(store)
    for first in range(1, 6):
        await store.append_events([make.chunk(run, first, bytes(100))])
    chunks = await store.read_events(make.ALICE, run.id, 0, max_bytes)
    assert [chunk.first_sequence for chunk in chunks] == list(range(1, expected + 1))
    rest = await store.read_events(make.ALICE, run.id, 4, max_bytes)
    assert [chunk.first_sequence for chunk in rest] == [5]


async def test_events_of_many_megabytes(store: SqlStore) -> None:
    run = await running(store)
    large = os.urandom(10_000_000)
    await store.append_events([make.chunk(run, 1, b"small", large, b"small")])
    last = os.urandom(5_000_000)
    await store.end_run(make.end(run, first=4, events=[large, last]))
    assert await read(store, run) == [b"small", large, b"small", large, last]
    assert (await store.get_run(make.ALICE, run.id)).last_event == last


async def test_writers_at_the_same_moment_lose_nothing(store: SqlStore) -> None:
    runs = [await running(store) for _ in range(10)]

    async def write(run: Run) -> None:
        for first in range(1, 21):
            chunk = make.chunk(run, first, str(first).encode())
            await asyncio.gather(store.append_events([chunk]), store.append_events([chunk]))

    async def renew() -> None:
        for _ in range(20):
            await store.renew_leases(HOLDER, [run.id for run in runs])

    await asyncio.gather(renew(), *(write(run) for run in runs))
    for run in runs:
        assert await read(store, run) == [str(number).encode() for number in range(1, 21)]
