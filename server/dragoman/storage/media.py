"""Media: bytes of an owner, kept once however often they are sent.

A medium is put before the transaction that refers to it, so that megabytes are never written while a session is locked.
Until then nothing refers to it (`refs` is 0). Between the two a deleted session may have taken the medium with it, when
that session was the last to refer to it; the referring transaction notices, and the medium is put again.

The bytes lie in the database, or in a media store under a key that belongs to the row alone. There the row comes first,
and the bytes are written as long as nothing refers to it: whoever finds a medium that is referred to finds its bytes. A
row that goes leaves its key among the unwanted ones, in the same transaction; they are deleted later, and nothing can
come to use them again.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from uuid import UUID

import sqlalchemy as sa

from dragoman import ids
from dragoman.records import Media, Owner, utcnow
from dragoman.storage import codec
from dragoman.storage.rows import of, owned, owner_values
from dragoman.storage.tables import chat_events, media, media_chunks, message_media, unwanted_blobs

_THIS = sa.and_(owned(media), media.c.sha256 == sa.bindparam("hash"))
_FIND = sa.select(media.c.id, media.c.mime_type, media.c.size, media.c.refs, media.c.store_key).where(_THIS)
_INSERT = sa.insert(media)
_INSERT_CHUNK = sa.insert(media_chunks)
_GET = (
    sa.select(media.c.sha256, media.c.mime_type, media.c.size, media.c.store_key, media_chunks.c.data)
    .outerjoin(media_chunks, media_chunks.c.media_id == media.c.id)
    .where(owned(media), media.c.sha256.in_(sa.bindparam("hashes", expanding=True)))
    .order_by(media.c.id, media_chunks.c.position)
)
_SIZES = sa.select(media.c.sha256, media.c.size).where(
    owned(media), media.c.sha256.in_(sa.bindparam("hashes", expanding=True))
)
_CHUNKS = (
    sa.select(media_chunks.c.position, sa.func.length(media_chunks.c.data).label("length"))
    .where(media_chunks.c.media_id == sa.bindparam("medium"))
    .order_by(media_chunks.c.position)
)
_PIECE = sa.select(
    sa.func.substr(media_chunks.c.data, sa.bindparam("first"), sa.bindparam("most"), type_=sa.LargeBinary())
).where(
    media_chunks.c.media_id == sa.bindparam("medium"), media_chunks.c.position == sa.bindparam("position")
)
_COUNT = sa.update(media).where(_THIS).values(refs=media.c.refs + sa.bindparam("change"))
_ORPHANS = (
    sa.select(media.c.id)
    .where(media.c.refs <= 0, media.c.create_time < sa.bindparam("before"))
    .order_by(media.c.create_time)
    .limit(sa.bindparam("most"))
)
_UNWANTED = (
    sa.select(unwanted_blobs.c.store_key).order_by(unwanted_blobs.c.create_time).limit(sa.bindparam("most"))
)

BULK: Final = 16 * 1024 * 1024
"""Bytes of media that one statement reads, unless a single one has more."""


@dataclass(frozen=True, slots=True)
class Row:
    """Where a medium is."""

    id: UUID
    mime_type: str
    size: int
    refs: int
    store_key: str | None
    """None: in the database."""


def put(
    connection: sa.Connection, owner: Owner, medium: Media, limit: int, now: datetime, *, elsewhere: bool
) -> str | None:
    """Stores the medium, unless the owner has it already: in chunks of at most `limit` bytes, or, `elsewhere`, its row alone.

    Returns the key under which its bytes have to be put into the media store; None when they are where they belong.
    """
    row = find(connection, owner, medium.sha256)
    if row is not None:
        return row.store_key if row.refs <= 0 else None
    media_id = ids.new_id()
    key = str(media_id) if elsewhere else None
    connection.execute(
        _INSERT,
        {
            "id": media_id,
            **owner_values(owner),
            "sha256": medium.sha256,
            "mime_type": medium.mime_type,
            "size": len(medium.data),
            "refs": 0,
            "store_key": key,
            "create_time": now,
        },
    )
    if key is None:
        for position, data in enumerate(codec.cut(medium.data, limit)):
            connection.execute(_INSERT_CHUNK, {"media_id": media_id, "position": position, "data": data})
    return key


def find(connection: sa.Connection, owner: Owner, sha256: bytes) -> Row | None:
    """Where the owner's medium is; None when there is none."""
    row = connection.execute(_FIND, {"hash": sha256, **of(owner)}).first()
    return None if row is None else Row(row.id, row.mime_type, row.size, row.refs, row.store_key)


