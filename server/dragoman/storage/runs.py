"""Runs: finding them again, what their holders are told, and the leases of their processes."""

from collections.abc import Collection, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import Notice, Page, Progress, TimeKey
from dragoman.errors import RunNotFound
from dragoman.records import AllOwners, Cancellation, Owner, Run, RunStatus
from dragoman.storage import sessions as session_rows
from dragoman.storage.clock import ago, now
from dragoman.storage.rows import (
    AnyRow,
    Values,
    cancellation_of,
    cancellation_values,
    of,
    of_whom,
    of_whose,
    owned,
    run_of,
    unpack,
)
from dragoman.storage.tables import runs

HELD = tuple(str(status) for status in RunStatus if status.held)

_THIS = sa.and_(runs.c.id == sa.bindparam("run"), owned(runs))
_GET = sa.select(runs).where(_THIS)
_ANY = sa.select(runs).where(runs.c.id == sa.bindparam("run"))
_EXISTS = sa.select(runs.c.id).where(_THIS)
_TICKET = sa.select(runs.c.ticket).where(runs.c.id == sa.bindparam("run"))
_LOCK = (
    sa.select(
        runs.c.agent_name,
        runs.c.status,
        runs.c.last_sequence,
        runs.c.last_message_sequence,
        runs.c.holder,
        runs.c.update_time,
    )
    .where(_THIS, runs.c.session_id == sa.bindparam("session"))
    .with_for_update()
)
_NAMED = runs.c.id.in_(sa.bindparam("runs", expanding=True))
_HELD = runs.c.status.in_(HELD)
_SILENT = runs.c.lease_time < ago("lease")
_LAPSED = sa.select(runs.c.id).where(runs.c.id == sa.bindparam("run"), _HELD, _SILENT)
_ABANDONED = (
    sa.select(runs).where(_HELD, _SILENT).order_by(runs.c.lease_time, runs.c.id).limit(sa.bindparam("most"))
)
_EXPIRED = (
    sa.select(runs)
    .where(runs.c.status == str(RunStatus.PAUSED), runs.c.expire_time < now())
    .order_by(runs.c.expire_time, runs.c.id)
    .limit(sa.bindparam("most"))
)
_RENEW = (
    sa.update(runs).where(_NAMED, _HELD, runs.c.holder == sa.bindparam("by_holder")).values(lease_time=now())
)
_CANCEL = sa.update(runs).where(_THIS, _HELD, runs.c.cancel_reason.is_(None))
_PROGRESS = sa.select(runs.c.id, runs.c.status, runs.c.last_sequence).where(_NAMED)
_NOTICES = sa.select(
    runs.c.id, runs.c.status, runs.c.cancel_reason, runs.c.cancel_by, runs.c.cancel_note
).where(
    _NAMED,
    sa.or_(
        runs.c.cancel_reason.is_not(None),
        runs.c.holder.is_(None),
        runs.c.holder != sa.bindparam("by_holder"),
        # It has waited for its turn, and has got it.
        sa.and_(runs.c.status == str(RunStatus.RUNNING), runs.c.ticket.is_not(None)),
    ),
)

_MICROSECOND = timedelta(microseconds=1)


def exists(connection: sa.Connection, owner: Owner, run_id: UUID) -> bool:
    """Whether there is such a run of the owner's."""
    return connection.execute(_EXISTS, {"run": run_id, **of(owner)}).first() is not None


def get(connection: sa.Connection, owner: Owner, run_id: UUID) -> Run:
    """Raises RunNotFound."""
    found = all_of(connection, _GET, {"run": run_id, **of(owner)})
    if not found:
        raise RunNotFound(run_id)
    return found[0]


def get_any(connection: sa.Connection, run_id: UUID) -> Run:
    """A run of any owner. Raises RunNotFound."""
    found = all_of(connection, _ANY, {"run": run_id})
    if not found:
        raise RunNotFound(run_id)
    return found[0]


