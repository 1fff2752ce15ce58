"""Checks of what a caller sent, field by field. A request is told everything that is wrong with it, not only the first.

    checks = Checks()
    session_id = checks.id("session_id", request.session_id)
    title = checks.line("title", request.title, 255)
    checks.done()                       # raises when anything was wrong

A check that failed returns a harmless stand-in, which nobody sees because `done` raises. One kind of error is raised as
itself (INVALID_MEDIA, PAGE_TOKEN_INVALID, ...); several kinds together are INVALID_INPUT.
"""

import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from uuid import UUID

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from dragoman import ids, wire
from dragoman.engine.ports import JsonObject
from dragoman.errors import InvalidInput, PageTokenInvalid, Violation
from dragoman.records import AGENT_NAME
from dragoman.transport import idempotency, structs

MAX_LABELS = 32
MAX_LABEL_KEY = 64
MAX_LABEL_VALUE = 512

_NO_ID = UUID(int=0)
_OWNER_NAME = re.compile(r"[\x20-\x7e]{1,128}")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MIN_SECONDS = -62_135_596_800  # 0001-01-01T00:00:00Z
_MAX_SECONDS = 253_402_300_799  # 9999-12-31T23:59:59Z


class Checks:
    """Collects violations of one request."""

    def __init__(self) -> None:
        self._violations: list[Violation] = []
        self._kinds: set[type[InvalidInput]] = set()

    def add(self, field: str, description: str, kind: type[InvalidInput] = InvalidInput) -> None:
        """Notes a violation; `kind` is the error that it is when nothing else is wrong."""
        self._violations.append(Violation(field, description))
        self._kinds.add(kind)

    def take(self, error: InvalidInput) -> None:
        """Notes all violations of an error that was raised elsewhere."""
        self._violations.extend(error.violations)
        self._kinds.add(type(error))

    def done(self) -> None:
        """Raises when there was a violation."""
        if not self._violations:
            return
        kind = self._kinds.pop() if len(self._kinds) == 1 else InvalidInput
        raise PageTokenInvalid() if kind is PageTokenInvalid else kind(self._violations)

    def required(self, field: str, text: str) -> str:
        """A text that must not be empty."""
        if not text:
            self.add(field, "is required")
        return text

    def id(self, field: str, text: str) -> UUID:
        """A UUID that must be there."""
        if not text:
            self.add(field, "is required")
            return _NO_ID
        return self.optional_id(field, text) or _NO_ID

    def optional_id(self, field: str, text: str) -> UUID | None:
        """A UUID, or None for an empty text."""
        if not text:
            return None
        try:
            return ids.parse_id(text, field)
        except InvalidInput as error:
            self.take(error)
            return None

    def request_id(self, field: str, text: str) -> str:
        """The caller's own id of a request; may be empty."""
        if text and not idempotency.acceptable(text):
            limit = idempotency.MAX_REQUEST_ID
            self.add(field, f"must be 1 to {limit} printable ASCII characters, or empty")
        return text

    def line(self, field: str, text: str, limit: int) -> str:
        """A short text for people: at most `limit` characters, none of them a control character."""
        if len(text) > limit:
            self.add(field, f"must have at most {limit} characters, has {len(text)}")
        if _CONTROL.search(text):
            self.add(field, "must not contain control characters")
        return text

    def agent_filter(self, field: str, text: str) -> str:
        """The name of an agent, served here or not any more; empty for all. What no agent can be called is refused before the
        database, whose columns have a length, is asked for it."""
        if text and not AGENT_NAME.fullmatch(text):
            self.add(field, "must be a name: 1 to 128 letters, digits, '-', '_' or '.'; or empty")
            return ""
        return text

    def owner_filter(self, field: str, text: str) -> str:
        """The name of a principal or a user; empty for all. Likewise."""
        if text and not _OWNER_NAME.fullmatch(text):
            self.add(field, "must be 1 to 128 printable ASCII characters, or empty")
            return ""
        return text

    def labels(self, field: str, labels: Mapping[str, str]) -> dict[str, str]:
        """Metadata of a session or run."""
        if len(labels) > MAX_LABELS:
            self.add(field, f"must have at most {MAX_LABELS} entries, has {len(labels)}")
        for key, value in labels.items():
            path = structs.child(field, key)
            if not 1 <= len(key) <= MAX_LABEL_KEY:
                self.add(path, f"the key must have 1 to {MAX_LABEL_KEY} characters, has {len(key)}")
            if _CONTROL.search(key):
                self.add(path, "the key must not contain control characters")
            self.line(path, value, MAX_LABEL_VALUE)
        return dict(labels)

    def json(self, field: str, struct: Struct) -> JsonObject:
        """User-defined JSON."""
        return structs.from_struct(struct, field, self.add)

    def known(self, field: str, value: int, values: Sequence[int]) -> None:
        """An enum value that this version must know: enums are open, so any number can come."""
        if value not in values:
            self.add(field, f"{value} is not a value that this server knows")

    def moment(self, field: str, stamp: Timestamp) -> datetime | None:
        """A Timestamp as a datetime."""
        if _MIN_SECONDS <= stamp.seconds <= _MAX_SECONDS and 0 <= stamp.nanos < 1_000_000_000:
            return wire.moment(stamp)
        self.add(field, "must be a time between 0001-01-01T00:00:00Z and 9999-12-31T23:59:59.999999999Z")
        return None
