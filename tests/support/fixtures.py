"""Databases for tests in any folder: `mariadb`, a private server, and `database_url`, each database in turn."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.mariadb import MariaDBServer

from dragoman.storage import migrate


@pytest.fixture(scope="session")
def mariadb() -> Iterator[MariaDBServer]:
    """One server for all tests of this process."""
    server = MariaDBServer.start()
    yield server
    server.stop()


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database with the schema and no rows, on SQLite and on MariaDB."""
    if request.param == "sqlite":
        path = tmp_path / "dragoman.db"
        shutil.copy(_sqlite_template(request.getfixturevalue("tmp_path_factory")), path)
        yield f"sqlite:///{path}"
    else:
        server: MariaDBServer = request.getfixturevalue("mariadb")
        with server.migrated_database() as url:
            yield url


def _sqlite_template(factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with the schema and no rows, to be copied; made once in each test process."""
    path = factory.getbasetemp() / "template.db"
    if not path.exists():
        migrate(f"sqlite:///{path}")
    return path
