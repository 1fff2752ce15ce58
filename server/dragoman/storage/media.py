"""Media: bytes of an owner, stored once however often they are sent.

A medium is put before the transaction that refers to it, so that megabytes are never written while a session is locked.
Until then nothing refers to it (`refs` is 0). Between the two a deleted session may have taken the medium with it, when
that session was the last to refer to it; the referring transaction notices, and the medium is put again.
"""

from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

import sqlalchemy as sa

from dragoman import ids
from dragoman.records import Media, Owner
from dragoman.storage import codec
from dragoman.storage.rows import of, owned, owner_values
from dragoman.storage.tables import chat_events, media, media_chunks, message_media

_THIS = sa.and_(owned(media), media.c.sha256 == sa.bindparam("hash"))
_FIND = sa.select(media.c.id).where(_THIS)
_INSERT = sa.insert(media)
_INSERT_CHUNK = sa.insert(media_chunks)
_GET = (
    sa.select(media.c.sha256, media.c.mime_type, media_chunks.c.data)
    .join(media_chunks, media_chunks.c.media_id == media.c.id)
    .where(owned(media), media.c.sha256.in_(sa.bindparam("hashes", expanding=True)))
    .order_by(media.c.id, media_chunks.c.position)
)
_COUNT = sa.update(media).where(_THIS).values(refs=media.c.refs + sa.bindparam("change"))
_UNUSED = _FIND.where(media.c.refs <= 0)


def put(connection: sa.Connection, owner: Owner, medium: Media, limit: int, now: datetime) -> None:
    """Stores the medium in chunks of at most `limit` bytes, unless the owner has it already."""
    if connection.execute(_FIND, {"hash": medium.sha256, **of(owner)}).first() is not None:
        return
    media_id = ids.new_id()
    connection.execute(
        _INSERT,
        {
            "id": media_id,
            **owner_values(owner),
            "sha256": medium.sha256,
            "mime_type": medium.mime_type,
            "size": len(medium.data),
            "refs": 0,
            "create_time": now,
        },
    )
    for position, data in enumerate(codec.cut(medium.data, limit)):
        connection.execute(_INSERT_CHUNK, {"media_id": media_id, "position": position, "data": data})


def get(connection: sa.Connection, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
    """Those that there are, by hash."""
    if not hashes:
        return {}
    mime_types: dict[bytes, str] = {}
    data: dict[bytes, list[bytes]] = {}
    for sha256, mime_type, chunk in connection.execute(_GET, {"hashes": set(hashes), **of(owner)}):
        mime_types[sha256] = mime_type
        data.setdefault(sha256, []).append(chunk)
    return {
        sha256: Media(sha256, mime_type, b"".join(data[sha256])) for sha256, mime_type in mime_types.items()
    }


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
        this = {"hash": sha256, **of(owner)}
        connection.execute(_COUNT, {**this, "change": -count})
        unused = connection.execute(_UNUSED, this).scalar()
        if unused is not None:
            connection.execute(sa.delete(media_chunks).where(media_chunks.c.media_id == unused))
            connection.execute(sa.delete(media).where(media.c.id == unused))
