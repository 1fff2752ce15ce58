"""The event log: chunks of consecutive events per run, appended for many runs at once."""

from collections.abc import Iterator, Sequence
from uuid import UUID

import sqlalchemy as sa

from dragoman.errors import RunNotFound
from dragoman.records import EventChunk, Owner, RunStatus
from dragoman.storage.rows import Packer, Values, after_sequence, chunk_of, chunk_values, owned, unpack
from dragoman.storage.sessions import BATCH
from dragoman.storage.tables import pieces, run_events, runs

_CHUNKS_PER_READ = 1000
_RUNS_PER_UPDATE = 16
_LAST = 2**62


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
    found = connection.execute(
        sa.select(runs.c.id, runs.c.last_sequence)
        .where(runs.c.id.in_({chunk.run_id for chunk in chunks}), runs.c.status == str(RunStatus.RUNNING))
        .order_by(runs.c.id)
        .with_for_update()
    )
    stored: dict[UUID, int] = {row.id: row.last_sequence for row in found}
    rows: list[Values] = []
    large: list[Values] = []
    advanced: dict[UUID, int] = {}
    for chunk in chunks:
        if chunk.run_id not in stored:
            continue
        fresh = after_sequence(chunk, stored[chunk.run_id])
        if fresh is not None:
            packer = Packer(chunk.run_id, limit)
            rows.append(chunk_values(fresh, packer))
            large.extend(packer.pieces)
            stored[chunk.run_id] = advanced[chunk.run_id] = fresh.last_sequence
    if not rows:
        return
    connection.execute(sa.insert(run_events), rows)
    if large:
        connection.execute(sa.insert(pieces), large)
    for statement in _advance(advanced):
        connection.execute(statement)


def _advance(last: dict[UUID, int]) -> Iterator[sa.Update]:
    """One statement for several runs. SQLAlchemy keeps each length that it has seen: let them be few, and short."""
    runs_left = list(last.items())
    while runs_left:
        named, runs_left = runs_left[:_RUNS_PER_UPDATE], runs_left[_RUNS_PER_UPDATE:]
        whens = [(runs.c.id == run_id, sequence) for run_id, sequence in named]
        whens += whens[-1:] * ((1 << (len(whens) - 1).bit_length()) - len(whens))
        yield (
            sa.update(runs)
            .where(runs.c.id.in_([run_id for run_id, _ in named]))
            .values(last_sequence=sa.case(*whens, else_=runs.c.last_sequence))
        )


def read(
    connection: sa.Connection, owner: Owner, run_id: UUID, after: int, max_bytes: int
) -> list[EventChunk]:
    """Chunks with events after the sequence, up to `max_bytes` but at least one. Raises RunNotFound."""
    known = connection.execute(sa.select(runs.c.id).where(runs.c.id == run_id, owned(runs, owner)))
    if known.first() is None:
        raise RunNotFound(run_id)
    of_run = run_events.c.run_id == run_id
    after = min(after, _LAST)  # what a caller sends must not overflow below
    # The chunk that holds the next event is the last one that begins at or before it.
    begin = (
        sa.select(sa.func.max(run_events.c.first_sequence))
        .where(of_run, run_events.c.first_sequence <= after + 1)
        .scalar_subquery()
    )
    sizes = connection.execute(
        sa.select(run_events.c.first_sequence, run_events.c.size)
        .where(
            of_run,
            run_events.c.first_sequence >= sa.func.coalesce(begin, 0),
            run_events.c.last_sequence > after,
        )
        .order_by(run_events.c.first_sequence)
        .limit(_CHUNKS_PER_READ)
    ).all()
    if not sizes:
        return []
    last, total = sizes[0]
    for first_sequence, size in sizes[1:]:
        total += size
        if total > max_bytes:
            break
        last = first_sequence
    rows = connection.execute(
        sa.select(run_events)
        .where(of_run, run_events.c.first_sequence.between(sizes[0].first_sequence, last))
        .order_by(run_events.c.first_sequence)
    ).all()
    values = unpack(connection, (run_id,), (row.events for row in rows))
    return [chunk_of(row, value) for row, value in zip(rows, values, strict=True)]
