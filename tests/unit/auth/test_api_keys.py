"""Keys, and the ring that holds them."""

import asyncio
import time
from collections.abc import AsyncIterator, Collection
from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.auth import (
    LOCAL,
    Authenticator,
    Credentials,
    KeyRing,
    Principal,
    Scope,
    keyring,
    keys,
    make_key,
)
from dragoman.errors import InvalidInput, PermissionDenied, StorageUnavailable, Unauthenticated
from dragoman.records import ApiKey, Owner, utcnow


class Source:
    """Keys in memory, of a store that may be away."""

    def __init__(self) -> None:
        self.keys: dict[str, ApiKey] = {}
        self.away = False
        self.asked = 0
        self.answers = asyncio.Event()
        self.answers.set()

    async def all(self) -> list[ApiKey]:
        self.asked += 1
        await self.answers.wait()
        if self.away:
            raise StorageUnavailable
        return list(self.keys.values())

    async def changed(self, within: timedelta) -> list[ApiKey]:
        return await self.all()

    def add(self, principal: str = "billing", **options: object) -> keys.NewKey:
        new = make_key(principal, now=utcnow(), **options)  # type: ignore[arg-type]  # of any kind
        self.keys[new.key.id] = new.key
        return new


@pytest.fixture
async def source() -> Source:
    return Source()


@pytest.fixture
async def ring(source: Source) -> AsyncIterator[KeyRing]:
    ring = KeyRing(source)
    await ring.open()
    yield ring
    await ring.close()


async def who(ring: KeyRing, text: str, user: str = "") -> tuple[Principal, Owner]:
    return await Authenticator(ring).authenticate(Credentials(text, user))


def test_a_key_says_what_it_is_and_hides_its_secret() -> None:
    new = make_key("billing", now=utcnow())
    key_id, secret = keys.split(new.text) or ("", "")
    assert key_id == new.key.id
    assert keys.proves(new.key, secret)
    assert secret not in repr(new)
    assert secret.encode() not in new.key.digest + new.key.salt
    assert repr(new.key.digest) not in repr(new)
    assert make_key("billing", now=utcnow()).text != new.text


@given(st.text(max_size=80))
def test_anything_else_is_no_key(text: str) -> None:
    assert keys.split(text) is None


@pytest.mark.parametrize("change", ["", "x", " ", "\n"])
def test_another_secret_proves_nothing(change: str) -> None:
    new = make_key("billing", now=utcnow())
    flipped = new.text[:-1] + ("a" if new.text[-1] != "a" else "b")
    for text in (flipped, new.text + change if change else new.text[:-1]):
        parts = keys.split(text)
        assert parts is None or not keys.proves(new.key, parts[1])


@pytest.mark.parametrize(
    ("own", "allowed"),
    [({Scope.READ}, "read"), ({Scope.RUN}, "read run"), ({Scope.ADMIN}, "read run admin"), (set(), "")],
)
def test_scopes_include_those_before(own: set[Scope], allowed: str) -> None:
    principal = Principal("p", frozenset(own))
    assert [scope.value for scope in Scope if principal.may(scope)] == allowed.split()


def test_patterns_of_agents() -> None:
    principal = Principal("p", agents=("shop-*", "desk"))
    assert [principal.may_use(name) for name in ("shop-a", "shop-", "desk", "Desk", "desk2", "shop")] == [
        *(True, True, True),
        *(False, False, False),
    ]
    assert not Principal("p", agents=()).may_use("desk")


async def test_who_has_a_key_is_let_in(ring: KeyRing, source: Source) -> None:
    new = source.add(scopes=[Scope.READ], agents=["a*"])
    assert await who(ring, new.text) == (
        Principal("billing", frozenset({Scope.READ}), ("a*",), False, f"key/{new.key.id}"),
        Owner("billing"),
    )


async def test_without_a_ring_everybody_is_local() -> None:
    found = await Authenticator(None).authenticate(Credentials("whatever", "ann"))
    assert found == (LOCAL, Owner("local", "ann"))


@pytest.mark.parametrize("text", ["", "dgm_", "Bearer x", "dgm_" + "a" * 16 + "_" + "b" * 43])
async def test_who_has_none_is_not(ring: KeyRing, text: str) -> None:
    with pytest.raises(Unauthenticated) as refused:
        await who(ring, text)
    assert "bbb" not in refused.value.message


async def test_the_secret_must_be_right(ring: KeyRing, source: Source) -> None:
    one, two = source.add(), source.add()
    with pytest.raises(Unauthenticated):
        await who(ring, one.text[:21] + two.text[21:])


@pytest.mark.parametrize(
    ("scopes", "known"), [(("read", "fly"), frozenset({Scope.READ})), (("fly",), frozenset())]
)
async def test_a_scope_of_a_newer_release_allows_nothing(
    ring: KeyRing, source: Source, scopes: tuple[str, ...], known: frozenset[Scope]
) -> None:
    new = source.add()
    source.keys[new.key.id] = replace(new.key, scopes=scopes)
    assert (await who(ring, new.text))[0].scopes == known


