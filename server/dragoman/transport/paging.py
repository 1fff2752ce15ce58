"""Lists in pages: opaque tokens that only fit the request they came from.

A token holds the key of the last row of its page and a digest over the method, all of the request's filters, the owner
and that key. Nothing is kept on the server, and every replica makes and reads the same tokens. The digest is no secret
and need not be one: whatever key a token holds, the store gives out only the owner's rows. It is there so that a token
used with other filters, for another method or owner, or damaged on its way, is an error and not a wrong page.
"""

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from typing import Generic, TypeAlias, TypeVar
from uuid import UUID

from google.protobuf.message import Message

from dragoman.engine.ports import Page, TimeKey
from dragoman.errors import PageTokenInvalid
from dragoman.records import Owner
from dragoman.transport.validation import Checks
from dragoman.v1.run_service_pb2 import ListRunsRequest
from dragoman.v1.session_service_pb2 import ListMessagesRequest, ListSessionsRequest
from dragoman.v1.usage_service_pb2 import QueryUsageRequest

MAX_PAGE_BYTES = 16 * 1024 * 1024
"""A page ends early rather than exceed this (its first row is always there): large rows make short pages."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DIGEST_SIZE = 12
_PURPOSE = b"dragoman page 1"

Key = TypeVar("Key")
Row = TypeVar("Row")
Shown = TypeVar("Shown", bound=Message)
PagedRequest: TypeAlias = ListRunsRequest | ListMessagesRequest | ListSessionsRequest | QueryUsageRequest


@dataclass(frozen=True, slots=True)
class KeyCodec(Generic[Key]):
    """A key as bytes and back. `decode` sees only what `encode` made: the digest vouches for it."""

    encode: Callable[[Key], bytes]
    decode: Callable[[bytes], Key]


def _encode_time(key: TimeKey) -> bytes:
    microseconds = (key[0] - _EPOCH) // timedelta(microseconds=1)
    return microseconds.to_bytes(8, "big", signed=True) + key[1].bytes


def _decode_time(data: bytes) -> TimeKey:
    microseconds = int.from_bytes(data[:8], "big", signed=True)
    return _EPOCH + timedelta(microseconds=microseconds), UUID(bytes=data[8:])


TIME_KEY: KeyCodec[TimeKey] = KeyCodec(_encode_time, _decode_time)
SEQUENCE_KEY: KeyCodec[int] = KeyCodec(
    lambda key: key.to_bytes(8, "big"),
    lambda data: int.from_bytes(data, "big"),
)
TEXT_KEY: KeyCodec[tuple[str, ...]] = KeyCodec(
    lambda key: json.dumps(key, ensure_ascii=False, separators=(",", ":")).encode(),
    lambda data: tuple(json.loads(data)),
)


class Pager(Generic[Key]):
    """The page that one request asks for: reads its size and token, makes the token of the next."""

    def __init__(
        self,
        request: PagedRequest,
        owner: Owner,
        codec: KeyCodec[Key],
        checks: Checks,
        *,
        default: int = 50,
        maximum: int = 200,
    ) -> None:
        """Notes a bad size or token in `checks`."""
        self._codec = codec
        self._context = _context(request, owner)
        self.size = request.page_size or default
        if not 0 <= request.page_size <= maximum:
            checks.add("page_size", f"must be 0 (for {default}) to {maximum}, is {request.page_size}")
        self._after: Key | None = None
        if request.page_token:
            try:
                self._after = self._read(request.page_token)
            except PageTokenInvalid as error:
                checks.take(error)

    def page(self) -> Page[Key]:
        """What to ask of the store: one row more than the page holds, which tells whether another page follows."""
        return Page(self.size + 1, self._after)

    def cut(
        self, rows: Sequence[Row], show: Callable[[Row], Shown], key: Callable[[Row], Key]
    ) -> tuple[list[Shown], str]:
        """Shows as many rows as the page holds; also the token of the next page, empty when this is the last."""
        shown: list[Shown] = []
        size = 0
        for row in rows[: self.size]:
            message = show(row)
            size += message.ByteSize()
            if shown and size > MAX_PAGE_BYTES:
                break
            shown.append(message)
        if len(shown) == len(rows):
            return shown, ""
        return shown, self._token(key(rows[len(shown) - 1]))

    def _token(self, key: Key) -> str:
        data = self._codec.encode(key)
        return base64.urlsafe_b64encode(self._digest(data) + data).decode()

    def _read(self, token: str) -> Key:
        try:
            raw = base64.b64decode(token.encode("ascii"), altchars=b"-_", validate=True)
        except (binascii.Error, UnicodeEncodeError):
            raise PageTokenInvalid from None
        data = raw[_DIGEST_SIZE:]
        # Encoded again, so that one token has one spelling.
        if raw[:_DIGEST_SIZE] != self._digest(data) or base64.urlsafe_b64encode(raw).decode() != token:
            raise PageTokenInvalid
        return self._codec.decode(data)

    def _digest(self, data: bytes) -> bytes:
        return blake2b(self._context + data, digest_size=_DIGEST_SIZE, person=_PURPOSE).digest()


def _context(request: PagedRequest, owner: Owner) -> bytes:
    """The request without its page, and the owner: 32 bytes. A filter that a later version adds is in it by itself."""
    filters = type(request)()
    filters.MergeFrom(request)  # type: ignore[arg-type]  # the same type: mypy sees a union
    filters.ClearField("page_size")
    filters.ClearField("page_token")
    parts = (
        request.DESCRIPTOR.full_name.encode(),
        owner.principal.encode(),
        owner.user.encode(),
        filters.SerializeToString(deterministic=True),
    )
    digest = blake2b(digest_size=32, person=_PURPOSE)
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()
