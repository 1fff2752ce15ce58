"""Continuing a paused run: one of those who want to wins, and takes what the pause has kept.

The session's row is locked first, as everywhere: a run that interrupts sees the paused one either paused or running.
"""

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import Continued
from dragoman.errors import RunNotFound, RunNotPaused
from dragoman.records import Owner, Pause, RequestKey, Run, RunStatus
from dragoman.storage import pauses
from dragoman.storage import requests as request_rows
from dragoman.storage import runs as run_rows
from dragoman.storage import sessions as session_rows
from dragoman.storage.clock import now
from dragoman.storage.rows import of, owned
from dragoman.storage.tables import chat_events, runs

_CONTINUE = (
    sa.update(runs)
    .where(runs.c.id == sa.bindparam("run"))
    .values(status=str(RunStatus.RUNNING), lease_time=now(), last_event=None, expire_time=None)
)
_MESSAGES = (
    sa.select(chat_events.c.id)
    .where(chat_events.c.root_run_id == sa.bindparam("run"), owned(chat_events))
    .order_by(chat_events.c.sequence)
)


@dataclass(slots=True)
class Continuing:
    """What is asked for; one object for all attempts."""

    owner: Owner
    run_id: UUID
    after_sequence: int
    holder: UUID
    request: RequestKey | None
    time: datetime
    """Of this call: with the holder it tells this call's work from that of others."""
    taken: Pause | None = None
    """What an attempt has taken whose commit may or may not have happened."""


def continue_run(connection: sa.Connection, wanted: Continuing) -> Continued:
    """PAUSED becomes RUNNING. Raises RunNotFound, RunNotPaused, RequestIdReused, and IntegrityError when the same request
    has been made at the same moment: to try again finds it."""
    owner, run_id = wanted.owner, wanted.run_id
    run = run_rows.get(connection, owner, run_id)
    session_rows.lock(connection, owner, run.session_id)
    row = run_rows.lock(connection, owner, run.session_id, run_id)
    if row is None:
        raise RunNotFound(run_id)
    if wanted.taken is not None and (row.holder, row.update_time) == (wanted.holder, wanted.time):
        return _result(connection, wanted, wanted.after_sequence, wanted.taken)
    if wanted.request is not None:
        record = request_rows.find(connection, owner, wanted.request)
        if record is not None:
            return _result(connection, wanted, record.after_sequence, None)
    if row.status != RunStatus.PAUSED or row.last_sequence != wanted.after_sequence:
        raise RunNotPaused(run_id, row.status)
    wanted.taken = pauses.take(connection, run_id)
    if wanted.taken is None:  # it was paused by a release that kept nothing
        raise RunNotPaused(run_id, row.status)
    connection.execute(_CONTINUE, {"run": run_id, "holder": wanted.holder, "update_time": wanted.time})
    if wanted.request is not None:
        request_rows.insert(
            connection,
            owner,
            wanted.request,
            run.session_id,
            run_id,
            wanted.time,
            after_sequence=wanted.after_sequence,
        )
    return _result(connection, wanted, wanted.after_sequence, wanted.taken)


def _result(
    connection: sa.Connection, wanted: Continuing, after_sequence: int, pause: Pause | None
) -> Continued:
    run: Run = run_rows.get(connection, wanted.owner, wanted.run_id)
    session = session_rows.get(connection, wanted.owner, run.session_id)
    message_ids = connection.execute(_MESSAGES, {"run": run.id, **of(wanted.owner)}).scalars().all()
    return Continued(run, after_sequence, session, pause, tuple(message_ids))