async def test_users(ring: KeyRing, source: Source) -> None:
    plain, trusted = source.add(), source.add(acts_for_users=True)
    assert (await who(ring, trusted.text, "ann@example.com"))[1] == Owner("billing", "ann@example.com")
    assert (await who(ring, trusted.text))[1] == Owner("billing")
    with pytest.raises(PermissionDenied):
        await who(ring, plain.text, "ann")
    for user in (" ann", "ann ", "a" * 129, "\x07", "Zoë"):
        with pytest.raises(InvalidInput) as refused:
            await who(ring, trusted.text, user)
        assert refused.value.violations[0].field == "x-user-id"


async def test_a_key_that_is_taken_back_opens_nothing_and_its_holders_are_told(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "REFRESH", 0.05)
    one, two = source.add(), source.add()
    told: list[Collection[str]] = []
    heard = asyncio.Event()
    ring = KeyRing(source)

    def listener(ids: Collection[str]) -> None:
        told.append(set(ids))
        heard.set()

    ring.listen(listener)
    await ring.open()
    try:
        await who(ring, one.text)
        source.keys[one.key.id] = replace(one.key, revoke_time=utcnow())
        await asyncio.wait_for(heard.wait(), 20)
        with pytest.raises(Unauthenticated):
            await who(ring, one.text)
        heard.clear()
        source.keys[two.key.id] = replace(two.key, expire_time=utcnow())
        await asyncio.wait_for(heard.wait(), 20)
        assert told == [{one.key.id}, {two.key.id}]
    finally:
        await ring.close()


async def test_without_the_store_nobody_is_let_in_for_long(
    ring: KeyRing, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    new = source.add()
    await who(ring, new.text)
    source.away = True
    await who(ring, new.text)  # what is known is good enough for a moment
    monkeypatch.setattr(keyring, "STALE", 0.0)
    with pytest.raises(StorageUnavailable):
        await who(ring, new.text)
    source.away = False
    await who(ring, new.text)


@pytest.mark.parametrize("comes_back", [False, True])
async def test_who_waits_for_the_store_shares_one_look_with_all_others(
    ring: KeyRing, source: Source, monkeypatch: pytest.MonkeyPatch, comes_back: bool
) -> None:
    """In an outage the store takes seconds to fail: nobody waits for the failures of those before it."""
    new = source.add()
    assert await who(ring, new.text)
    monkeypatch.setattr(keyring, "STALE", 0.0)
    source.answers.clear()
    asked = source.asked
    calls = [asyncio.create_task(who(ring, new.text)) for _ in range(50)]
    async with asyncio.timeout(60):
        while source.asked == asked:
            await asyncio.sleep(0.01)
    calls[0].cancel()  # the first to wait leaves, and the look is not its own
    source.away = not comes_back
    source.answers.set()
    left, *others = await asyncio.gather(*calls, return_exceptions=True)
    assert isinstance(left, asyncio.CancelledError)
    if comes_back:
        assert all(isinstance(each, tuple) for each in others)
    else:
        assert all(isinstance(each, StorageUnavailable) for each in others)
    assert (
        source.asked < asked + 10
    )  # one, another for those who came after it began, and what the ring asks by itself


async def test_guessers_do_not_reach_the_store(
    ring: KeyRing, source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keyring, "AGAIN", 0.5)
    began, asked = time.monotonic(), source.asked
    refused = await asyncio.gather(
        *(who(ring, make_key("stranger", now=utcnow()).text) for _ in range(200)), return_exceptions=True
    )
    assert {type(each) for each in refused} == {Unauthenticated}
    assert source.asked - asked <= 2 + (time.monotonic() - began) / 0.5


async def test_after_a_long_absence_all_keys_are_read(
    source: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone, stays = source.add(), source.add()
    ring = KeyRing(source)
    await ring.open()
    try:
        monkeypatch.setattr(keyring, "LATELY", timedelta())
        monkeypatch.setattr(keyring, "STALE", 0.0)
        del source.keys[gone.key.id]
        with pytest.raises(Unauthenticated):
            await who(ring, gone.text)
        await who(ring, stays.text)
    finally:
        await ring.close()


async def test_a_ring_does_not_open_without_the_store(source: Source) -> None:
    source.away = True
    with pytest.raises(StorageUnavailable):
        await KeyRing(source).open()


async def test_who_comes_just_when_the_keys_have_been_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the end of a look and the moment when it is forgotten: a new one is begun, and nobody spins."""
    monkeypatch.setattr(keyring, "STALE", 0.0)
    monkeypatch.setattr(keyring, "AGAIN", 0.0)
    read: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    class Slow(Source):
        async def all(self) -> list[ApiKey]:
            if not read.done():
                await read
            return []

    ring = KeyRing(Slow())
    first = asyncio.create_task(ring.find("first"))
    await asyncio.sleep(0.01)
    # The look goes on in the next round of the loop; right after it, before what it has left to be done, comes the late one.
    read.set_result(None)
    late = asyncio.create_task(ring.find("late"))
    assert not any(await asyncio.gather(first, late))
    await ring.close()
