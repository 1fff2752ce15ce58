"""API keys: made and taken back from the command line, and read by every server, which asks for what has changed."""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import fields
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import sqlalchemy as sa

from dragoman.quotas import Quotas
from dragoman.records import ApiKey
from dragoman.storage import clock
from dragoman.storage.database import Database
from dragoman.storage.tables import api_keys

_COLUMNS = [column for column in api_keys.c if column is not api_keys.c.update_time]
_ALL = sa.select(*_COLUMNS).order_by(api_keys.c.principal, api_keys.c.create_time, api_keys.c.id)
_CHANGED = sa.select(*_COLUMNS).where(api_keys.c.update_time >= clock.ago("microseconds"))
_INSERT = sa.insert(api_keys).values(update_time=clock.now())
_THIS = api_keys.c.id == sa.bindparam("key")
# What was taken back stays so, and what ends sooner does not come to end later.
_REVOKE = (
    sa.update(api_keys)
    .where(_THIS, api_keys.c.revoke_time.is_(None))
    .values(revoke_time=sa.bindparam("at"), update_time=clock.now())
)
_EXPIRE = (
    sa.update(api_keys)
    .where(_THIS, sa.or_(api_keys.c.expire_time.is_(None), api_keys.c.expire_time > sa.bindparam("at")))
    .values(expire_time=sa.bindparam("at"), update_time=clock.now())
)


class SqlKeys:
    """The keys of a store. Every call may raise StorageUnavailable."""

    def __init__(
        self, database: Database, write: Callable[[Coroutine[Any, Any, Any]], Awaitable[Any]]
    ) -> None:
        self._database = database
        self._write = write

    async def all(self) -> list[ApiKey]:
        """All keys, revoked and expired ones too, by principal and age."""
        return await self._database.read(select)

    async def changed(self, within: timedelta) -> list[ApiKey]:
        """Those that were made or changed within so long by the database's clock."""
        return await self._database.read(lambda c: changed(c, within))

    async def create(self, key: ApiKey) -> None:
        """Keeps a new key."""
        await self._write(self._database.write(lambda c: insert(c, key)))

    async def replace(self, key: ApiKey, old_id: str, end: datetime) -> bool:
        """Keeps a new key and lets an old one end, unless it ends before. False, and nothing done, without the old one."""

        def work(connection: sa.Connection) -> bool:
            known = expire(connection, old_id, end)
            if known:
                insert(connection, key)
            return known

        return bool(await self._write(self._database.write(work)))

    async def revoke(self, key_id: str, at: datetime) -> bool:
        """Takes a key back. False when there is no such key."""
        return bool(await self._write(self._database.write(lambda c: revoke(c, key_id, at))))


def insert(connection: sa.Connection, key: ApiKey) -> None:
    """Keeps a new key. A second time, after the first was not acknowledged, it changes nothing."""
    if connection.execute(sa.select(api_keys.c.id).where(_THIS), {"key": key.id}).first() is None:
        connection.execute(
            _INSERT,
            {
                "id": key.id,
                "principal": key.principal,
                "title": key.title,
                "salt": key.salt,
                "digest": key.digest,
                "scopes": list(key.scopes),
                "agents": list(key.agents),
                "acts_for_users": key.acts_for_users,
                "quotas": quotas_row(key.quotas),
                "create_time": key.create_time,
                "expire_time": key.expire_time,
                "revoke_time": key.revoke_time,
            },
        )


def select(connection: sa.Connection) -> list[ApiKey]:
    """All keys, revoked and expired ones too, by principal and age."""
    return _keys(connection.execute(_ALL).all())


def changed(connection: sa.Connection, within: timedelta) -> list[ApiKey]:
    """Those that were made or changed within the last so many seconds of the database's clock."""
    microseconds = within // timedelta(microseconds=1)
    return _keys(connection.execute(_CHANGED, {"microseconds": microseconds}).all())


def revoke(connection: sa.Connection, key_id: str, at: datetime) -> bool:
    """Takes a key back. False when there is no such key."""
    connection.execute(_REVOKE, {"key": key_id, "at": at})
    return _exists(connection, key_id)


def expire(connection: sa.Connection, key_id: str, at: datetime) -> bool:
    """Lets a key end at `at`, unless it ends before. False when there is no such key."""
    connection.execute(_EXPIRE, {"key": key_id, "at": at})
    return _exists(connection, key_id)


def _exists(connection: sa.Connection, key_id: str) -> bool:
    return connection.execute(sa.select(api_keys.c.id).where(_THIS), {"key": key_id}).first() is not None


def _keys(rows: Sequence[sa.Row[Any]]) -> list[ApiKey]:
    return [
        ApiKey(
            id=row.id,
            principal=row.principal,
            title=row.title,
            salt=row.salt,
            digest=row.digest,
            scopes=tuple(row.scopes),
            agents=tuple(row.agents),
            acts_for_users=row.acts_for_users,
            create_time=row.create_time,
            expire_time=row.expire_time,
            revoke_time=row.revoke_time,
            quotas=quotas_of(row.quotas),
        )
        for row in rows
    ]


def quotas_row(quotas: Quotas) -> dict[str, Any] | None:
    """What is said of them, amounts as text, which is exact; None when nothing is."""
    said = {each.name: value for each in fields(Quotas) if (value := getattr(quotas, each.name)) is not None}
    return {name: f"{v:f}" if isinstance(v, Decimal) else v for name, v in said.items()} or None


def quotas_of(row: Mapping[str, Any] | None) -> Quotas:
    """The quotas again. What a newer release says besides, which this one does not know, is passed over."""
    known = {each.name for each in fields(Quotas)}
    said = {name: value for name, value in (row or {}).items() if name in known}
    for name in ("budget_day", "budget_month"):
        if name in said:
            said[name] = Decimal(said[name])
    return Quotas(**said)
