"""URLs, lanes and repetition, on SQLite."""

import asyncio
import sqlite3
import threading
from functools import partial
from pathlib import Path

import pytest
import sqlalchemy as sa
from support import make
from support.mariadb import MariaDBServer

from dragoman.engine.ports import Page
from dragoman.errors import SessionNotFound, StorageUnavailable
from dragoman.storage import engines, open_store, schema_state
from dragoman.storage.database import QUEUE, Lane


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///dragoman.db", "sqlite"),
        ("sqlite://", "sqlite"),
        ("mysql://u:p@h/d", "mysql+pymysql"),
        ("mariadb://u:p@h/d", "mariadb+pymysql"),
        ("mysql+pymysql://u:p@h/d", "mysql+pymysql"),
        ("mysql+mysqldb://u:p@h/d", "mysql+mysqldb"),
    ],
)
def test_urls_that_are_supported(url: str, driver: str) -> None:
    assert engines.parse(url).drivername == driver


@pytest.mark.parametrize(
    "url",
    [
        "",
        "hunter2",
        "postgresql://u:hunter2@h/d",
        "mysql+asyncmy://u:hunter2@h/d",
        "sqlite+aiosqlite:///x",
        "mysql://u:hunter2@h:port/d",
    ],
)
def test_urls_that_are_not(url: str) -> None:
    with pytest.raises(ValueError, match=r"the database URL|not supported") as refused:
        open_store(url)
    assert "hunter2" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize(
    ("url", "description"),
    [
        ("sqlite:///data/dragoman.db", "SQLite data/dragoman.db"),
        ("sqlite:///:memory:", "SQLite (in memory)"),
        ("mysql+pymysql://user:hunter2@db.example/dragoman?ssl_disabled=true", "MySQL db.example/dragoman"),
        ("mariadb+pymysql://user:hunter2@db.example/dragoman", "MariaDB db.example/dragoman"),
    ],
)
def test_the_description_is_for_people_and_without_credentials(url: str, description: str) -> None:
    assert engines.describe(engines.parse(url)) == description


@pytest.mark.parametrize(
    ("query", "expected"), [("ssl_disabled=true", True), ("ssl_disabled=false", None), ("", None)]
)
def test_tls_can_be_turned_off_by_the_url(query: str, expected: bool | None) -> None:
    url = engines.parse(f"mysql://u:p@h/d?{query}&unix_socket=/s")
    assert engines.mysql_arguments(url).get("ssl_disabled") is expected


def test_synchronous_is_one_of_two() -> None:
    with pytest.raises(ValueError, match="FULL or NORMAL"):
        open_store("sqlite://", sqlite_synchronous="OFF; DROP TABLE runs")


async def test_a_store_in_memory() -> None:
    one, two = open_store("sqlite:///:memory:"), open_store("sqlite://")
    for store in (one, two):
        await store.open()
    session = make.session()
    run = make.run(session)
    await asyncio.gather(one.start_run(run, session), *(one.ping() for _ in range(20)))
    assert await one.get_run(make.ALICE, run.id) == run
    with pytest.raises(SessionNotFound):
        await two.get_session(make.ALICE, session.id)
    for store in (one, two):
        await store.close()


async def test_a_relative_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert schema_state("sqlite:///file.db").current is None
    assert not (tmp_path / "file.db").exists()
    store = open_store("sqlite:///file.db")
    await store.open()
    await store.close()
    assert (tmp_path / "file.db").exists()
    assert schema_state("sqlite:///file.db").up_to_date


@pytest.mark.parametrize(("setting", "level"), [("FULL", 2), ("NORMAL", 1)])
async def test_pragmas_of_the_connections(tmp_path: Path, setting: str, level: int) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'file.db'}", sqlite_synchronous=setting)
    await store.open()

    def pragmas(connection: sa.Connection) -> list[object]:
        names = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout", "query_only")
        return [connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in names]

    assert await store._database.write(pragmas) == ["wal", level, 1, 15000, 0]
    assert (await store._database.read(pragmas))[3:] == [15000, 1]
    await store.close()


async def test_readers_do_not_wait_for_a_writer(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path / 'file.db'}")
    await store.open()
    session = make.session()
    await store.create_session(session)
    started, finish = threading.Event(), threading.Event()

    def work(connection: sa.Connection) -> None:
        connection.execute(sa.text("UPDATE sessions SET title = 'later'"))
        started.set()
        assert finish.wait(10)

    writing = asyncio.create_task(store._database.write(work))
    await asyncio.to_thread(started.wait, 10)
    assert (await store.get_session(make.ALICE, session.id)).title == ""
    finish.set()
    await writing
    assert (await store.get_session(make.ALICE, session.id)).title == "later"
    await store.close()


async def test_another_process_that_keeps_the_file_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "BUSY_TIMEOUT", 0.05)
    path = tmp_path / "file.db"
    store = open_store(f"sqlite:///{path}", patience=0.2)
    await store.open()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    session = make.session()
    with pytest.raises(StorageUnavailable) as unavailable:
        await store.create_session(session)
    assert unavailable.value.__context__ is None
    waiting = asyncio.create_task(store.create_session(session))
    await asyncio.sleep(0)
    other.rollback()
    other.close()
    await waiting
    assert await store.list_sessions(make.ALICE, "", Page(5)) == [session]
    await store.close()


async def test_a_lane_runs_jobs_in_their_order_and_bounds_what_waits() -> None:
    lane = Lane("test", sa.create_engine("sqlite://"), threads=1)
    gate = threading.Event()
    ran: list[int] = []

    def job(number: int) -> None:
        assert gate.wait(10)
        ran.append(number)

    jobs = [asyncio.create_task(lane.run(partial(job, number))) for number in range(3 * QUEUE)]
    await asyncio.sleep(0)
    assert lane._executor._work_queue.qsize() <= QUEUE
    gate.set()
    await asyncio.gather(*jobs)
    assert ran == list(range(3 * QUEUE))
    await lane.close()


@pytest.mark.mariadb
async def test_a_server_that_only_reads_now_is_left_for_another(mariadb: MariaDBServer) -> None:
    """As after the primary has changed: connections to the old one are of no more use, whatever is asked."""
    with mariadb.migrated_database() as url:
        store = open_store(url, connections=1)
        await store.open()
        connections: list[int] = []

        def work(connection: sa.Connection) -> str:
            connections.append(connection.exec_driver_sql("SELECT CONNECTION_ID()").scalar_one())
            if len(connections) == 1:
                connection.exec_driver_sql("SIGNAL SQLSTATE 'HY000' SET MYSQL_ERRNO = 1290")
            return "written"

        assert await store._database.write(work) == "written"
        await store.close()
    first, second = connections
    assert first != second
