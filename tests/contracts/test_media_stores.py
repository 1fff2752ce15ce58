"""Media, wherever they are kept: in the database, in a folder, in a bucket. On every database."""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

import pytest
from support import make, s3

from dragoman.blobs import BlobsUnusable, ObjectBlobs, open_blobs
from dragoman.errors import MediaNotFound, StorageUnavailable
from dragoman.records import Media, Owner, Session, utcnow
from dragoman.storage import SqlStore, open_store

BOB = Owner("service", "bob")
LARGE = os.urandom(3 * 1024 * 1024 + 17)


@dataclass
class Place:
    """Where media are kept besides the database, and what lies there."""

    blobs: ObjectBlobs | None
    keys: Callable[[], list[str]]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with s3.s3_server(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(params=["database", "folder", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    if request.param == "database":
        return Place(None, list)
    if request.param == "folder":
        folder = tmp_path / "media store"
        blobs = open_blobs(folder.as_uri())
        return Place(blobs, lambda: [path.name for path in folder.iterdir()])
    endpoint = request.getfixturevalue("endpoint")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    prefix = f"{tmp_path.name}-{os.urandom(4).hex()}"
    blobs = open_blobs(f"s3://{s3.BUCKET}/{prefix}?endpoint={endpoint}")
    return Place(blobs, lambda: [key for key in s3.objects(endpoint) if key.startswith(prefix)])


@pytest.fixture
async def store(database_url: str, place: Place) -> AsyncIterator[SqlStore]:
    store = open_store(database_url, sqlite_synchronous="NORMAL", blobs=place.blobs)
    await store.open()
    yield store
    await store.close()


def medium(data: bytes) -> Media:
    return make.medium(data)


async def say(store: SqlStore, *media: Media) -> Session:
    """A run in a new session whose message has these media. Returns the session."""
    made = make.session()
    run = make.run(made)
    await store.start_run(run, made)
    message = replace(make.message(run), media=tuple(each.sha256 for each in media))
    await store.end_run(make.end(run, messages=(message,), media=media))
    return made


async def test_what_was_put_is_read_whole_and_in_pieces(store: SqlStore, place: Place) -> None:
    large, small = medium(LARGE), medium(b"small")
    await say(store, large, small)
    assert await store.get_media(make.ALICE, [large.sha256, small.sha256]) == {
        large.sha256: large,
        small.sha256: small,
    }
    assert len(place.keys()) == (2 if place.blobs else 0)
    opened = await store.open_media(make.ALICE, large.sha256)
    assert (opened.mime_type, opened.size) == (large.mime_type, len(LARGE))
    for offset, size in (
        (0, 10),
        (5, 2 * 1024 * 1024),
        (1024 * 1024 - 3, 7),
        (len(LARGE) - 4, 100),
        (len(LARGE), 9),
    ):
        assert await opened.read(offset, size) == LARGE[offset : offset + size]


async def test_it_is_anothers_or_none(store: SqlStore) -> None:
    large = medium(LARGE[:100_000])
    await say(store, large)
    for owner, sha256 in ((BOB, large.sha256), (make.ALICE, bytes(32))):
        with pytest.raises(MediaNotFound):
            await store.open_media(owner, sha256)
    assert await store.get_media(BOB, [large.sha256]) == {}


async def test_the_same_is_kept_once_and_goes_with_the_last_who_has_it(store: SqlStore, place: Place) -> None:
    large = medium(LARGE[:100_000])
    sessions = [await say(store, large, large) for _ in range(3)]
    assert len(place.keys()) == (1 if place.blobs else 0)
    opened = await store.open_media(make.ALICE, large.sha256)
    for session in sessions:
        assert await store.get_media(make.ALICE, [large.sha256])
        await store.delete_session(make.ALICE, session.id)
    assert await store.get_media(make.ALICE, [large.sha256]) == {}
    assert place.keys() == []
    with pytest.raises(MediaNotFound):
        await opened.read(0, 10)
    await say(store, large)  # and may come back
    assert await store.get_media(make.ALICE, [large.sha256])


async def test_what_nothing_has_come_to_refer_to_is_swept_up(store: SqlStore, place: Place) -> None:
    kept, orphan = medium(b"k" * 50_000), medium(b"o" * 50_000)
    await say(store, kept)
    await store._media.put(make.ALICE, orphan, 10_000)
    with pytest.raises(MediaNotFound):
        await store.open_media(make.ALICE, orphan.sha256)
    assert await store.sweep_media(utcnow() - timedelta(hours=1), 10) == 0
    assert await store.sweep_media(utcnow() + timedelta(hours=1), 10) == 1
    assert await store.get_media(make.ALICE, [kept.sha256, orphan.sha256]) == {kept.sha256: kept}
    assert len(place.keys()) == (1 if place.blobs else 0)


@pytest.mark.parametrize("place", ["folder", "bucket"], indirect=True)
async def test_an_upload_that_was_broken_off_is_done_again(store: SqlStore, place: Place) -> None:
    """A crash may leave the row without the bytes: who comes next brings them. The database writes both at once."""
    assert place.blobs is not None
    large = medium(LARGE[:100_000])
    await store._media.put(make.ALICE, large, 10_000)
    (key,) = place.keys()
    await place.blobs.delete(key.rpartition("/")[2])
    await say(store, large)
    assert await store.get_media(make.ALICE, [large.sha256]) == {large.sha256: large}


async def test_media_of_before_stay_where_they_are(database_url: str, place: Place) -> None:
    """A media store is set later: what is in the database is read from there."""
    before = open_store(database_url)
    await before.open()
    old, new = medium(b"o" * 50_000), medium(b"n" * 50_000)
    await say(before, old)
    await before.close()
    after = open_store(database_url, blobs=place.blobs)
    await after.open()
    try:
        await say(after, old, new)
        assert (await after.get_media(make.ALICE, [old.sha256, new.sha256])).keys() == {
            old.sha256,
            new.sha256,
        }
        assert len(place.keys()) == (1 if place.blobs else 0)
    finally:
        await after.close()
    if place.blobs is not None:
        without = open_store(database_url)
        await without.open()
        try:
            with pytest.raises(StorageUnavailable):
                await without.get_media(make.ALICE, [new.sha256])
        finally:
            await without.close()


@pytest.mark.parametrize(
    "url",
    [
        "folder",
        "file:///",
        "file://host/x",
        "s3:///prefix",
        "s3://key:secret@bucket/prefix",
        "s3://bucket?colour=red",
        "ftp://host/x",
        "file:///proc/nowhere/at/all",
    ],
)
def test_what_is_no_media_store(url: str) -> None:
    with pytest.raises(BlobsUnusable) as refused:
        open_blobs(url)
    assert "secret" not in str(refused.value)


async def test_a_store_that_does_not_answer_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from dragoman.blobs import objects

    monkeypatch.setattr(objects, "RETRY_TIME", timedelta(seconds=1))
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    blobs = open_blobs("s3://bucket?endpoint=http://127.0.0.1:1")
    store = open_store("sqlite://", blobs=blobs)
    await store.open()
    try:
        with pytest.raises(StorageUnavailable):
            await store._media._fetch(
                {bytes([number]) * 32: ("image/png", str(number)) for number in range(9)}
            )
        assert (
            await store.sweep_media(utcnow(), 10) == 0
        )  # a media store that is away is no trouble of the database
    finally:
        await store.close()
    for call in (blobs.put("k", b"x"), blobs.get("k"), blobs.get("k", 1, 2), blobs.delete("k")):
        with pytest.raises(StorageUnavailable):
            await call
