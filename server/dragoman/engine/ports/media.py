"""Media on their way in and out: what a caller brings, what is fetched, where bytes are kept."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol


class MediaKind(StrEnum):
    """What sort of medium it is; the values are Agno's words."""

    IMAGE = "image"
    FILE = "file"
    AUDIO = "audio"
    VIDEO = "video"


@dataclass(frozen=True, slots=True)
class InputMedia:
    """A medium that came with a message, inspected: `mime_type` is what the bytes are."""

    kind: MediaKind
    mime_type: str
    name: str
    data: bytes = field(repr=False)


class MediaInspector(Protocol):
    """Tells whether bytes are what they claim to be."""

    async def inspect(
        self, kind: MediaKind | None, mime_type: str, name: str, data: bytes, path: str
    ) -> InputMedia:
        """The medium with its true MIME type. Raises InvalidMedia with violations at `path` and below."""
        ...


@dataclass(frozen=True, slots=True)
class FetchedMedium:
    """What a URL gave."""

    data: bytes = field(repr=False)
    mime_type: str
    """What its server says it is, which may be anything; empty when it does not say."""


class MediaFetcher(Protocol):
    """Fetches media that callers name by URL, from hosts that the operator allows."""

    def refusal(self, uri: str) -> str:
        """Why the URL is not fetched, as a sentence without a subject; empty when it would be tried. Asks nobody."""
        ...

    async def fetch(self, uri: str, path: str) -> FetchedMedium:
        """The bytes. Raises InvalidMedia or MediaTooLarge with a violation at `path`."""
        ...


class BlobStore(Protocol):
    """Keeps bytes outside of the database. Every call may raise StorageUnavailable; each may be repeated."""

    async def put(self, key: str, data: bytes) -> None:
        """Keeps `data` under `key`. Again: the same."""
        ...

    async def get(self, key: str, offset: int = 0, size: int | None = None) -> bytes | None:
        """At most `size` of the bytes from `offset` on (None: all); None when there is nothing under `key`."""
        ...

    async def delete(self, key: str) -> None:
        """Forgets the key, if there is such a one."""
        ...


class StoredMedium(Protocol):
    """A medium that can be read piece by piece."""

    @property
    def mime_type(self) -> str:
        """What it is."""
        ...

    @property
    def size(self) -> int:
        """Bytes."""
        ...

    async def read(self, offset: int, size: int) -> bytes:
        """At most `size` of its bytes from `offset` on; fewer only at its end. Raises MediaNotFound when it is gone."""
        ...
