"""Runs: claiming a session's turn, finding runs again, and the leases of their processes."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import Page, TimeKey
from dragoman.errors import RunNotFound, SessionBusy, SessionNotFound
from dragoman.records import Owner, Run, RunStatus, Session
from dragoman.storage import sessions as session_rows
from dragoman.storage.rows import Values, of, owned, run_of, run_values, session_values, unpack
from dragoman.storage.tables import runs, sessions

_THIS = sa.and_(runs.c.id == sa.bindparam("run"), owned(runs))
_GET = sa.select(runs).where(_THIS)
_EXISTS = sa.select(runs.c.id).where(_THIS)
_LOCK = (
    sa.select(runs.c.agent_name, runs.c.status, runs.c.last_sequence, runs.c.last_message_sequence)
    .where(_THIS, runs.c.session_id == sa.bindparam("session"))
    .with_for_update()
)
_INSERT = sa.insert(runs)
_INSERT_SESSION = sa.insert(sessions)
_OF_AGENT = sa.and_(
    sessions.c.id == sa.bindparam("session"), owned(sessions), sessions.c.agent_name == sa.bindparam("agent")
)
_CLAIM = (
    sa.update(sessions)
    .where(_OF_AGENT, sessions.c.active_run_id.is_(None))
    .values(
        active_run_id=sa.bindparam("run"),
        run_count=sessions.c.run_count + 1,
        update_time=sa.bindparam("now"),
    )
)
_TURN = sa.select(sessions.c.active_run_id).where(_OF_AGENT).with_for_update()
_UNFINISHED = (
    sa.select(runs)
    .where(runs.c.status == str(RunStatus.RUNNING), runs.c.lease_time < sa.bindparam("before"))
    .order_by(runs.c.lease_time)
)
_RENEW = (
    sa.update(runs)
    .where(
        runs.c.id.in_(sa.bindparam("runs", expanding=True)),
        runs.c.status == str(RunStatus.RUNNING),
    )
    .values(lease_time=sa.bindparam("now"))
)


def start(connection: sa.Connection, run: Run, new_session: Session | None) -> Session:
    """Claims the session's turn (or makes the session) and inserts the run. Returns the session as it is then.

    Harmless a second time: an attempt whose commit was not acknowledged is recognised by the run's id.
    Raises SessionNotFound, SessionBusy.
    """
    if new_session is None:
        started = _claim(connection, run)
    elif session_rows.lock(connection, new_session.owner, new_session.id) is None:
        return _start_first(connection, run, new_session)
    else:  # by an earlier attempt
        started = not exists(connection, run.owner, run.id)
    if started:
        connection.execute(_INSERT, run_values(run))
    return session_rows.get(connection, run.owner, run.session_id)


def _start_first(connection: sa.Connection, run: Run, session: Session) -> Session:
    """Inserts the new session, taken by its first run, and the run."""
    taken = replace(
        session, active_run_id=run.id, run_count=session.run_count + 1, update_time=run.create_time
    )
    connection.execute(_INSERT_SESSION, session_values(taken))
    connection.execute(_INSERT, run_values(run))
    return taken


def _claim(connection: sa.Connection, run: Run) -> bool:
    """Takes the turn in one statement, which also locks the session. False when an earlier attempt has done so."""
    this = {"session": run.session_id, "agent": run.agent_name, **of(run.owner)}
    claimed = connection.execute(_CLAIM, {**this, "run": run.id, "now": run.create_time})
    if claimed.rowcount:
        return True
    # Locked, so that what is read is what stands: an ordinary read could show the session as free a moment later.
    row = connection.execute(_TURN, this).first()
    if row is None:
        raise SessionNotFound(run.session_id)
    if row.active_run_id is None:
        return _claim(connection, run)
    if row.active_run_id == run.id and exists(connection, run.owner, run.id):
        return False
    raise SessionBusy(run.session_id, row.active_run_id)


def exists(connection: sa.Connection, owner: Owner, run_id: UUID) -> bool:
    """Whether there is such a run of the owner's."""
    return connection.execute(_EXISTS, {"run": run_id, **of(owner)}).first() is not None


def get(connection: sa.Connection, owner: Owner, run_id: UUID) -> Run:
    """Raises RunNotFound."""
    found = _all(connection, _GET, {"run": run_id, **of(owner)})
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
    query = sa.select(runs).where(owned(runs))
    if session_id is not None:
        query = query.where(runs.c.session_id == session_id)
    if agent_name:
        query = query.where(runs.c.agent_name == agent_name)
    if status is not None:
        query = query.where(runs.c.status == str(status))
    query = session_rows.newest_first(query, runs.c.create_time, runs.c.id, page)
    return _all(connection, query, of(owner))


def unfinished(connection: sa.Connection, before: datetime) -> list[Run]:
    """Running runs, of any owner, whose lease is older; the oldest first."""
    return _all(connection, _UNFINISHED, {"before": before})


def renew(connection: sa.Connection, run_ids: Sequence[UUID], now: datetime) -> None:
    """Renews the leases of those that still run."""
    keys = sorted(run_ids)
    for start_at in range(0, len(keys), session_rows.BATCH):
        connection.execute(_RENEW, {"runs": keys[start_at : start_at + session_rows.BATCH], "now": now})


def lock(
    connection: sa.Connection, owner: Owner, session_id: UUID, run_id: UUID
) -> sa.Row[str, str, int, int | None] | None:
    """How far the run is, locked to the end of the transaction; after its session's row."""
    return connection.execute(_LOCK, {"run": run_id, "session": session_id, **of(owner)}).first()


def _all(connection: sa.Connection, query: sa.Select[Any], parameters: Values) -> list[Run]:
    rows = connection.execute(query, parameters).all()
    ended = [row for row in rows if row.last_event is not None]
    values = unpack(connection, (row.id for row in ended), (row.last_event for row in ended))
    last_events = dict(zip((row.id for row in ended), values, strict=True))
    return [run_of(row, last_events.get(row.id, b"")) for row in rows]