def select(
    connection: sa.Connection,
    owner: Owner | AllOwners,
    page: Page[TimeKey],
    *,
    session_id: UUID | None,
    agent_name: str,
    status: RunStatus | None,
) -> list[Run]:
    """A page by (create_time, id), the newest first."""
    query = sa.select(runs).where(*of_whom(runs, owner))
    if session_id is not None:
        query = query.where(runs.c.session_id == session_id)
    if agent_name:
        query = query.where(runs.c.agent_name == agent_name)
    if status is not None:
        query = query.where(runs.c.status == str(status))
    query = session_rows.newest_first(query, runs.c.create_time, runs.c.id, page)
    return all_of(connection, query, of_whose(owner))


def request_cancel(connection: sa.Connection, owner: Owner, run_id: UUID, cancellation: Cancellation) -> Run:
    """Notes the wish unless there is one, or nobody holds the run. Returns the run. Raises RunNotFound."""
    connection.execute(_CANCEL, {"run": run_id, **of(owner), **cancellation_values(cancellation)})
    return get(connection, owner, run_id)


def notices(connection: sa.Connection, holder: UUID, run_ids: Collection[UUID]) -> list[Notice]:
    """Of these: those with a cancellation, those that the holder has no more, and those that have waited and run now."""
    return [
        Notice(row.id, RunStatus(row.status), cancellation_of(row))
        for keys in _batches(run_ids)
        for row in connection.execute(_NOTICES, {"runs": keys, "by_holder": holder})
    ]


def progress(connection: sa.Connection, run_ids: Collection[UUID]) -> dict[UUID, Progress]:
    """How far these runs are, of any owner; without those that do not exist."""
    return {
        row.id: Progress(RunStatus(row.status), row.last_sequence)
        for keys in _batches(run_ids)
        for row in connection.execute(_PROGRESS, {"runs": keys})
    }


def abandoned(connection: sa.Connection, lease: timedelta, limit: int) -> list[Run]:
    """Runs, of any owner, whose holders have been silent for longer; the longest silent first."""
    return all_of(connection, _ABANDONED, {"lease": lease // _MICROSECOND, "most": limit})


def lapsed(connection: sa.Connection, run_id: UUID, lease: timedelta) -> bool:
    """Whether a run is held by somebody who has been silent for longer."""
    return connection.execute(_LAPSED, {"run": run_id, "lease": lease // _MICROSECOND}).first() is not None


def expired(connection: sa.Connection, limit: int) -> list[Run]:
    """Paused runs, of any owner, whose time is over; the longest first."""
    return all_of(connection, _EXPIRED, {"most": limit})


def renew(connection: sa.Connection, holder: UUID, run_ids: Collection[UUID]) -> None:
    """Renews the leases of those that the holder still has."""
    for keys in _batches(run_ids):
        connection.execute(_RENEW, {"runs": keys, "by_holder": holder})


def lock(connection: sa.Connection, owner: Owner, session_id: UUID, run_id: UUID) -> AnyRow | None:
    """How far the run is, locked to the end of the transaction; after its session's row."""
    return connection.execute(_LOCK, {"run": run_id, "session": session_id, **of(owner)}).first()


def ticket(connection: sa.Connection, run_id: UUID) -> int:
    """The place in the queue of a run that waits."""
    place: int | None = connection.execute(_TICKET, {"run": run_id}).scalar_one()
    return 0 if place is None else place


def all_of(connection: sa.Connection, query: sa.Select[Any], parameters: Values) -> list[Run]:
    """The runs of a query for whole rows of `runs`."""
    rows = connection.execute(query, parameters).all()
    ended = [row for row in rows if row.last_event is not None]
    values = unpack(connection, (row.id for row in ended), (row.last_event for row in ended))
    last_events = dict(zip((row.id for row in ended), values, strict=True))
    return [run_of(row, last_events.get(row.id, b"")) for row in rows]


def _batches(run_ids: Collection[UUID]) -> Iterator[list[UUID]]:
    """As many as one statement names, always in one order: two processes must not wait for each other."""
    keys = sorted(run_ids)
    for start in range(0, len(keys), session_rows.BATCH):
        yield keys[start : start + session_rows.BATCH]
