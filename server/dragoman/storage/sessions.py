"""Sessions: statements within a transaction that the caller opens."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import Page, TimeKey
from dragoman.errors import SessionBusy, SessionNotFound
from dragoman.records import Owner, RequestKey, RunStatus, Session
from dragoman.storage import media, requests
from dragoman.storage.rows import Values, of, owned, session_of, session_values
from dragoman.storage.tables import chat_events, message_media, pieces, run_events, run_pauses, runs, sessions

BATCH = 500
"""Keys that one statement names at most."""

_THIS = sa.and_(sessions.c.id == sa.bindparam("session"), owned(sessions))
_GET = sa.select(sessions).where(_THIS)
_EXISTS = sa.select(sessions.c.id).where(_THIS)
_LOCK = (
    sa.select(sessions.c.active_run_id, sessions.c.message_count, sessions.c.last_sequence)
    .where(_THIS)
    .with_for_update()
)
_INSERT = sa.insert(sessions)
_QUEUED = (
    sa.select(runs.c.id)
    .where(runs.c.session_id == sa.bindparam("session"), runs.c.status == str(RunStatus.QUEUED))
    .limit(1)
)
_UPDATE = sa.update(sessions).where(_THIS)


def insert(connection: sa.Connection, session: Session, request: RequestKey | None) -> Session:
    """Inserts the session and returns it; or the one that the same request has made, or an earlier attempt.

    Raises RequestIdReused, and IntegrityError when the same request has been made at the same moment: to try again
    finds it.
    """
    if request is not None:
        record = requests.find(connection, session.owner, request)
        if record is not None:
            return get(connection, session.owner, record.session_id)
    if not _exists(connection, session.owner, session.id):
        connection.execute(_INSERT, session_values(session))
        if request is not None:
            requests.insert(connection, session.owner, request, session.id, None, session.create_time)
    return session


def get(connection: sa.Connection, owner: Owner, session_id: UUID) -> Session:
    """Raises SessionNotFound."""
    row = connection.execute(_GET, {"session": session_id, **of(owner)}).first()
    if row is None:
        raise SessionNotFound(session_id)
    return session_of(row)


def check(connection: sa.Connection, owner: Owner, session_id: UUID) -> None:
    """Raises SessionNotFound unless the session is the owner's."""
    if not _exists(connection, owner, session_id):
        raise SessionNotFound(session_id)


def lock(connection: sa.Connection, owner: Owner, session_id: UUID) -> sa.Row[UUID | None, int, int] | None:
    """The session's turn and counters, locked to the end of the transaction.

    Always the first lock that a transaction takes.
    """
    return connection.execute(_LOCK, {"session": session_id, **of(owner)}).first()


def select(connection: sa.Connection, owner: Owner, agent_name: str, page: Page[TimeKey]) -> list[Session]:
    """A page by (update_time, id), the newest first."""
    query = sa.select(sessions).where(owned(sessions))
    if agent_name:
        query = query.where(sessions.c.agent_name == agent_name)
    query = newest_first(query, sessions.c.update_time, sessions.c.id, page)
    return [session_of(row) for row in connection.execute(query, of(owner))]


def newest_first(
    query: sa.Select[Any], time: sa.Column[Any], key: sa.Column[Any], page: Page[TimeKey]
) -> sa.Select[Any]:
    """`query` cut down to a page. Not `(time, key) < (...)`: MySQL reads the whole index for a comparison of rows."""
    if page.after is not None:
        moment, last = page.after
        query = query.where(time <= moment, sa.or_(time < moment, key < last))
    return query.order_by(time.desc(), key.desc()).limit(page.size)


def update(
    connection: sa.Connection,
    owner: Owner,
    session_id: UUID,
    *,
    title: str | None,
    metadata: Mapping[str, str] | None,
    now: datetime,
) -> Session:
    """Changes what is not None. Raises SessionNotFound."""
    changes: Values = {"update_time": now}
    if title is not None:
        changes["title"] = title
    if metadata is not None:
        changes["metadata"] = dict(metadata)
    connection.execute(_UPDATE, {"session": session_id, **of(owner), **changes})
    return get(connection, owner, session_id)


def delete(connection: sa.Connection, uncertain: bool, owner: Owner, session_id: UUID) -> None:
    """Deletes it and all that hangs on it, but for the ledger. Raises SessionNotFound, SessionBusy.

    `uncertain`: an earlier attempt may have deleted it, so that not to find it is no error.
    """
    session = lock(connection, owner, session_id)
    if session is None:
        if uncertain:
            return
        raise SessionNotFound(session_id)
    # Also one that was to wait and is asked to end: it has not ended yet.
    busy = session.active_run_id or connection.execute(_QUEUED, {"session": session_id}).scalar()
    if busy is not None:
        raise SessionBusy(session_id, busy)
    media.release(connection, owner, session_id)
    # By lists of keys: MariaDB answers DELETE ... IN (SELECT ...) by reading the whole table.
    with_media = sa.select(chat_events.c.id).where(
        chat_events.c.session_id == session_id, chat_events.c.media_count > 0
    )
    _delete_all(connection, message_media.c.message_id, connection.execute(with_media).scalars().all())
    connection.execute(sa.delete(chat_events).where(chat_events.c.session_id == session_id))
    run_ids = connection.execute(sa.select(runs.c.id).where(runs.c.session_id == session_id)).scalars().all()
    for column in (run_events.c.run_id, run_pauses.c.run_id, pieces.c.run_id, runs.c.id):
        _delete_all(connection, column, run_ids)
    requests.delete(connection, session_id)
    connection.execute(sa.delete(sessions).where(sessions.c.id == session_id))


def _delete_all(connection: sa.Connection, column: sa.Column[Any], keys: Sequence[UUID]) -> None:
    for start in range(0, len(keys), BATCH):
        connection.execute(sa.delete(column.table).where(column.in_(keys[start : start + BATCH])))


def _exists(connection: sa.Connection, owner: Owner, session_id: UUID) -> bool:
    return connection.execute(_EXISTS, {"session": session_id, **of(owner)}).first() is not None
