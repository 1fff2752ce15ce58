"""A store in memory for one engine, and databases that several engines share."""

from collections.abc import AsyncIterator

import pytest

from .engine_processes import Cluster, Door, cluster_on, door_to


@pytest.fixture
async def door() -> AsyncIterator[Door]:
    """The store of one engine."""
    async with door_to() as door:
        yield door


@pytest.fixture
async def cluster(database_url: str) -> AsyncIterator[Cluster]:
    """Processes that do not signal to each other: on SQLite and on MariaDB."""
    async with cluster_on(database_url) as cluster:
        yield cluster
