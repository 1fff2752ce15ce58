"""Media that are read and written partly in the database and partly in a media store (see media.py)."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final

import sqlalchemy as sa

from dragoman.engine.ports import BlobStore
from dragoman.errors import MediaNotFound, StorageUnavailable
from dragoman.records import Media, Owner, utcnow
from dragoman.storage import media
from dragoman.storage.database import Database

logger = logging.getLogger(__name__)

AT_ONCE: Final = 4
"""Objects of the media store that one call reads at a time."""

GARBAGE: Final = 100
"""Unwanted objects that are deleted at a time."""


class MediaKeeper:
    """The media of a store. `blobs`: where new ones go; None: into the database."""

    def __init__(self, database: Database, blobs: BlobStore | None) -> None:
        self._database = database
        self._blobs = blobs

    async def put(self, owner: Owner, medium: Media, limit: int) -> None:
        """Keeps a medium. Raises StorageUnavailable."""
        now, elsewhere = utcnow(), self._blobs is not None
        try:
            key = await self._database.write(
                lambda c: media.put(c, owner, medium, limit, now, elsewhere=elsewhere)
            )
        except sa.exc.IntegrityError:
            # Somebody put the same one at the same moment.
            row = await self._database.read(lambda c: media.find(c, owner, medium.sha256))
            if row is None:
                raise
            key = row.store_key
        if key is not None:
            await self._store().put(key, medium.data)

    async def get(self, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
        """Those of the owner's that there are, by hash, whole."""
        found: dict[bytes, Media] = {}
        for group in await self._database.read(lambda c: media.bulks(c, owner, hashes)) if hashes else ():
            here, there = await self._database.read(partial(media.get, owner=owner, hashes=group))
            found |= here
            if there:
                found |= await self._fetch(there)
        return found

    async def open(self, owner: Owner, sha256: bytes) -> "Medium":
        """A medium to be read in pieces. Raises MediaNotFound."""
        row = await self._database.read(lambda c: media.find(c, owner, sha256))
        # One that nothing refers to yet may not have its bytes yet.
        if row is None or row.refs <= 0:
            raise MediaNotFound(sha256.hex())
        if row.store_key is not None:
            return Medium(sha256, row, self._database, self._store())
        chunks = await self._database.read(lambda c: media.lengths(c, row.id))
        return Medium(sha256, row, self._database, None, tuple(chunks))

    async def collect(self) -> int:
        """Deletes unwanted objects; returns how many there were. Raises StorageUnavailable."""
        if self._blobs is None:
            return 0  # a server that knows the media store does it
        keys = await self._database.read(lambda c: media.unwanted(c, GARBAGE))
        if keys:
            for key in keys:
                await self._blobs.delete(key)
            await self._database.write(lambda c: media.forget(c, keys))
        return len(keys)

    async def _fetch(self, there: dict[bytes, tuple[str, str]]) -> dict[bytes, Media]:
        store, gate = self._store(), asyncio.Semaphore(AT_ONCE)

        async def one(sha256: bytes, mime_type: str, key: str) -> Media | None:
            async with gate:
                data = await store.get(key)
            return None if data is None else Media(sha256, mime_type, data)

        tasks = [asyncio.create_task(one(sha256, *where)) for sha256, where in there.items()]
        try:
            found = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        return {medium.sha256: medium for medium in found if medium is not None}

    def _store(self) -> BlobStore:
        if self._blobs is None:
            logger.error("media are in a media store, and this server was given none: set media_store")
            raise StorageUnavailable
        return self._blobs


@dataclass(frozen=True, slots=True)
class Medium:
    """Satisfies `engine.ports.StoredMedium`. Between two reads it holds nothing open."""

    sha256: bytes
    row: media.Row
    database: Database = field(repr=False)
    blobs: BlobStore | None = field(repr=False)
    chunks: tuple[int, ...] = ()
    """Bytes of each chunk, of one that is in the database."""

    @property
    def mime_type(self) -> str:
        """What it is."""
        return self.row.mime_type

    @property
    def size(self) -> int:
        """Bytes."""
        return self.row.size

    async def read(self, offset: int, size: int) -> bytes:
        """At most `size` of its bytes from `offset` on. Raises MediaNotFound, StorageUnavailable."""
        size = min(size, self.size - offset)
        if size <= 0:
            return b""
        if self.blobs is not None and self.row.store_key is not None:
            found = await self.blobs.get(self.row.store_key, offset, size)
        else:
            found = await self.database.read(lambda c: self._pieces(c, offset, size))
        if found is None or len(found) != size:
            raise MediaNotFound(self.sha256.hex())
        return found

    def _pieces(self, connection: sa.Connection, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        for position, length in enumerate(self.chunks):
            if offset < length and size > 0:
                parts.append(media.piece(connection, self.row.id, position, offset, size))
                size -= length - offset
            offset = max(0, offset - length)
        return b"".join(parts)
