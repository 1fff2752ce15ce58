"""The event log: chunks of consecutive events per run, appended for many runs at once."""

from collections.abc import Sequence
from uuid import UUID

import sqlalchemy as sa

from dragoman.errors import RunNotFound
from dragoman.records import EventChunk, Owner, RunStatus
from dragoman.storage.rows import Packer, Values, after_sequence, chunk_of, chunk_values, unpack
from dragoman.storage.runs import exists
from dragoman.storage.sessions import BATCH
from dragoman.storage.tables import pieces, run_events, runs

_CHUNKS_PER_READ = 1000
_LAST = 2**62

_NAMED = runs.c.id.in_(sa.bindparam("runs", expanding=True))
_STORED = (
    sa.select(runs.c.id, runs.c.last_sequence)
    .where(_NAMED, runs.c.status == str(RunStatus.RUNNING))
    .order_by(runs.c.id)
    .with_for_update()
)
_INSERT = sa.insert(run_events)
_INSERT_PIECES = sa.insert(pieces)
# To what has just been inserted, read from the end of the primary key. So one short statement does for any number of
# runs: one statement for each run is as many round trips, and one that names each run's sequence costs more to send.
_ADVANCE = (
    sa.update(runs)
    .where(_NAMED)
    .values(
        last_sequence=sa.select(run_events.c.last_sequence)
        .where(run_events.c.run_id == runs.c.id)
        .order_by(run_events.c.first_sequence.desc())
        .limit(1)
        .correlate(runs)
        .scalar_subquery()
    )
)

_OF_RUN = run_events.c.run_id == sa.bindparam("run")
# The chunk that holds the next event is the last one that begins at or before it.
_BEGIN = (
    sa.select(sa.func.max(run_events.c.first_sequence))
    .where(_OF_RUN, run_events.c.first_sequence <= sa.bindparam("next"))
    .scalar_subquery()
)
_SIZES = (
    sa.select(run_events.c.first_sequence, run_events.c.size)
    .where(
        _OF_RUN,
        run_events.c.first_sequence >= sa.func.coalesce(_BEGIN, 0),
        run_events.c.last_sequence > sa.bindparam("after"),
    )
    .order_by(run_events.c.first_sequence)
    .limit(_CHUNKS_PER_READ)
)
_CHUNKS = (
    sa.select(run_events)
    .where(_OF_RUN, run_events.c.first_sequence.between(sa.bindparam("first"), sa.bindparam("last")))
    .order_by(run_events.c.first_sequence)
)


def append(connection: sa.Connection, chunks: Sequence[EventChunk], limit: int) -> None:
    """Appends to the logs of the runs that still run: after its last event a run has none.

    Each run's row tells, under its lock, up to where its events are stored; what is not after that is left out. So an
    append whose outcome was not known can be repeated, also when more events have joined it.
    """
    # Always in one order: two processes must not wait for each other.
    ordered = sorted(chunks, key=lambda chunk: (chunk.run_id, chunk.first_sequence))
    for start in range(0, len(ordered), BATCH):
        _append(connection, ordered[start : start + BATCH], limit)


def _append(connection: sa.Connection, chunks: Sequence[EventChunk], limit: int) -> None:
    found = connection.execute(_STORED, {"runs": {chunk.run_id for chunk in chunks}})
    stored: dict[UUID, int] = {row.id: row.last_sequence for row in found}
    rows: list[Values] = []
    large: list[Values] = []
    advanced: set[UUID] = set()
    for chunk in chunks:
        if chunk.run_id not in stored:
            continue
        fresh = after_sequence(chunk, stored[chunk.run_id])
        if fresh is not None:
            packer = Packer(chunk.run_id, limit)
            rows.append(chunk_values(fresh, packer))
            large.extend(packer.pieces)
            stored[chunk.run_id] = fresh.last_sequence
            advanced.add(chunk.run_id)
    if not rows:
        return
    connection.execute(_INSERT, rows)
    if large:
        connection.execute(_INSERT_PIECES, large)
    connection.execute(_ADVANCE, {"runs": advanced})


def read(
    connection: sa.Connection, owner: Owner, run_id: UUID, after: int, max_bytes: int
) -> list[EventChunk]:
    """Chunks with events after the sequence, up to `max_bytes` but at least one. Raises RunNotFound."""
    if not exists(connection, owner, run_id):
        raise RunNotFound(run_id)
    after = min(after, _LAST)  # what a caller sends must not overflow below
    sizes = connection.execute(_SIZES, {"run": run_id, "next": after + 1, "after": after}).all()
    if not sizes:
        return []
    last, total = sizes[0]
    for first_sequence, size in sizes[1:]:
        total += size
        if total > max_bytes:
            break
        last = first_sequence
    bounds = {"run": run_id, "first": sizes[0].first_sequence, "last": last}
    rows = connection.execute(_CHUNKS, bounds).all()
    values = unpack(connection, (run_id,), (row.events for row in rows))
    return [chunk_of(row, value) for row, value in zip(rows, values, strict=True)]
