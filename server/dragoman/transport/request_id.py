"""The id by which a caller and our log speak of the same call.

A caller may send its own in `x-request-id`; else, or when that is not a plain short token, one is made here. It goes
back in the initial metadata of an answer, or in the trailing metadata of an error.
"""

import re
from collections.abc import Iterable
from contextvars import ContextVar

from dragoman import ids, observing

HEADER = "x-request-id"

_SANE = re.compile(r"[A-Za-z0-9._~:/+=@-]{1,128}")
_REQUEST_ID: ContextVar[str] = ContextVar("dragoman_request_id", default="")


def bind(metadata: Iterable[tuple[str, str | bytes]] | None) -> str:
    """Chooses the id of the current call from what the caller sent, remembers and returns it."""
    chosen = _sent(metadata or ()) or str(ids.new_id())
    _REQUEST_ID.set(chosen)
    observing.bind(request_id=chosen)
    return chosen


def current() -> str:
    """The id of the current call; empty outside of one."""
    return _REQUEST_ID.get()


def _sent(metadata: Iterable[tuple[str, str | bytes]]) -> str:
    for key, value in metadata:
        if key == HEADER:
            return value if isinstance(value, str) and _SANE.fullmatch(value) else ""
    return ""
