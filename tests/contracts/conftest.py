"""One suite that every database passes: each test here runs on SQLite and on MariaDB."""

from collections.abc import AsyncIterator

import pytest

from dragoman.storage import SqlStore, open_store


@pytest.fixture
async def store(database_url: str) -> AsyncIterator[SqlStore]:
    """An open store on an empty database."""
    store = open_store(database_url, sqlite_synchronous="NORMAL")
    await store.open()
    yield store
    await store.close()


@pytest.fixture
async def peer(store: SqlStore, database_url: str) -> AsyncIterator[SqlStore]:
    """Another process's store on the same database."""
    peer = open_store(database_url, sqlite_synchronous="NORMAL")
    await peer.open()
    yield peer
    await peer.close()
