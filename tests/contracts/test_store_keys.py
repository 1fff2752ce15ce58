"""API keys in the store: made once, taken back for good, and seen by every server."""

from dataclasses import replace
from datetime import timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.auth import Scope, make_key
from dragoman.quotas import NO_QUOTAS, Quotas
from dragoman.records import utcnow
from dragoman.storage import SqlStore
from dragoman.storage.keys import quotas_of, quotas_row

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


AMOUNTS = st.none() | st.decimals(0, 10**15, places=9)
QUOTAS = st.builds(
    Quotas,
    max_runs=st.none() | st.integers(1, 10**9),
    max_streams=st.none() | st.integers(1, 10**9),
    request_rate=st.none() | st.floats(0, 1e9),
    request_burst=st.none() | st.integers(1, 10**9),
    budget_day=AMOUNTS,
    budget_month=AMOUNTS,
)


@pytest.mark.parametrize(
    "quotas",
    [
        NO_QUOTAS,
        Quotas(max_runs=5),
        Quotas(1, 2, 0.1, 4, Decimal("0.000000001"), Decimal("123456789012345.000000009")),
        Quotas(request_rate=0.0, budget_day=Decimal(0)),
    ],
)
async def test_what_may_be_done_with_a_key_is_kept_exactly(
    store: SqlStore, peer: SqlStore, quotas: Quotas
) -> None:
    key = make_key("billing", now=utcnow(), quotas=quotas).key
    await store.keys.create(key)
    [found] = await peer.keys.all()
    assert found == key
    assert str(found.quotas) == str(quotas)  # to the last zero


@given(QUOTAS)
def test_any_quotas_come_back(quotas: Quotas) -> None:
    assert quotas_of(quotas_row(quotas)) == quotas


def test_what_a_newer_release_says_besides_is_passed_over() -> None:
    assert quotas_of({"max_runs": 5, "max_dances": 1}) == Quotas(max_runs=5)
