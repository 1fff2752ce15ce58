"""Messages: reading a session's `chat_events`."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import Page
from dragoman.records import Message, Owner
from dragoman.storage.rows import SPENT, Values, message_of, of, owned, unpack
from dragoman.storage.sessions import BATCH
from dragoman.storage.tables import chat_events, message_media, runs

_OF_SESSION = sa.select(chat_events).where(
    chat_events.c.session_id == sa.bindparam("session"), owned(chat_events)
)
# Every run reads its history, and no run reads what it has cost: half of a row's columns.
_HISTORY = (
    sa.select(*(column for column in chat_events.c if column.name not in SPENT))
    .where(
        chat_events.c.session_id == sa.bindparam("session"),
        owned(chat_events),
        chat_events.c.parent_run_id.is_(None),
    )
    .order_by(chat_events.c.sequence)
)
_RECENT = (
    sa.select(runs.c.id)
    .where(
        runs.c.session_id == sa.bindparam("session"),
        owned(runs),
        runs.c.last_message_sequence.is_not(None),
    )
    .order_by(runs.c.last_message_sequence.desc())
    .limit(sa.bindparam("last"))
    .subquery()
)
_RECENT_HISTORY = _HISTORY.join(_RECENT, _RECENT.c.id == chat_events.c.root_run_id)
_DELEGATED = (
    sa.select(
        chat_events.c.root_run_id,
        chat_events.c.run_id,
        sa.func.row_number()
        .over(partition_by=chat_events.c.agent_name, order_by=sa.func.max(chat_events.c.sequence).desc())
        .label("place"),
    )
    .join(_RECENT, _RECENT.c.id == chat_events.c.root_run_id)
    .where(
        chat_events.c.parent_run_id == chat_events.c.root_run_id,
        chat_events.c.agent_name.in_(sa.bindparam("names", expanding=True)),
    )
    .group_by(chat_events.c.agent_name, chat_events.c.root_run_id, chat_events.c.run_id)
    .subquery()
)
_MEMBER_HISTORY = (
    sa.select(*(column for column in chat_events.c if column.name not in SPENT))
    .join(
        _DELEGATED,
        sa.and_(
            _DELEGATED.c.root_run_id == chat_events.c.root_run_id, _DELEGATED.c.run_id == chat_events.c.run_id
        ),
    )
    .where(_DELEGATED.c.place <= sa.bindparam("each"))
    .order_by(chat_events.c.sequence)
)
_MEDIA = (
    sa.select(message_media.c.message_id, message_media.c.sha256)
    .where(message_media.c.message_id.in_(sa.bindparam("messages", expanding=True)))
    .order_by(message_media.c.message_id, message_media.c.position)
)


def select(
    connection: sa.Connection,
    owner: Owner,
    session_id: UUID,
    page: Page[int],
    *,
    run_id: UUID | None,
    newest_first: bool,
    members: bool,
) -> list[Message]:
    """A page by sequence. `run_id` is the run that a caller started: its members' messages belong to it."""
    sequence = chat_events.c.sequence
    query = _OF_SESSION
    if run_id is not None:
        query = query.where(chat_events.c.root_run_id == run_id)
    if not members:
        query = query.where(chat_events.c.parent_run_id.is_(None))
    if page.after is not None:
        query = query.where(sequence < page.after if newest_first else sequence > page.after)
    query = query.order_by(sequence.desc() if newest_first else sequence).limit(page.size)
    return _all(connection, query, {"session": session_id, **of(owner)})


def history(connection: sa.Connection, owner: Owner, session_id: UUID, last: int | None) -> list[Message]:
    """What the session's own agent has said and heard in the last runs (None: all), in order; without tokens and costs.

    The last runs are found by the last message that each has left, from the end of an index: the cost does not grow with
    the session.
    """
    parameters = {"session": session_id, **of(owner)}
    if last is None:
        return _all(connection, _HISTORY, parameters, spent=False)
    return _all(connection, _RECENT_HISTORY, {**parameters, "last": last}, spent=False)


def member_history(
    connection: sa.Connection, owner: Owner, session_id: UUID, names: Sequence[str], each: int, last: int
) -> list[Message]:
    """What members have said and heard when the session's own team delegated to them, in order; without costs.

    Of each the latest `each` of its runs, as far as they are among the session's last `last` runs, which bound the cost.
    """
    parameters = {"session": session_id, **of(owner), "names": list(names), "each": each, "last": last}
    return _all(connection, _MEMBER_HISTORY, parameters, spent=False)


def _all(
    connection: sa.Connection, query: sa.Select[Any], parameters: Values, *, spent: bool = True
) -> list[Message]:
    rows = connection.execute(query, parameters).all()
    parts = unpack(connection, (row.root_run_id for row in rows), (row.message_parts for row in rows))
    media = _media(connection, [row.id for row in rows if row.media_count])
    return [
        message_of(row, value, tuple(media.get(row.id, ())), spent=spent)
        for row, value in zip(rows, parts, strict=True)
    ]


def _media(connection: sa.Connection, message_ids: list[UUID]) -> dict[UUID, list[bytes]]:
    hashes: dict[UUID, list[bytes]] = {}
    for start in range(0, len(message_ids), BATCH):
        named = {"messages": message_ids[start : start + BATCH]}
        for message_id, sha256 in connection.execute(_MEDIA, named):
            hashes.setdefault(message_id, []).append(sha256)
    return hashes
