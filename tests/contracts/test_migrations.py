"""The schema: migrations lead from nothing to what the tables say, once, however many replicas start."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pymysql
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from support.mariadb import MariaDBServer

from dragoman.storage import SchemaOutdated, generate_migration, migrate, open_store, schema_state
from dragoman.storage import migrate as migrate_function
from dragoman.storage.migrate import MIGRATIONS, VERSION_TABLE
from dragoman.storage.tables import metadata

REVISIONS = sorted(path.name[:4] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


@pytest.fixture(params=["sqlite", pytest.param("mariadb", marks=pytest.mark.mariadb)])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of a database without any table."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'empty.db'}"
    else:
        server: MariaDBServer = request.getfixturevalue("mariadb")
        yield server.fresh_database()


def differences(url: str) -> list[object]:
    """What autogenerate would change: nothing, when the tables and the migrations say the same."""
    engine = sa.create_engine(url)
    options = {"version_table": VERSION_TABLE, "compare_type": True, "compare_server_default": True}
    try:
        with engine.connect() as connection:
            found: list[object] = compare_metadata(
                MigrationContext.configure(connection, opts=options), metadata
            )
            return found
    finally:
        engine.dispose()


def test_from_nothing_to_the_tables(empty_url: str) -> None:
    before = schema_state(empty_url)
    assert (before.current, before.up_to_date) == (None, False)
    assert migrate(empty_url) == REVISIONS
    after = schema_state(empty_url)
    assert (after.current, after.head, after.up_to_date) == (REVISIONS[-1], REVISIONS[-1], True)
    assert differences(empty_url) == []
    assert migrate(empty_url) == []


def test_a_migration_that_was_killed_is_taken_up_again(empty_url: str) -> None:
    """MySQL commits each statement of DDL: a table may be there, without its indexes, and its revision not noted."""
    migrate(empty_url)
    execute(
        empty_url,
        "DROP INDEX ix_model_calls_root_run_id" + (" ON model_calls" if "mysql" in empty_url else ""),
        "DROP TABLE message_media",
        "DROP TABLE media_chunks",
        "DROP TABLE media",
        f"UPDATE {VERSION_TABLE} SET version_num = '0005'",
    )
    assert migrate(empty_url) == REVISIONS[5:]
    assert differences(empty_url) == []


def test_replicas_that_start_together_migrate_once(empty_url: str) -> None:
    code = "import sys; from dragoman.storage import migrate; print(*migrate(sys.argv[1]))"
    replicas = [
        subprocess.Popen([sys.executable, "-c", code, empty_url], stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    outputs = [replica.communicate(timeout=60)[0].split() for replica in replicas]
    assert [replica.returncode for replica in replicas] == [0, 0]
    assert sorted(outputs) == [[], REVISIONS]
    assert differences(empty_url) == []


async def test_an_old_schema_is_refused_but_on_sqlite_migrated(empty_url: str) -> None:
    store = open_store(empty_url)
    try:
        if empty_url.startswith("sqlite"):
            await store.open()
        else:
            with pytest.raises(
                SchemaOutdated, match="is empty, this release needs revision " + REVISIONS[-1]
            ):
                await store.open()
            assert schema_state(empty_url).current is None
            await store.open(migrate=True)
        await store.ping()
    finally:
        await store.close()
    assert schema_state(empty_url).up_to_date


async def test_the_schema_of_a_later_release_will_do(empty_url: str) -> None:
    migrate(empty_url)
    execute(empty_url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    state = schema_state(empty_url)
    assert (state.current, state.up_to_date) == ("9999", True)
    assert migrate(empty_url) == []
    store = open_store(empty_url)
    await store.open()
    await store.close()


def test_tables_of_others_are_left_alone(
    empty_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    migrate(empty_url)
    execute(
        empty_url,
        "CREATE TABLE ai_sessions (id INT PRIMARY KEY)",
        "CREATE TABLE alembic_version (version_num VARCHAR(32))",
        "ALTER TABLE sessions ADD COLUMN surplus INT",
    )
    copy = tmp_path / "migrations"
    for source in [*MIGRATIONS.glob("*.*"), *(MIGRATIONS / "versions").glob("*.py")]:
        target = copy / source.relative_to(MIGRATIONS)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(source.read_bytes())
    monkeypatch.setattr(sys.modules[migrate_function.__module__], "MIGRATIONS", copy)

    path = generate_migration(empty_url, "Take surplus away")
    text = path.read_text()
    assert path == copy / "versions" / f"{len(REVISIONS) + 1:04}_take_surplus_away.py"
    assert 'drop_column("surplus")' in text.replace("'", '"')
    assert "ai_sessions" not in text
    assert "alembic_version" not in text
    compile(text, str(path), "exec")
    with pytest.raises(SchemaOutdated):
        generate_migration(empty_url, "And again")
    migrate(empty_url)
    with pytest.raises(RuntimeError, match="nothing to migrate"):
        generate_migration(empty_url, "Nothing")


def execute(url: str, *statements: str) -> None:
    """Runs statements past the store."""
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        connection = sqlite3.connect(str(parsed.database))
        try:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        finally:
            connection.close()
        return
    with (
        pymysql.connect(
            host=parsed.host,
            port=parsed.port or 0,
            user=parsed.username,
            password=parsed.password or "",
            database=parsed.database,
            autocommit=True,
        ) as other,
        other.cursor() as cursor,
    ):
        for statement in statements:
            cursor.execute(statement)
