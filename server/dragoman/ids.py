"""Identifiers: UUIDv7 everywhere, so that indexes grow at their end.

The run id made here is also the one given to Agno: one id exists everywhere. A v7 id is not an order
across processes (two processes' ids interleave within a millisecond): order by sequence instead.
"""

from uuid import UUID

import uuid_utils.compat as uuid_utils

from dragoman.errors import InvalidInput, Violation


def new_id() -> UUID:
    """A fresh UUIDv7."""
    return uuid_utils.uuid7()


def parse_id(text: str, field: str) -> UUID:
    """The UUID that a client sent in `field`, in canonical 8-4-4-4-12 form (either case).

    Raises InvalidInput with the field's path when it is anything else, the empty string included.
    """
    try:
        value = UUID(text)
    except ValueError:
        value = None
    if value is None or str(value) != text.lower():
        raise InvalidInput(
            [Violation(field, "must be a UUID, for example 01890a5d-ac96-774b-bcce-b302099a8057")]
        )
    return value
