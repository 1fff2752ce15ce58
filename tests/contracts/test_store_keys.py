"""API keys in the store: made once, taken back for good, and seen by every server."""

from dataclasses import replace
from datetime import timedelta

from dragoman.auth import Scope, make_key
from dragoman.records import utcnow
from dragoman.storage import SqlStore

MINUTE = timedelta(minutes=1)


async def test_a_key_comes_back_as_it_was_made(store: SqlStore, peer: SqlStore) -> None:
    now = utcnow()
    one = make_key("billing", title="Rechnungen \U0001f9fe", scopes=[Scope.READ, Scope.ADMIN], now=now).key
    two = make_key(
        "web", agents=["shop-*", "desk"], acts_for_users=True, now=now, expire_time=now + MINUTE
    ).key
    for key in (two, one, one):  # a second time, when the first answer was lost
        await store.keys.create(key)
    assert await peer.keys.all() == [one, two]
    assert sorted(key.id for key in await peer.keys.changed(MINUTE)) == sorted((one.id, two.id))


async def test_a_key_is_taken_back_once(store: SqlStore, peer: SqlStore) -> None:
    now = utcnow()
    key = make_key("billing", now=now).key
    await store.keys.create(key)
    assert await peer.keys.revoke(key.id, now + MINUTE)
    assert await store.keys.revoke(key.id, now + 2 * MINUTE)
    assert await store.keys.changed(MINUTE) == [replace(key, revoke_time=now + MINUTE)]
    assert not await store.keys.revoke("nobody", now)


async def test_a_key_that_is_replaced_ends_no_later_than_it_would(store: SqlStore) -> None:
    now = utcnow()
    old = make_key("billing", now=now, expire_time=now + MINUTE).key
    await store.keys.create(old)
    new, newer, lost = (make_key("billing", now=now + index * MINUTE).key for index in (1, 2, 3))
    assert await store.keys.replace(new, old.id, now + 2 * MINUTE)
    assert await store.keys.replace(newer, new.id, now + 3 * MINUTE)
    assert not await store.keys.replace(lost, "nobody", now)
    assert await store.keys.all() == [old, replace(new, expire_time=now + 3 * MINUTE), newer]
