"""What database errors mean."""

import sqlite3

import pymysql
import pytest
from sqlalchemy import exc

from dragoman.storage.failures import classify


def mysql_error(kind: type[exc.DBAPIError], code: int, *, invalidated: bool = False) -> exc.DBAPIError:
    origin = pymysql.err.OperationalError(code, "words of the driver")
    return kind("SELECT secret", {}, origin, connection_invalidated=invalidated)


def sqlite_error(code: int, kind: type[sqlite3.Error] = sqlite3.OperationalError) -> exc.DBAPIError:
    origin = kind("words of the driver")
    origin.sqlite_errorcode = code
    origin.sqlite_errorname = f"SQLITE_{code}"
    return exc.OperationalError("SELECT secret", {}, origin)


@pytest.mark.parametrize(
    ("error", "retry", "lost"),
    [
        *(
            (mysql_error(exc.OperationalError, code), True, False)
            for code in (1020, 1040, 1205, 1213, 8002, 9007)
        ),
        *(
            (mysql_error(exc.OperationalError, code), True, True)
            for code in (1047, 1053, 1290, 1836, 1927, 2003, 2006, 2013, 4031, 9005)
        ),
        (mysql_error(exc.InternalError, 9999, invalidated=True), True, True),
        (mysql_error(exc.InterfaceError, 0), True, True),
        (mysql_error(exc.OperationalError, 1045), False, False),  # access denied
        (sqlite_error(sqlite3.SQLITE_BUSY), True, False),
        (sqlite_error(sqlite3.SQLITE_BUSY_SNAPSHOT), True, False),
        (sqlite_error(sqlite3.SQLITE_LOCKED), True, False),
        (sqlite_error(sqlite3.SQLITE_FULL), False, False),
        (sqlite_error(sqlite3.SQLITE_IOERR), False, False),
        (sqlite_error(sqlite3.SQLITE_CANTOPEN), False, False),
        (sqlite_error(sqlite3.SQLITE_READONLY), False, False),
        (sqlite_error(sqlite3.SQLITE_CORRUPT, sqlite3.DatabaseError), False, False),
        (exc.TimeoutError("pool"), True, False),
    ],
)
def test_trouble_of_the_database(error: Exception, retry: bool, lost: bool) -> None:
    failure = classify(error)
    assert failure is not None
    assert (failure.retry, failure.lost) == (retry, lost)
    assert "secret" not in failure.detail + failure.code


@pytest.mark.parametrize(
    "error",
    [
        mysql_error(exc.ProgrammingError, 1064),
        mysql_error(exc.IntegrityError, 1062),
        mysql_error(exc.DataError, 1406),
        sqlite_error(sqlite3.SQLITE_ERROR),
        sqlite_error(sqlite3.SQLITE_CONSTRAINT_UNIQUE, sqlite3.IntegrityError),
        exc.StatementError("bad value", "SELECT", {}, ValueError("x")),
        ValueError("x"),
    ],
)
def test_defects_are_not_hidden(error: Exception) -> None:
    assert classify(error) is None
