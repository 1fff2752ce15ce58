"""What these tests share: an empty MariaDB."""

from collections.abc import Iterator

import pytest
from support.mariadb import MariaDBServer


@pytest.fixture
def url(mariadb: MariaDBServer) -> Iterator[str]:
    """The URL of a database with the schema and no rows."""
    with mariadb.migrated_database() as url:
        yield url
