"""The event log: chunks of consecutive events per run, appended for many runs at once, and deleted when it has been kept for
long enough.

A log has no gap but one, after a crash: before the last event. When it is trimmed, only that one is left, in the run's row.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from dragoman.errors import EventsTrimmed, RunNotFound
from dragoman.records import EventChunk, Owner, RunCalls, RunStatus
from dragoman.storage import calls
from dragoman.storage.codec import REFERENCE_SIZE
from dragoman.storage.rows import (
    AnyRow,
    Packer,
    Values,
    after_sequence,
    chunk_of,
    chunk_values,
    delete_pieces,
    of,
    owned,
    unpack,
)
from dragoman.storage.runs import HELD
from dragoman.storage.sessions import BATCH
from dragoman.storage.tables import pieces, run_events, runs

_CHUNKS_PER_READ = 1000
_LAST = 2**62

_NAMED = runs.c.id.in_(sa.bindparam("runs", expanding=True))
_STORED = (
    sa.select(runs.c.id, runs.c.last_sequence)
    .where(_NAMED, runs.c.status.in_(HELD))
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

_THIS = sa.and_(runs.c.id == sa.bindparam("run"), owned(runs))
_STATE = sa.select(runs.c.status, runs.c.last_sequence, runs.c.log_time).where(_THIS)
_KEEP = _STATE.with_for_update(read=True)
_LAST_EVENT = sa.select(runs.c.last_event).where(runs.c.id == sa.bindparam("run"))
_AT = (
    sa.select(run_events)
    .where(_OF_RUN, run_events.c.first_sequence <= sa.bindparam("place"))
    .order_by(run_events.c.first_sequence.desc())
    .limit(1)
)
_TRIMMABLE = (
    sa.select(runs.c.id)
    .where(runs.c.log_time < sa.bindparam("before"))
    .order_by(runs.c.log_time)
    .limit(sa.bindparam("most"))
)
_LOCK_LOG = (
    sa.select(runs.c.id)
    .where(runs.c.id == sa.bindparam("run"), runs.c.log_time.is_not(None))
    .with_for_update()
)
_OLDEST = (
    sa.select(
        run_events.c.first_sequence,
        sa.func.substr(run_events.c.events, 1, REFERENCE_SIZE, type_=sa.LargeBinary()).label("reference"),
    )
    .where(_OF_RUN)
    .order_by(run_events.c.first_sequence)
    .limit(BATCH)
)
_DELETE = sa.delete(run_events).where(_OF_RUN, run_events.c.first_sequence <= sa.bindparam("last"))
_TRIMMED = sa.update(runs).where(runs.c.id == sa.bindparam("run")).values(log_time=None)


def append(
    connection: sa.Connection, chunks: Sequence[EventChunk], booked: Sequence[RunCalls], limit: int
) -> None:
    """Appends to the logs of the runs that are held, and books their calls: who has ended a run has counted them.

    Each run's row tells, under its lock, up to where its events are stored; what is not after that is left out. So an
    append whose outcome was not known can be repeated, also when more events have joined it.
    """
    # Always in one order: two processes must not wait for each other.
    run_ids = sorted({chunk.run_id for chunk in chunks} | {of_run.run_id for of_run in booked})
    stored: dict[UUID, int] = {}
    for start in range(0, len(run_ids), BATCH):
        found = connection.execute(_STORED, {"runs": run_ids[start : start + BATCH]})
        stored.update((row.id, row.last_sequence) for row in found)
    ordered = sorted(chunks, key=lambda chunk: (chunk.run_id, chunk.first_sequence))
    for start in range(0, len(ordered), BATCH):
        _append(connection, ordered[start : start + BATCH], stored, limit)
    if booked:
        calls.book(connection, [of_run for of_run in booked if of_run.run_id in stored])


def _append(
    connection: sa.Connection, chunks: Sequence[EventChunk], stored: dict[UUID, int], limit: int
) -> None:
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
    """Chunks with events after the sequence, up to `max_bytes` but at least one. Raises RunNotFound, EventsTrimmed."""
    after = min(after, _LAST)  # what a caller sends must not overflow below
    run = connection.execute(_STATE, {"run": run_id, **of(owner)}).first()
    if run is not None and RunStatus(run.status).final:
        # So that nobody trims what is being read: each statement sees what has been committed before it.
        run = connection.execute(_KEEP, {"run": run_id, **of(owner)}).first()
    if run is None:
        raise RunNotFound(run_id)
    sizes = connection.execute(_SIZES, {"run": run_id, "next": after + 1, "after": after}).all()
    if not sizes:
        return _last(connection, run_id, run, after)
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


def holds(connection: sa.Connection, run_id: UUID, sequence: int, event: bytes) -> bool:
    """Whether the event is in the run's log, at that place."""
    row = connection.execute(_AT, {"run": run_id, "place": sequence}).first()
    if row is None or row.last_sequence < sequence:
        return False
    [value] = unpack(connection, (run_id,), (row.events,))
    at = sequence - row.first_sequence
    return chunk_of(row, value).events[at : at + 1] == (event,)


def trimmable(connection: sa.Connection, before: datetime, limit: int) -> list[UUID]:
    """Runs that ended before and have their events still; those that ended first come first."""
    return list(connection.execute(_TRIMMABLE, {"before": before, "most": limit}).scalars())


def trim(connection: sa.Connection, run_id: UUID) -> bool:
    """Deletes the events of a run that has ended, but for the last one in its row. False: somebody else has."""
    if connection.execute(_LOCK_LOG, {"run": run_id}).first() is None:
        return False
    while rows := connection.execute(_OLDEST, {"run": run_id}).all():
        delete_pieces(connection, run_id, (row.reference for row in rows))
        connection.execute(_DELETE, {"run": run_id, "last": rows[-1].first_sequence})
    connection.execute(_TRIMMED, {"run": run_id})
    return True


def _last(connection: sa.Connection, run_id: UUID, run: AnyRow, after: int) -> list[EventChunk]:
    """What is left of a log that has no chunk after the sequence: nothing, or when it was trimmed the last event."""
    if after >= run.last_sequence or not RunStatus(run.status).final or run.log_time is not None:
        return []
    if after < run.last_sequence - 1:
        raise EventsTrimmed(run_id, run.last_sequence)
    [event] = unpack(connection, (run_id,), connection.execute(_LAST_EVENT, {"run": run_id}).scalars())
    return [EventChunk(run_id, run.last_sequence, run.last_sequence, (event,))]