def get(
    connection: sa.Connection, owner: Owner, hashes: Sequence[bytes]
) -> tuple[dict[bytes, Media], dict[bytes, tuple[str, str]]]:
    """Those that there are, by hash; of those that are in the media store, MIME type and key."""
    if not hashes:
        return {}, {}
    mime_types: dict[bytes, str] = {}
    data: dict[bytes, list[bytes]] = {}
    elsewhere: dict[bytes, tuple[str, str]] = {}
    for sha256, mime_type, _, key, chunk in connection.execute(_GET, {"hashes": set(hashes), **of(owner)}):
        if key is not None:
            elsewhere[sha256] = mime_type, key
        elif chunk is not None:
            mime_types[sha256] = mime_type
            data.setdefault(sha256, []).append(chunk)
    found = {
        sha256: Media(sha256, mime_type, b"".join(data[sha256])) for sha256, mime_type in mime_types.items()
    }
    return found, elsewhere


def bulks(connection: sa.Connection, owner: Owner, hashes: Sequence[bytes]) -> list[list[bytes]]:
    """The hashes in groups that are read together: none has more than `BULK` bytes, but for a single large one."""
    sizes = {row.sha256: row.size for row in connection.execute(_SIZES, {"hashes": set(hashes), **of(owner)})}
    groups: list[list[bytes]] = []
    room = 0
    for sha256, size in sizes.items():
        if size > room or not groups:
            groups.append([])
            room = BULK
        groups[-1].append(sha256)
        room -= size
    return groups


def lengths(connection: sa.Connection, media_id: UUID) -> list[int]:
    """How many bytes each chunk of a medium has, in order."""
    return [row.length for row in connection.execute(_CHUNKS, {"medium": media_id})]


def piece(connection: sa.Connection, media_id: UUID, position: int, offset: int, size: int) -> bytes:
    """At most `size` bytes of a chunk from `offset` on; nothing when the medium is gone."""
    where = {"medium": media_id, "position": position, "first": offset + 1, "most": size}
    return connection.execute(_PIECE, where).scalar() or b""


def claim(connection: sa.Connection, owner: Owner, references: Counter[bytes]) -> set[bytes]:
    """Counts new references; returns the hashes of which the owner has no medium."""
    missing = set()
    # Always in one order: two runs must not wait for each other.
    for sha256, count in sorted(references.items()):
        counted = connection.execute(_COUNT, {"hash": sha256, "change": count, **of(owner)})
        if counted.rowcount == 0:
            missing.add(sha256)
    return missing


def release(connection: sa.Connection, owner: Owner, session_id: UUID) -> None:
    """Takes back the references of the session's messages, and deletes the media that nothing refers to any more."""
    references = connection.execute(
        sa.select(message_media.c.sha256, sa.func.count())
        .join(chat_events, chat_events.c.id == message_media.c.message_id)
        .where(chat_events.c.session_id == session_id)
        .group_by(message_media.c.sha256)
        .order_by(message_media.c.sha256)
    ).all()
    for sha256, count in references:
        connection.execute(_COUNT, {"hash": sha256, **of(owner), "change": -count})
        row = find(connection, owner, sha256)
        if row is not None and row.refs <= 0:
            _delete(connection, row.id)


def sweep(connection: sa.Connection, before: datetime, limit: int) -> int:
    """Deletes at most `limit` media that were put before and were never referred to; returns how many it looked at."""
    found = connection.execute(_ORPHANS, {"before": before, "most": limit}).scalars().all()
    for media_id in found:
        _delete(connection, media_id)
    return len(found)


def _delete(connection: sa.Connection, media_id: UUID) -> None:
    """Deletes a medium, unless somebody has come to refer to it."""
    this = sa.and_(media.c.id == media_id, media.c.refs <= 0)
    row = connection.execute(sa.select(media.c.store_key).where(this).with_for_update()).first()
    if row is None:
        return
    connection.execute(sa.delete(media_chunks).where(media_chunks.c.media_id == media_id))
    connection.execute(sa.delete(media).where(this))
    if row.store_key is not None:
        connection.execute(sa.insert(unwanted_blobs), {"store_key": row.store_key, "create_time": utcnow()})


def unwanted(connection: sa.Connection, limit: int) -> list[str]:
    """Keys that are to be deleted from the media store, the oldest first."""
    return list(connection.execute(_UNWANTED, {"most": limit}).scalars().all())


def forget(connection: sa.Connection, keys: Sequence[str]) -> None:
    """They have been deleted there."""
    for key in keys:
        connection.execute(sa.delete(unwanted_blobs).where(unwanted_blobs.c.store_key == key))
