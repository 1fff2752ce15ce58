"""Pauses: what a paused run needs to go on, kept while it is paused.

The row is written by the transaction that pauses the run, and deleted, with the pieces that it refers to, by the one that
lets it go on or ends it.
"""

from datetime import timedelta
from uuid import UUID

import sqlalchemy as sa

from dragoman.records import Pause
from dragoman.storage.codec import REFERENCE_SIZE
from dragoman.storage.rows import AnyRow, Packer, Values, delete_pieces, unpack
from dragoman.storage.tables import run_pauses

_MICROSECOND = timedelta(microseconds=1)

_OF_RUN = run_pauses.c.run_id == sa.bindparam("run")
_INSERT = sa.insert(run_pauses)
_GET = sa.select(run_pauses).where(_OF_RUN)
_REFERENCES = sa.select(
    *(
        sa.func.substr(column, 1, REFERENCE_SIZE, type_=sa.LargeBinary()).label(column.name)
        for column in (run_pauses.c.continuation, run_pauses.c.content)
    )
).where(_OF_RUN)
_DELETE = sa.delete(run_pauses).where(_OF_RUN)


def values(run_id: UUID, pause: Pause, packer: Packer) -> Values:
    """A row of `run_pauses`."""
    return {
        "run_id": run_id,
        "continuation": packer.pack(pause.continuation),
        "content": packer.pack(pause.content.encode()),
        "active_us": pause.active // _MICROSECOND,
        "expire_time": pause.expire_time,
    }


def insert(connection: sa.Connection, row: Values) -> None:
    """Writes the row; its pieces are the caller's."""
    connection.execute(_INSERT, row)


def take(connection: sa.Connection, run_id: UUID) -> Pause | None:
    """Deletes the pause and returns it; None when there is none."""
    row = connection.execute(_GET, {"run": run_id}).first()
    if row is None:
        return None
    continuation, content = unpack(connection, (run_id,), (row.continuation, row.content))
    _delete(connection, run_id, row)
    return Pause(continuation, content.decode(), row.active_us * _MICROSECOND, row.expire_time)


def drop(connection: sa.Connection, run_id: UUID) -> None:
    """Deletes the pause, if there is one, without reading it."""
    row = connection.execute(_REFERENCES, {"run": run_id}).first()
    if row is not None:
        _delete(connection, run_id, row)


def _delete(connection: sa.Connection, run_id: UUID, row: AnyRow) -> None:
    connection.execute(_DELETE, {"run": run_id})
    delete_pieces(connection, run_id, (row.continuation, row.content))
