"""The database's clock: several processes judge each other's leases, and no two machines agree on the time.

    now()                     this moment
    ago("microseconds")       so long before it; the name is that of the parameter

Both are expressions of SQL, in the form in which an `Instant` lies in a column. SQLite's clock has whole milliseconds.
"""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler

from dragoman.storage.types import Instant

_SQLITE = "strftime('%Y-%m-%d %H:%M:%f000', 'now'{})"


class now(sa.sql.functions.FunctionElement[Any]):
    """The present moment."""

    type = Instant()
    inherit_cache = True


class ago(sa.sql.functions.FunctionElement[Any]):
    """The moment that was so many microseconds ago."""

    type = Instant()
    inherit_cache = True

    def __init__(self, parameter: str) -> None:
        super().__init__(sa.bindparam(parameter, type_=sa.BigInteger()))


@compiles(now)
def _now(_element: now, _compiler: SQLCompiler, **_: Any) -> str:
    return "UTC_TIMESTAMP(6)"


@compiles(now, "sqlite")
def _now_sqlite(_element: now, _compiler: SQLCompiler, **_: Any) -> str:
    return _SQLITE.format("")


@compiles(ago)
def _ago(element: ago, compiler: SQLCompiler, **options: Any) -> str:
    return f"(UTC_TIMESTAMP(6) - INTERVAL {compiler.process(element.clauses, **options)} MICROSECOND)"


@compiles(ago, "sqlite")
def _ago_sqlite(element: ago, compiler: SQLCompiler, **options: Any) -> str:
    return _SQLITE.format(f", ({compiler.process(element.clauses, **options)} / -1000000.0) || ' seconds'")
