"""The end (or pause) of a run: everything that it leaves, in one transaction.

In this order, so that two transactions never wait for each other: the session's row is locked; the run's row is locked
and must still be open; messages with the session's next sequences; media references; model calls; the last events; the
run's row; the session's row. A whole run's messages are one block: concurrent runs never interleave.
"""

import logging
from collections import Counter
from dataclasses import dataclass
from uuid import UUID

import sqlalchemy as sa

from dragoman.errors import RunNotFound
from dragoman.records import RunEnd, RunStatus
from dragoman.storage import media
from dragoman.storage import runs as run_rows
from dragoman.storage import sessions as session_rows
from dragoman.storage.rows import (
    Packer,
    Values,
    after_sequence,
    call_values,
    chunk_values,
    message_values,
    of,
    owned,
    totals_values,
)
from dragoman.storage.tables import (
    chat_events,
    message_media,
    model_calls,
    pieces,
    run_events,
    runs,
    sessions,
)

logger = logging.getLogger(__name__)

_PROGRESS = sa.select(runs.c.status, runs.c.last_sequence).where(
    runs.c.id == sa.bindparam("run"), owned(runs)
)
_INSERT_MESSAGES = sa.insert(chat_events)
_INSERT_LINKS = sa.insert(message_media)
_INSERT_CALLS = sa.insert(model_calls)
_INSERT_EVENTS = sa.insert(run_events)
_INSERT_PIECES = sa.insert(pieces)
_UPDATE_RUN = sa.update(runs).where(runs.c.id == sa.bindparam("run"))
_UPDATE_SESSION = sa.update(sessions).where(sessions.c.id == sa.bindparam("session"))


class MediaGone(Exception):
    """A medium of the end has been deleted since it was put: put it again."""


@dataclass(frozen=True, slots=True)
class Ending:
    """An end, encoded. Made once, outside of the transaction and its repetitions."""

    end: RunEnd
    messages: list[Values]
    links: list[Values]
    references: Counter[bytes]
    last_event: bytes
    pieces: list[Values]
    limit: int


def prepare(end: RunEnd, limit: int) -> Ending:
    """Encodes what is large. Takes as long as compressing it takes."""
    packer = Packer(end.run_id, limit)
    return Ending(
        end=end,
        messages=[
            message_values(message, end.owner, end.session_id, end.run_id, packer) for message in end.messages
        ],
        links=[
            {"message_id": message.id, "position": position, "sha256": sha256}
            for message in end.messages
            for position, sha256 in enumerate(message.media)
        ],
        references=Counter(sha256 for message in end.messages for sha256 in message.media),
        last_event=packer.pack(end.chunk.events[-1]),
        pieces=packer.pieces,
        limit=limit,
    )


def is_open(connection: sa.Connection, end: RunEnd) -> bool:
    """Whether the end would still change something. Raises RunNotFound."""
    row = connection.execute(_PROGRESS, {"run": end.run_id, **of(end.owner)}).first()
    if row is None:
        raise RunNotFound(end.run_id)
    return not _done(row.status, row.last_sequence, end)


def write(connection: sa.Connection, ending: Ending) -> None:
    """Writes the end; nothing when it has been written, or the run has ended otherwise.

    Raises RunNotFound when there is no such run of the owner's in the session (any more), MediaGone.
    """
    end = ending.end
    session = session_rows.lock(connection, end.owner, end.session_id)
    run = run_rows.lock(connection, end.owner, end.session_id, end.run_id)
    if session is None or run is None:
        raise RunNotFound(end.run_id)
    if _done(run.status, run.last_sequence, end):
        return
    last_message = _write_messages(connection, ending, session.last_sequence)
    if end.calls:
        connection.execute(
            _INSERT_CALLS,
            [
                call_values(call, end.owner, end.session_id, end.run_id, run.agent_name, end.totals.currency)
                for call in end.calls
            ],
        )
    _write_events(connection, ending, run.last_sequence)
    connection.execute(
        _UPDATE_RUN,
        {
            "run": end.run_id,
            "status": str(end.status),
            "update_time": end.end_time,
            "end_time": end.end_time if end.status.final else None,
            "last_sequence": end.chunk.last_sequence,
            "last_message_sequence": last_message if end.messages else run.last_message_sequence,
            "last_event": ending.last_event,
            **totals_values(end.totals),
        },
    )
    connection.execute(
        _UPDATE_SESSION,
        {
            "session": end.session_id,
            "last_sequence": last_message,
            "message_count": session.message_count + len(end.messages),
            "update_time": end.end_time,
            "active_run_id": _unless(session.active_run_id, end.run_id),
        },
    )


def _done(status: str, last_sequence: int, end: RunEnd) -> bool:
    """True when the run is final, or the end's last event is already in its log (a repeated pause, for example)."""
    return RunStatus(status).final or end.chunk.last_sequence <= last_sequence


def _unless(active_run_id: UUID | None, run_id: UUID) -> UUID | None:
    return None if active_run_id == run_id else active_run_id


def _write_messages(connection: sa.Connection, ending: Ending, last_sequence: int) -> int:
    """Writes the messages with the next sequences. Returns the last one used."""
    if ending.messages:
        connection.execute(
            _INSERT_MESSAGES,
            [
                {**values, "sequence": sequence}
                for sequence, values in enumerate(ending.messages, last_sequence + 1)
            ],
        )
    if ending.pieces:
        connection.execute(_INSERT_PIECES, ending.pieces)
    if ending.links:
        connection.execute(_INSERT_LINKS, ending.links)
        missing = media.claim(connection, ending.end.owner, ending.references)
        if missing & {medium.sha256 for medium in ending.end.media}:
            raise MediaGone()
        if missing:
            logger.error(
                "messages refer to media that are not stored",
                extra={"run_id": str(ending.end.run_id), "media": len(missing)},
            )
    return last_sequence + len(ending.messages)


def _write_events(connection: sa.Connection, ending: Ending, last_sequence: int) -> None:
    """Writes the last events, without those that an append has stored after all."""
    chunk = after_sequence(ending.end.chunk, last_sequence)
    if chunk is None:
        return
    packer = Packer(ending.end.run_id, ending.limit)
    connection.execute(_INSERT_EVENTS, chunk_values(chunk, packer))
    if packer.pieces:
        connection.execute(_INSERT_PIECES, packer.pieces)
