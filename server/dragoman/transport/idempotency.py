"""The key by which a request that is made twice is known: the caller's request id, and a digest of all that was asked.

    same id, same digest          the same request: it gets what the first one came to
    same id, another digest       REQUEST_ID_REUSED

Run and Execute are one family of methods: a caller whose stream broke may ask again without one. The digest leaves out the
request id itself and how much of the events is sent; everything else counts, fields of newer clients included.
"""

import asyncio
import hashlib
import re
from typing import Final, Literal, TypeAlias

from google.protobuf.message import Message

from dragoman.records import Owner, RequestKey
from dragoman.v1 import run_service_pb2, session_service_pb2

MAX_REQUEST_ID = 128
"""Characters of a request id."""

THREAD_BYTES = 256 * 1024
"""Size of a request from which on it is digested in a thread."""

Family: TypeAlias = Literal["run", "continue", "session"]
"""Which methods know each other's request ids."""

Repeatable: TypeAlias = (
    run_service_pb2.RunRequest | run_service_pb2.ContinueRunRequest | session_service_pb2.CreateSessionRequest
)
"""Requests that carry an id."""

_REQUEST_ID: Final = re.compile(rf"[\x20-\x7e]{{1,{MAX_REQUEST_ID}}}")
_NOT_COMPARED: Final = ("request_id", "detail")


def acceptable(request_id: str) -> bool:
    """True for what may be a request id: 1 to 128 printable ASCII characters."""
    return _REQUEST_ID.fullmatch(request_id) is not None


async def request_key(family: Family, request: Repeatable, owner: Owner) -> RequestKey | None:
    """The request's key; None when it carries no id, or one that is not acceptable."""
    if not acceptable(request.request_id):
        return None
    data = _compared(request)
    if len(data) < THREAD_BYTES:
        return RequestKey(request.request_id, _digest(family, owner, data))
    return RequestKey(request.request_id, await asyncio.to_thread(_digest, family, owner, data))


def _compared(request: Message) -> bytes:
    bare = type(request)()
    bare.CopyFrom(request)
    for name in _NOT_COMPARED:
        if name in bare.DESCRIPTOR.fields_by_name:
            bare.ClearField(name)
    return bare.SerializeToString(deterministic=True)


def _digest(family: Family, owner: Owner, data: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in (family.encode(), owner.principal.encode(), owner.user.encode(), data):
        # With its length before it no part can pass for the end of another.
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
