"""The end (or pause) of a run: everything that it leaves, in one transaction.

In this order, so that two transactions never wait for each other: the session's row is locked; the run's row is locked
and must still be open; messages with the session's next sequences; media references; model calls; the last events; the
pause; the run's row; the row of the run that is next; the session's row. A whole run's messages are one block: concurrent
runs never interleave.

A process that was taken for dead may come late: its run has ended without it. Then its calls are booked, for they were
made, and nothing else is changed.
"""

import logging
from collections import Counter
from dataclasses import dataclass

import sqlalchemy as sa

from dragoman.engine.ports import Ended
from dragoman.errors import RunNotFound
from dragoman.records import RunEnd, RunStatus
from dragoman.storage import calls, events, media, pauses, turns
from dragoman.storage import runs as run_rows
from dragoman.storage import sessions as session_rows
from dragoman.storage.rows import (
    AnyRow,
    Packer,
    Values,
    after_sequence,
    chunk_values,
    message_values,
    of,
    owned,
    totals_values,
    unpack,
)
from dragoman.storage.tables import (
    chat_events,
    message_media,
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
_INSERT_EVENTS = sa.insert(run_events)
_INSERT_PIECES = sa.insert(pieces)
_LAST_EVENT = sa.select(runs.c.last_event).where(runs.c.id == sa.bindparam("run"))
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
    pause: Values | None
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
        pause=None if end.pause is None else pauses.values(end.run_id, end.pause, packer),
        last_event=packer.pack(end.chunk.events[-1]),
        pieces=packer.pieces,
        limit=limit,
    )


def is_open(connection: sa.Connection, end: RunEnd) -> bool:
    """Whether the end would still change something. Raises RunNotFound."""
    row = connection.execute(_PROGRESS, {"run": end.run_id, **of(end.owner)}).first()
    if row is None:
        raise RunNotFound(end.run_id)
    return _fits(row.status, row.last_sequence, end)


def write(connection: sa.Connection, ending: Ending) -> Ended:
    """Writes the end; when the run has ended otherwise, its calls at most.

    Raises RunNotFound when there is no such run of the owner's in the session (any more), MediaGone.
    """
    end = ending.end
    session = session_rows.lock(connection, end.owner, end.session_id)
    run = run_rows.lock(connection, end.owner, end.session_id, end.run_id)
    if session is None or run is None:
        raise RunNotFound(end.run_id)
    if not _fits(run.status, run.last_sequence, end):
        return _late(connection, end, run)
    if end.lapsed is not None and not run_rows.lapsed(connection, end.run_id, end.lapsed):
        return Ended(stored=False)
    last_message = _write_messages(connection, ending, session.last_sequence)
    calls.settle(connection, end, run.agent_name, booked=end.booked)
    _write_events(connection, ending, run.last_sequence)
    _write_pause(connection, ending, run.status)
    connection.execute(_UPDATE_RUN, _run_values(ending, last_message, run.last_message_sequence))
    active, following = session.active_run_id, None
    if active == end.run_id and end.status.final:
        active = following = turns.hand_over(connection, end.session_id)
    connection.execute(
        _UPDATE_SESSION,
        {
            "session": end.session_id,
            "last_sequence": last_message,
            "message_count": session.message_count + len(end.messages),
            "update_time": end.end_time,
            "active_run_id": active,
        },
    )
    return Ended(stored=True, next_run_id=following)


def _fits(status: str, last_sequence: int, end: RunEnd) -> bool:
    """Whether the end can follow on what is stored; False also when it is stored itself."""
    stands = RunStatus(status)
    if stands.final or end.chunk.last_sequence <= last_sequence:
        return False
    if end.only_paused:
        return stands is RunStatus.PAUSED and last_sequence == end.chunk.first_sequence - 1
    return stands.held or end.status.final


def _late(connection: sa.Connection, end: RunEnd, run: AnyRow) -> Ended:
    """What comes of an end that does not fit: it was stored by an earlier attempt; or another process has ended the run,
    which takes nothing off what its calls have cost."""
    if run.last_sequence >= end.chunk.last_sequence and _is_stored(connection, end, run):
        return Ended(stored=True)
    elsewhere = end.lapsed is None and not end.only_paused
    if RunStatus(run.status).final and elsewhere and end.calls:
        calls.settle_late(connection, end, run.agent_name)
        connection.execute(_UPDATE_RUN, {"run": end.run_id, **totals_values(end.totals)})
    return Ended(stored=False)


def _is_stored(connection: sa.Connection, end: RunEnd, run: AnyRow) -> bool:
    last_event = end.chunk.events[-1]
    if run.last_sequence == end.chunk.last_sequence:
        stored = connection.execute(_LAST_EVENT, {"run": end.run_id}).scalar()
        if stored is not None:
            return unpack(connection, (end.run_id,), (stored,)) == [last_event]
    # A pause that is over: its event is in the log.
    return events.holds(connection, end.run_id, end.chunk.last_sequence, last_event)


def _run_values(ending: Ending, last_message: int, before: int | None) -> Values:
    """The run's row. `before`: the last message that it had."""
    end = ending.end
    final = end.status.final
    return {
        "run": end.run_id,
        "status": str(end.status),
        "update_time": end.end_time,
        "end_time": end.end_time if final else None,
        "log_time": end.end_time if final else None,
        "expire_time": None if final or end.pause is None else end.pause.expire_time,
        "holder": None,
        "last_sequence": end.chunk.last_sequence,
        "last_message_sequence": last_message if end.messages else before,
        "last_event": ending.last_event,
        **totals_values(end.totals),
    }


def _write_pause(connection: sa.Connection, ending: Ending, status: str) -> None:
    """Keeps what the run needs to go on; lets that of a paused run go which ends."""
    if status == RunStatus.PAUSED:
        pauses.drop(connection, ending.end.run_id)
    if ending.pause is not None:
        pauses.insert(connection, ending.pause)


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
    wanted = [chunk for chunk in (ending.end.opening, ending.end.chunk) if chunk is not None]
    chunks = [left for chunk in wanted if (left := after_sequence(chunk, last_sequence)) is not None]
    if not chunks:
        return
    packer = Packer(ending.end.run_id, ending.limit)
    connection.execute(_INSERT_EVENTS, [chunk_values(chunk, packer) for chunk in chunks])
    if packer.pieces:
        connection.execute(_INSERT_PIECES, packer.pieces)
