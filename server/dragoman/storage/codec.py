"""How large values lie in a column.

    b"\\x00" + bytes               as they are
    b"\\x01" + zstd frame          compressed, from about 1 KB up where that saves anything
    b"\\x02" + 16 bytes of an id   elsewhere: the rows of `pieces` with that id, joined in order, are one of the above

A database takes a statement up to some size (`max_allowed_packet`), and the driver writes bytes as hex digits, twice as
long; so a value above the store's limit is cut into pieces.

An event chunk is its events one after the other, each behind its length (four bytes, big-endian), stored as above.
"""

import struct
import threading
from collections.abc import Iterable, Sequence
from uuid import UUID

import zstandard

PLAIN, ZSTD, PIECES = b"\x00", b"\x01", b"\x02"

COMPRESS_FROM = 1024
"""Below so many bytes compression costs more than it saves."""

REFERENCE_SIZE = 17
"""Bytes of a value that tell where its pieces are, if it has some."""

_LENGTH = struct.Struct(">I")
_local = threading.local()


def encode(value: bytes) -> bytes:
    """The tagged form of `value`."""
    if len(value) >= COMPRESS_FROM:
        compressed = _compressor().compress(value)
        if len(compressed) < len(value):
            return ZSTD + compressed
    return PLAIN + value


def decode(stored: bytes) -> bytes:
    """The value that `encode` was given. Raises ValueError for anything else."""
    tag, body = stored[:1], stored[1:]
    if tag == PLAIN:
        return body
    if tag == ZSTD:
        return zstandard.ZstdDecompressor().decompress(body)
    raise ValueError(f"a stored value has the unknown tag {tag!r}")


def cut(data: bytes, size: int) -> list[bytes]:
    """`data` in pieces of at most `size` bytes; one empty piece when there is none."""
    return [data[at : at + size] for at in range(0, len(data), size)] or [b""]


def reference(value_id: UUID) -> bytes:
    """What stands in the column of a value that is kept in pieces."""
    return PIECES + value_id.bytes


def referenced(stored: bytes) -> UUID | None:
    """The id under which the pieces are kept, or None when `stored` is the value itself."""
    return UUID(bytes=stored[1:]) if stored[:1] == PIECES else None


def frame(events: Iterable[bytes]) -> bytes:
    """Events as one value."""
    return b"".join([part for event in events for part in (_LENGTH.pack(len(event)), event)])


def unframe(value: bytes) -> tuple[bytes, ...]:
    """The events of `frame`. Raises ValueError when the value is cut off."""
    events: list[bytes] = []
    at = 0
    while at < len(value):
        start = at + _LENGTH.size
        if start > len(value):
            raise ValueError("a chunk of events is cut off")
        at = start + _LENGTH.unpack_from(value, at)[0]
        if at > len(value):
            raise ValueError("a chunk of events is cut off")
        events.append(value[start:at])
    return tuple(events)


def framed_size(events: Sequence[bytes]) -> int:
    """Bytes that the events themselves have."""
    return sum(map(len, events))


def _compressor() -> zstandard.ZstdCompressor:
    """One per thread: a compressor must not be shared, and making one costs more than a small message."""
    compressor: zstandard.ZstdCompressor | None = getattr(_local, "compressor", None)
    if compressor is None:
        compressor = _local.compressor = zstandard.ZstdCompressor(level=1)
    return compressor
