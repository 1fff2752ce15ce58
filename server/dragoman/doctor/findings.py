"""What is found: one sentence of how it is, and, when it is not well, one of how to mend it."""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    """As it should be."""
    WARNING = "warning"
    """It works, and an operator should know."""
    FAILED = "failed"
    """The server does not start, or does not do its work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    """How it is."""
    mend: str = ""
    """What to do; empty when it is well."""
    check: str = ""
    """The check that found it."""


def good(what: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, what)


def warning(what: str, mend: str) -> Finding:
    """It works, but."""
    return Finding(Level.WARNING, what, mend)


def failed(what: str, mend: str) -> Finding:
    """It does not work."""
    return Finding(Level.FAILED, what, mend)
