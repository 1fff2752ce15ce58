"""Requests that callers have given an id, so that they may send them twice.

A request's row is written in the transaction that does what was asked for. Who comes second finds it; of two who come
at the same moment the unique key refuses one, whose transaction is then repeated, and finds it.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import RequestRecord
from dragoman.errors import RequestIdReused
from dragoman.records import Owner, RequestKey
from dragoman.storage.rows import of, owned, owner_values
from dragoman.storage.tables import requests

_THIS = sa.and_(owned(requests), requests.c.request_id == sa.bindparam("request"))
_FIND = sa.select(
    requests.c.digest, requests.c.session_id, requests.c.run_id, requests.c.after_sequence
).where(_THIS)
_INSERT = sa.insert(requests)
_OLD = (
    sa.select(requests.c.principal, requests.c.user, requests.c.request_id)
    .where(requests.c.create_time < sa.bindparam("before"))
    .order_by(requests.c.create_time)
    .limit(sa.bindparam("most"))
)
# One by one, and looked at again: a deleted session may have set the key free meanwhile, for a newer request.
_FORGET = sa.delete(requests).where(_THIS, requests.c.create_time < sa.bindparam("before"))
_DELETE = sa.delete(requests).where(requests.c.session_id == sa.bindparam("session"))


def find(connection: sa.Connection, owner: Owner, request: RequestKey) -> RequestRecord | None:
    """What the same request came to; None when there was none. Raises RequestIdReused."""
    row = connection.execute(_FIND, {"request": request.id, **of(owner)}).first()
    if row is None:
        return None
    if row.digest != request.digest:
        raise RequestIdReused(request.id)
    return RequestRecord(request, row.session_id, row.run_id, row.after_sequence)


def insert(
    connection: sa.Connection,
    owner: Owner,
    request: RequestKey,
    session_id: UUID,
    run_id: UUID | None,
    now: datetime,
    *,
    after_sequence: int = 0,
) -> None:
    """Notes what the request came to. Raises IntegrityError when another transaction has been faster."""
    connection.execute(
        _INSERT,
        {
            **owner_values(owner),
            "request_id": request.id,
            "digest": request.digest,
            "session_id": session_id,
            "run_id": run_id,
            "after_sequence": after_sequence,
            "create_time": now,
        },
    )


def trim(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Forgets at most `limit` requests that were made before, the oldest first; returns how many."""
    rows: Sequence[sa.Row[str, str, str]] = connection.execute(_OLD, {"before": before, "most": limit}).all()
    if rows:
        connection.execute(
            _FORGET,
            [
                {"request": row.request_id, "before": before, **of(Owner(row.principal, row.user))}
                for row in rows
            ],
        )
    return len(rows)


def delete(connection: sa.Connection, session_id: UUID) -> None:
    """Deletes those of a session."""
    connection.execute(_DELETE, {"session": session_id})
