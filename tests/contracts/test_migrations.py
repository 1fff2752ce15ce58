"""The schema: migrations lead from nothing to what the tables say, once, however many replicas start."""

import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pymysql
import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from support import make
from support.mariadb import MariaDBServer

from dragoman.auth import make_key
from dragoman.engine.ports import Ended
from dragoman.errors import RunNotPaused
from dragoman.records import ApiKey, Run, RunStatus, Session, SessionConflict
from dragoman.storage import (
    SchemaOutdated,
    codec,
    engines,
    generate_migration,
    migrate,
    open_store,
    schema_state,
)
from dragoman.storage import migrate as migrate_function
from dragoman.storage.migrate import MIGRATIONS, VERSION_TABLE
from dragoman.storage.rows import Packer, chunk_values, run_values, session_values
from dragoman.storage.tables import LATER_TOKENS, api_keys, metadata, run_events, runs, sessions

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


async def test_rows_of_the_release_before_stay_and_can_be_used(empty_url: str) -> None:
    """From 0009, which knows nothing of holders, queues and pauses."""
    migrate_to(empty_url, "0009")
    session = make.session()
    finished, paused, running = (make.run(session, make.NOW + timedelta(hours=hour)) for hour in range(3))
    finished = replace(finished, status=RunStatus.COMPLETED)
    insert_old(empty_url, session, finished, replace(paused, status=RunStatus.PAUSED), running)
    assert migrate(empty_url) == REVISIONS[9:]

    store = open_store(empty_url)
    await store.open()
    try:
        assert (await store.get_run(make.ALICE, running.id)) == replace(running, last_sequence=2)
        # It is left by a process that did not say who it was, and nothing can continue what has kept nothing.
        [abandoned] = await store.abandoned_runs(timedelta(seconds=30), 9)
        assert abandoned.id == running.id
        [expired] = await store.expired_runs(9)
        assert expired.id == paused.id
        with pytest.raises(RunNotPaused):
            await store.continue_run(make.ALICE, paused.id, after_sequence=2, holder=session.id)
        waiting = await store.start_run(
            make.run(session), None, conflict=SessionConflict.INTERRUPT, max_queued=1
        )
        assert [run.id for run in waiting.interrupted] == [running.id]
        assert await store.trim_events(make.NOW + timedelta(days=1), 9) == 1
        chunks = await store.read_events(make.ALICE, finished.id, 1, 99)
        assert [chunk.events for chunk in chunks] == [(b"end",)]
        end = make.end(running, status=RunStatus.CANCELLED, first=9, events=[b"abandoned"])
        lapsed = replace(end, lapsed=timedelta(seconds=30))
        assert await store.end_run(lapsed) == Ended(True, waiting.run.id)
        expiry = make.end(paused, status=RunStatus.CANCELLED, first=3, events=[b"expired"])
        assert await store.end_run(replace(expiry, only_paused=True)) == Ended(True)
        assert (await store.get_session(make.ALICE, session.id)).active_run_id == waiting.run.id
    finally:
        await store.close()


async def test_the_release_before_can_write_to_the_new_schema(empty_url: str) -> None:
    """While one replica after the other is replaced, the old ones go on."""
    migrate(empty_url)
    session = make.session()
    run = make.run(session)
    insert_old(empty_url, session, run)
    store = open_store(empty_url)
    await store.open()
    try:
        assert await store.get_run(make.ALICE, run.id) == replace(run, last_sequence=2)
        assert await store.end_run(make.end(run, first=3)) == Ended(True)
    finally:
        await store.close()


async def test_keys_of_the_release_before_say_nothing_of_quotas(empty_url: str) -> None:
    """Those that were there, and those that it still makes."""
    migrate_to(empty_url, "0021")
    keys = [make_key("billing", now=make.NOW).key for _ in range(2)]
    insert_old_key(empty_url, keys[0])
    assert migrate(empty_url) == REVISIONS[21:]
    insert_old_key(empty_url, keys[1])
    store = open_store(empty_url)
    await store.open()
    try:
        assert sorted(await store.keys.all(), key=lambda key: key.id) == sorted(keys, key=lambda key: key.id)
    finally:
        await store.close()


def test_all_revisions_can_be_taken_back(empty_url: str) -> None:
    migrate(empty_url)
    migrate_to(empty_url, "base")
    assert schema_state(empty_url).current is None
    assert migrate(empty_url) == REVISIONS
    assert differences(empty_url) == []


def migrate_to(url: str, revision: str) -> None:
    """Brings a database to a revision, up or down, as `migrate` does to the newest."""
    parsed = engines.parse(url)
    engine = engines.for_migration(parsed)
    try:
        with engine.connect() as connection:
            config = Config(attributes={"connection": connection, "on_version_apply": None})
            config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
            (command.downgrade if revision == "base" else command.upgrade)(config, revision)
            connection.commit()
    finally:
        engine.dispose()


def insert_old(url: str, session: Session, *old_runs: Run) -> None:
    """A session and runs of two events each, in the columns that revision 0009 has; the last run has the turn."""
    engine = sa.create_engine(engines.parse(url))
    new = {"holder", "ticket", "limits", *LATER_TOKENS}
    try:
        with engine.begin() as connection:
            row = session_values(session)
            connection.execute(sa.insert(sessions), row | {"active_run_id": old_runs[-1].id})
            for run in old_runs:
                values = {key: value for key, value in run_values(run, None).items() if key not in new}
                final = run.status.final
                values |= {"lease_time": run.create_time, "last_sequence": 2}
                values |= {"end_time": run.create_time if final else None}
                values |= {"last_event": codec.encode(b"end") if final else None}
                connection.execute(sa.insert(runs), values)
                connection.execute(
                    sa.insert(run_events), chunk_values(make.chunk(run, 1, b"a", b"end"), Packer(run.id, 999))
                )
    finally:
        engine.dispose()


def insert_old_key(url: str, key: ApiKey) -> None:
    """A key in the columns that revision 0021 has."""
    engine = sa.create_engine(engines.parse(url))
    try:
        with engine.begin() as connection:
            values = {
                name: getattr(key, name)
                for name in sorted(column.name for column in api_keys.c)
                if name not in ("quotas", "update_time")
            }
            values |= {"scopes": list(key.scopes), "agents": list(key.agents), "update_time": key.create_time}
            connection.execute(sa.insert(api_keys), values)
    finally:
        engine.dispose()


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
