"""Runs: claiming a session's turn, finding runs again, and the leases of their processes."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import Page, TimeKey
from dragoman.errors import RunNotFound, SessionBusy, SessionNotFound
from dragoman.records import Owner, Run, RunStatus, Session
from dragoman.storage import sessions as session_rows
from dragoman.storage.rows import owned, run_of, run_values, session_of, session_values, unpack
from dragoman.storage.tables import runs, sessions


def start(connection: sa.Connection, run: Run, new_session: Session | None) -> Session:
    """Claims the session's turn (or makes the session) and inserts the run. Returns the session as it is then.

    Harmless a second time: an attempt whose commit was not acknowledged is recognised by the run's id.
    Raises SessionNotFound, SessionBusy.
    """
    if new_session is not None:
        started = _start_first(connection, run, new_session)
    else:
        started = _claim(connection, run)
    if started:
        connection.execute(sa.insert(runs), run_values(run))
    return session_rows.get(connection, run.owner, run.session_id)


def _start_first(connection: sa.Connection, run: Run, session: Session) -> bool:
    """Inserts the new session, taken by its first run. False when an earlier attempt has done so."""
    if session_rows.lock(connection, session.owner, session.id) is not None:
        return not _exists(connection, run.owner, run.id)
    values = session_values(session)
    values.update(active_run_id=run.id, run_count=session.run_count + 1, update_time=run.create_time)
    connection.execute(sa.insert(sessions), values)
    return True


def _claim(connection: sa.Connection, run: Run) -> bool:
    """Takes the turn in one statement, which also locks the session. False when an earlier attempt has done so."""
    this = sa.and_(
        sessions.c.id == run.session_id, owned(sessions, run.owner), sessions.c.agent_name == run.agent_name
    )
    claimed = connection.execute(
        sa.update(sessions)
        .where(this, sessions.c.active_run_id.is_(None))
        .values(active_run_id=run.id, run_count=sessions.c.run_count + 1, update_time=run.create_time)
    )
    if claimed.rowcount:
        return True
    # Locked, so that what is read is what stands: an ordinary read could show the session as free a moment later.
    row = connection.execute(sa.select(sessions).where(this).with_for_update()).first()
    if row is None:
        raise SessionNotFound(run.session_id)
    session = session_of(row)
    if session.active_run_id is None:
        return _claim(connection, run)
    if session.active_run_id == run.id and _exists(connection, run.owner, run.id):
        return False
    raise SessionBusy(run.session_id, session.active_run_id)


def _exists(connection: sa.Connection, owner: Owner, run_id: UUID) -> bool:
    found = connection.execute(sa.select(runs.c.id).where(runs.c.id == run_id, owned(runs, owner)))
    return found.first() is not None


def get(connection: sa.Connection, owner: Owner, run_id: UUID) -> Run:
    """Raises RunNotFound."""
    found = _all(connection, sa.select(runs).where(runs.c.id == run_id, owned(runs, owner)))
    if not found:
        raise RunNotFound(run_id)
    return found[0]


def select(
    connection: sa.Connection,
    owner: Owner,
    page: Page[TimeKey],
    *,
    session_id: UUID | None,
    agent_name: str,
    status: RunStatus | None,
) -> list[Run]:
    """A page by (create_time, id), the newest first."""
    query = sa.select(runs).where(owned(runs, owner))
    if session_id is not None:
        query = query.where(runs.c.session_id == session_id)
    if agent_name:
        query = query.where(runs.c.agent_name == agent_name)
    if status is not None:
        query = query.where(runs.c.status == str(status))
    return _all(connection, session_rows.newest_first(query, runs.c.create_time, runs.c.id, page))


def unfinished(connection: sa.Connection, before: datetime) -> list[Run]:
    """Running runs, of any owner, whose lease is older; the oldest first."""
    return _all(
        connection,
        sa.select(runs)
        .where(runs.c.status == str(RunStatus.RUNNING), runs.c.lease_time < before)
        .order_by(runs.c.lease_time),
    )


def renew(connection: sa.Connection, run_ids: Sequence[UUID], now: datetime) -> None:
    """Renews the leases of those that still run."""
    keys = sorted(run_ids)
    for start_at in range(0, len(keys), session_rows.BATCH):
        connection.execute(
            sa.update(runs)
            .where(
                runs.c.id.in_(keys[start_at : start_at + session_rows.BATCH]),
                runs.c.status == str(RunStatus.RUNNING),
            )
            .values(lease_time=now)
        )


def lock(connection: sa.Connection, owner: Owner, session_id: UUID, run_id: UUID) -> sa.Row[Any] | None:
    """The run's row, locked to the end of the transaction; after its session's."""
    return connection.execute(
        sa.select(runs)
        .where(runs.c.id == run_id, runs.c.session_id == session_id, owned(runs, owner))
        .with_for_update()
    ).first()


def _all(connection: sa.Connection, query: sa.Select[Any]) -> list[Run]:
    rows = connection.execute(query).all()
    ended = [row for row in rows if row.last_event is not None]
    values = unpack(connection, (row.id for row in ended), (row.last_event for row in ended))
    last_events = dict(zip((row.id for row in ended), values, strict=True))
    return [run_of(row, last_events.get(row.id, b"")) for row in rows]
