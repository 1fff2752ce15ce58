"""Column types: how each kind of value lies in SQLite and in MySQL or MariaDB.

    type         in Python                 SQLite      MySQL, MariaDB
    Id           UUID                      BLOB        BINARY(16)
    Identifier   str                       TEXT        VARBINARY(n): exact, trailing spaces and case included
    Instant      aware datetime            DATETIME    DATETIME(6), UTC
    Money        Decimal                   BIGINT      DECIMAL(30,12); on SQLite in units of 10**-12
    Json         what orjson can write     TEXT        LONGTEXT
    Hash         bytes (32)                BLOB        BINARY(32)
    Blob         bytes                     BLOB        LONGBLOB

Migrations use these types too. So the DDL of a type never changes: a new shape is a new type.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from decimal import Context, Decimal
from typing import Any
from uuid import UUID

import orjson
import sqlalchemy as sa
from sqlalchemy.dialects import mysql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeEngine

from dragoman.records import MONEY_SCALE, money

MYSQL = frozenset({"mysql", "mariadb"})
"""SQLAlchemy's names of the dialects that speak MySQL."""

_INT64 = 2**63
_WIDE = Context(prec=80)


def scaled(amount: Decimal) -> int:
    """`amount` in units of 10**-MONEY_SCALE, rounded half to even."""
    return int(money(amount).scaleb(MONEY_SCALE, _WIDE))


def unscaled(units: int) -> Decimal:
    """The amount that `scaled` made `units` of, to the last digit however large it is."""
    return Decimal(units).scaleb(-MONEY_SCALE, _WIDE)


class Id(sa.types.TypeDecorator[UUID]):
    """A UUID as its 16 bytes."""

    impl = sa.LargeBinary(16)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """BINARY(16) where there is such a type."""
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.BINARY(16))
        return dialect.type_descriptor(sa.LargeBinary(16))

    def process_bind_param(self, value: UUID | None, dialect: Dialect) -> bytes | None:
        """UUID to bytes."""
        return None if value is None else value.bytes

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> UUID | None:
        """Bytes to UUID."""
        return None if value is None else UUID(bytes=value)


class Identifier(sa.types.TypeDecorator[str]):
    """Text that is compared byte by byte, at most `length` bytes of UTF-8: names, principals, codes."""

    impl = sa.String
    cache_ok = True

    def __init__(self, length: int = 255) -> None:
        super().__init__(length)
        self.length = length

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """VARBINARY: even a binary collation ignores trailing spaces there."""
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.VARBINARY(self.length))
        return dialect.type_descriptor(sa.String(self.length))

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | bytes | None:
        """Raises ValueError when the text is too long or no Unicode text, alike on every database."""
        if value is None:
            return None
        encoded = value.encode()
        if len(encoded) > self.length:
            raise ValueError(
                f"an identifying text of {len(encoded)} bytes does not fit into {self.length} bytes"
            )
        return encoded if dialect.name in MYSQL else value

    def process_result_value(self, value: str | bytes | None, dialect: Dialect) -> str | None:
        """Bytes to text."""
        return value.decode() if isinstance(value, bytes) else value


class Instant(sa.types.TypeDecorator[datetime]):
    """A moment, to the microsecond, stored as UTC."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """DATETIME(6): plain DATETIME has whole seconds."""
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Raises ValueError for a naive time: nobody could say what it means."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError("a time without a time zone cannot be stored")
        return value.astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        """Aware, in UTC."""
        return None if value is None else value.replace(tzinfo=UTC)


class Money(sa.types.TypeDecorator[Decimal]):
    """An exact amount at `MONEY_SCALE` places. SQLite knows no decimals: there it is an integer."""

    impl = sa.Numeric(30, MONEY_SCALE)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """DECIMAL where there is one."""
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.DECIMAL(30, MONEY_SCALE))
        return dialect.type_descriptor(sa.BigInteger())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> Decimal | int | None:
        """Raises ValueError on SQLite from about 9.2 million units of the currency on."""
        if value is None:
            return None
        if dialect.name in MYSQL:
            return money(value)
        units = scaled(value)
        if not -_INT64 <= units < _INT64:
            raise ValueError("the amount is too large for SQLite")
        return units

    def process_result_value(self, value: Decimal | int | None, dialect: Dialect) -> Decimal | None:
        """The amount as it was stored."""
        if value is None:
            return None
        return unscaled(value) if isinstance(value, int) else value


class Json(sa.types.TypeDecorator[Any]):
    """A JSON value as text, so that the order of keys is kept (MySQL's JSON type sorts them)."""

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """LONGTEXT: TEXT ends at 64 KB."""
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.LONGTEXT())
        return dialect.type_descriptor(sa.Text())

    def process_bind_param(self, value: Any, dialect: Dialect) -> str | None:
        """Raises TypeError (a ValueError of orjson's) for what JSON cannot hold."""
        return None if value is None else orjson.dumps(value).decode()

    def process_result_value(self, value: str | None, dialect: Dialect) -> Any:
        """The value."""
        return None if value is None else orjson.loads(value)


class Hash(sa.types.TypeDecorator[bytes]):
    """A SHA-256 digest."""

    impl = sa.LargeBinary(32)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """BINARY(32) where there is such a type."""
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.BINARY(32))
        return dialect.type_descriptor(sa.LargeBinary(32))


class Blob(sa.types.TypeDecorator[bytes]):
    """Bytes of any length."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        """LONGBLOB: BLOB ends at 64 KB."""
        if dialect.name in MYSQL:
            return dialect.type_descriptor(mysql.LONGBLOB())
        return dialect.type_descriptor(sa.LargeBinary())


def json_size(value: Mapping[str, Any]) -> int:
    """Bytes that a mapping takes as `Json`."""
    return len(orjson.dumps(dict(value)))
