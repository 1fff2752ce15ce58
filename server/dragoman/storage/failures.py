"""What a database error means: try the whole transaction again, give up, or a defect of ours.

A transaction is always repeated as a whole: MySQL's error 1205 rolls back one statement and keeps the rest open. After a
lost connection nobody knows whether a commit happened; `lost` says so, and every write is such that a second time does
no harm.
"""

import sqlite3
from dataclasses import dataclass

from sqlalchemy import exc

RETRYABLE = frozenset(
    {
        1020,  # the row changed since it was read
        1040,  # too many connections
        1205,  # waited too long for a lock
        1213,  # deadlock: this transaction was the victim, or Galera did not certify it
        3101,  # MySQL's group replication has rolled it back
        8002,  # TiDB: the rows changed meanwhile
        8005,
        8022,
        8028,  # TiDB: the schema changed meanwhile
        9007,
    }
)
LOST = frozenset(
    {
        1053,  # the server is shutting down
        1152,  # the connection was aborted
        1158,  # communication errors, from here to 1161
        1159,
        1160,
        1161,
        1927,  # the connection was killed
        2002,  # no connection through the socket
        2003,  # no connection
        2006,  # the server has gone away
        2013,  # lost while a statement ran
        2055,  # lost while a result was read
        3169,  # the session was killed
        4031,  # dropped because it was idle
    }
)
"""Codes after which the connection is gone and a commit may or may not have happened."""

AWAY = frozenset(
    {
        1047,  # Galera: the node is not part of the cluster now
        1290,  # it only reads: it was the primary once
        1836,
        9001,  # TiDB: its store does not answer
        9002,
        9003,
        9005,
    }
)
"""Codes of a server that lives but cannot do it now, while another one behind the same address may."""

_DETAIL = 300
_SQLITE_DEFECTS = frozenset(
    {
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_MISUSE,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_TOOBIG,
    }
)
_SQLITE_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


@dataclass(frozen=True, slots=True)
class Failure:
    """What is to be done about a database error."""

    code: str
    """The driver's number or name."""
    retry: bool
    lost: bool = False
    detail: str = ""
    """The driver's sentence, for the log: it names hosts and accounts, but no SQL and no values."""


def classify(error: Exception) -> Failure | None:
    """What `error` means; None for one that is no trouble of the database's (a defect, a broken constraint)."""
    if isinstance(error, exc.TimeoutError):
        return Failure("pool timeout", retry=True)
    if not isinstance(error, exc.DBAPIError):
        return None
    origin = error.orig
    if isinstance(origin, sqlite3.Error):
        return _sqlite(origin)
    code = origin.args[0] if origin is not None and origin.args else None
    detail = str(origin)[:_DETAIL]
    if code in RETRYABLE:
        return Failure(str(code), retry=True, detail=detail)
    # PyMySQL raises InterfaceError (0, "") on a connection that is closed.
    if error.connection_invalidated or code in LOST | AWAY or isinstance(error, exc.InterfaceError):
        return Failure(str(code), retry=True, lost=True, detail=detail)
    if isinstance(error, exc.OperationalError | exc.InternalError):
        # No access, no such database, read-only, disk full, ...
        return Failure(str(code), retry=False, detail=detail)
    return None


def is_away(error: exc.DBAPIError) -> bool:
    """Whether the connection leads to a server that is of no use now; a new one may lead to another."""
    return error.orig is not None and bool(error.orig.args) and error.orig.args[0] in AWAY


def _sqlite(error: sqlite3.Error) -> Failure | None:
    """The plain SQLITE_ERROR is wrong SQL; full disks, missing files and the like have codes of their own."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _SQLITE_DEFECTS or isinstance(error, sqlite3.IntegrityError | sqlite3.ProgrammingError):
        return None
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    return Failure(name, retry=code in _SQLITE_BUSY, detail=str(error)[:_DETAIL])
