"""Trouble: a database that is away is a typed error without the driver's words, and a crash loses and doubles nothing."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pymysql
import pytest
import sqlalchemy as sa
from support import make
from support.mariadb import MariaDBServer

from dragoman import ids
from dragoman.engine.ports import Ended, Page, UsageQuery
from dragoman.errors import EventsTrimmed, StorageUnavailable
from dragoman.records import (
    Cancellation,
    Pause,
    RequestKey,
    Run,
    RunCalls,
    RunEnd,
    RunStatus,
    Session,
    SessionConflict,
)
from dragoman.storage import DatabaseUnusable, SqlStore, migrate, open_store
from dragoman.v1 import event_pb2

HOLDER = ids.new_id()
KEY = RequestKey("key", bytes(32))
WISH = Cancellation(event_pb2.CANCEL_REASON_CALLER, "service", "enough")


@pytest.fixture
def own_server() -> Iterator[MariaDBServer]:
    """A server that the test may kill."""
    server = MariaDBServer.start()
    yield server
    server.stop()


@pytest.mark.mariadb
async def test_a_lock_that_is_held_for_too_long_is_a_typed_error(
    mariadb: MariaDBServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Of SQLite, where the statement itself waits, tests/unit/storage/test_database.py."""
    with mariadb.migrated_database() as url:
        store = open_store(url, patience=0.5)
        await store.open()
        session = replace(make.session(), title="secret words")
        await store.create_session(session)
        with caplog.at_level(logging.INFO, "dragoman.storage"):
            holder = await asyncio.to_thread(hold_row, url)
            try:
                with pytest.raises(StorageUnavailable) as unavailable:
                    await store.update_session(make.ALICE, session.id, title="secret too", metadata=None)
            finally:
                holder.close()
        changed = await store.update_session(make.ALICE, session.id, title="now", metadata=None)
        assert changed.title == "now"
        await store.close()
    assert str(unavailable.value) == "the database is not available"
    assert unavailable.value.__context__ is None
    assert unavailable.value.__cause__ is None
    assert [record.code for record in caplog.records if record.levelno == logging.WARNING] == ["1205"]  # type: ignore[attr-defined] # our `extra`
    assert "secret" not in caplog.text


def hold_row(url: str) -> "pymysql.Connection[pymysql.cursors.Cursor]":
    """A connection with a transaction that has locked all sessions."""
    name, port = url.rpartition("/")[2], int(url.rpartition(":")[2].partition("/")[0])
    connection = pymysql.connect(
        host="127.0.0.1", port=port, user="dragoman", password="dragoman", database=name
    )
    with connection.cursor() as cursor:
        cursor.execute("SELECT * FROM sessions FOR UPDATE")
    return connection


async def test_a_database_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    for url, words in (
        ("mysql+pymysql://user:hunter2@127.0.0.1:1/nothing", "Can't connect to MySQL server on '127.0.0.1'"),
        (f"sqlite:///{tmp_path / 'no such folder' / 'file.db'}", "unable to open database file"),
    ):
        with pytest.raises(DatabaseUnusable, match=f"the database cannot be used: .*{words}"):
            migrate(url)
        store = open_store(url, patience=0.05)
        with pytest.raises(StorageUnavailable) as unavailable:
            await store.open()
        assert unavailable.value.__context__ is None
        assert "hunter2" not in store.description
        await store.close()


@pytest.mark.mariadb
async def test_every_call_says_when_the_server_is_down(own_server: MariaDBServer) -> None:
    url = own_server.fresh_database()
    await asyncio.to_thread(migrate, url)
    store = open_store(url, patience=0.1)
    await store.open()
    session = make.session()
    run = make.run(session)
    await store.start_run(run, session)
    await asyncio.to_thread(own_server.kill)
    calls: list[Callable[[], Awaitable[object]]] = [
        store.ping,
        lambda: store.create_session(make.session()),
        lambda: store.get_session(make.ALICE, session.id),
        lambda: store.list_sessions(make.ALICE, "", Page(1)),
        lambda: store.update_session(make.ALICE, session.id, title="t", metadata=None),
        lambda: store.delete_session(make.ALICE, session.id),
        lambda: store.list_messages(make.ALICE, session.id, Page(1)),
        lambda: store.load_history(make.ALICE, session.id, 1),
        lambda: store.load_member_history(make.ALICE, session.id, ["member"], 1, 1),
        lambda: store.get_media(make.ALICE, [bytes(32)]),
        lambda: store.start_run(make.run(session), None),
        lambda: store.append_events([make.chunk(run, 1, b"e")]),
        lambda: store.read_events(make.ALICE, run.id, 0, 1),
        lambda: store.end_run(make.end(run)),
        lambda: store.get_run(make.ALICE, run.id),
        lambda: store.list_runs(make.ALICE, Page(1)),
        lambda: store.query_usage(make.ALICE, UsageQuery(), Page(1)),
        lambda: store.run_calls(make.ALICE, run.id),
        lambda: store.find_request(make.ALICE, KEY),
        lambda: store.continue_run(make.ALICE, run.id, after_sequence=1, holder=HOLDER),
        lambda: store.request_cancel(make.ALICE, run.id, WISH),
        lambda: store.notices(HOLDER, [run.id]),
        lambda: store.progress([run.id]),
        lambda: store.abandoned_runs(timedelta(seconds=1), 1),
        lambda: store.expired_runs(1),
        lambda: store.trim_events(make.NOW, 1),
        lambda: store.trim_requests(make.NOW, 1),
        lambda: store.renew_leases(HOLDER, [run.id]),
    ]
    for call in calls:
        with pytest.raises(StorageUnavailable):
            await call()
    await asyncio.to_thread(own_server.restart)
    assert (await store.get_run(make.ALICE, run.id)).status == "running"
    await store.close()


@pytest.mark.mariadb
@pytest.mark.filterwarnings(
    "ignore:unclosed:ResourceWarning"
)  # PyMySQL's, when the server dies as it connects
async def test_a_killed_server_loses_and_doubles_nothing(own_server: MariaDBServer) -> None:
    """16 writers run and end runs while the server is killed and started again; they never hear of it."""
    url = own_server.fresh_database()
    await asyncio.to_thread(migrate, url)
    store = open_store(url, patience=60)
    await store.open()
    over = asyncio.Event()
    written: list[tuple[Session, list[RunEnd]]] = []

    async def write() -> None:
        session = make.session()
        ends: list[RunEnd] = []
        written.append((session, ends))
        while not over.is_set() or not ends:
            run = make.run(session)
            await store.start_run(run, None if ends else session)
            await store.append_events([make.chunk(run, 1, b"a", b"b")])
            said = [make.message(run), make.message(run, "assistant")]
            end = make.end(run, first=3, messages=said, calls=[make.call(run)])
            await store.end_run(end)
            ends.append(end)

    writers = [asyncio.create_task(write()) for _ in range(16)]
    for _ in range(2):
        target = sum(len(ends) for _, ends in written) + 50
        while sum(len(ends) for _, ends in written) < target:
            await asyncio.sleep(0.01)
            assert not any(writer.done() for writer in writers)
        await asyncio.to_thread(own_server.kill)
        await asyncio.to_thread(own_server.restart)
    over.set()
    await asyncio.gather(*writers)

    for session, ends in written:
        messages = await store.list_messages(make.ALICE, session.id, Page(100_000))
        assert [m.id for m in messages] == [m.id for end in ends for m in end.messages]
        assert [m.sequence for m in messages] == list(range(1, len(messages) + 1))
        stored = await store.get_session(make.ALICE, session.id)
        assert (stored.run_count, stored.active_run_id) == (len(ends), None)
        for end in ends:
            await check_events(store, end)
    [usage] = await store.query_usage(make.ALICE, UsageQuery(), Page(1))
    assert usage.model_calls == usage.runs == sum(len(ends) for _, ends in written)
    await store.close()


async def check_events(store: SqlStore, end: RunEnd) -> None:
    chunks = await store.read_events(make.ALICE, end.run_id, 0, 2**20)
    assert [event for chunk in chunks for event in chunk.events] == [b"a", b"b", *end.chunk.events]


def lose_acknowledgements(store: SqlStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each first attempt is committed, but its connection is lost before we hear of it."""
    lane = store._database._writes
    transact = lane.transact
    attempts = 0

    def lossy(work: Callable[[sa.Connection], object]) -> object:
        nonlocal attempts
        result = transact(work)
        attempts += 1
        if attempts % 2:
            lost = pymysql.err.OperationalError(2013, "Lost connection to MySQL server during query")
            raise sa.exc.OperationalError("COMMIT", {}, lost, connection_invalidated=True)
        return result

    monkeypatch.setattr(lane, "transact", lossy)


async def test_a_commit_that_was_not_acknowledged_is_made_once(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    lose_acknowledgements(store, monkeypatch)
    session, other = make.session(), make.session()
    run, second = make.run(session), make.run(session)
    picture = make.medium(b"picture")
    said = replace(make.message(run), media=(picture.sha256,))
    end = make.end(run, first=3, messages=[said], media=[picture], calls=[make.call(run)])

    await store.create_session(other)
    await store.update_session(make.ALICE, other.id, title="other", metadata=None)
    assert (await store.start_run(run, session)).session.run_count == 1
    await store.append_events([make.chunk(run, 1, b"a", b"b")])
    await store.renew_leases(HOLDER, [run.id])
    await store.end_run(end)
    assert (await store.start_run(second, None)).session.run_count == 2
    await store.end_run(make.end(second))
    await store.delete_session(make.ALICE, other.id)

    assert (await store.get_session(make.ALICE, session.id)).message_count == 1
    assert [run.id for run in await store.list_runs(make.ALICE, Page(9))] == [second.id, run.id]
    await check_events(store, end)
    [usage] = await store.query_usage(make.ALICE, UsageQuery(), Page(9))
    assert usage.model_calls == 1
    await store.delete_session(make.ALICE, session.id)
    assert await store.get_media(make.ALICE, [picture.sha256]) == {}
    assert await store.list_sessions(make.ALICE, "", Page(9)) == []


@pytest.mark.parametrize("request_key", [None, KEY], ids=["plain", "with a request id"])
async def test_turns_and_pauses_are_as_if_acknowledged(
    store: SqlStore, monkeypatch: pytest.MonkeyPatch, request_key: RequestKey | None
) -> None:
    lose_acknowledgements(store, monkeypatch)

    def key(name: str) -> RequestKey | None:
        return None if request_key is None else replace(request_key, id=name)

    session = make.session()
    assert await store.create_session(session, key("session")) == session
    run, queued, newest = (replace(make.run(session), holder=HOLDER) for _ in range(3))
    started = await store.start_run(run, None, request=key("run"))
    assert (started.created, started.run) == (True, run)
    waiting = await store.start_run(
        queued, None, conflict=SessionConflict.QUEUE, max_queued=1, request=key("queued")
    )
    assert (waiting.created, waiting.position, waiting.run.status) == (True, 1, "queued")
    pause = Pause(b"state", "content", timedelta(seconds=1), make.NOW)
    pausing = replace(make.end(run, status=RunStatus.PAUSED, calls=[make.call(run)]), pause=pause)
    assert await store.end_run(pausing) == Ended(True)
    going_on = await store.continue_run(
        make.ALICE, run.id, after_sequence=2, holder=HOLDER, request=key("go on")
    )
    assert (going_on.pause, going_on.run.status, going_on.after_sequence) == (pause, "running", 2)
    interrupting = await store.start_run(
        newest, None, conflict=SessionConflict.INTERRUPT, request=key("newest")
    )
    assert (interrupting.created, interrupting.position) == (True, 1)
    assert [other.id for other in interrupting.interrupted] == [run.id, queued.id]
    await store.append_events(
        [], [RunCalls(run.id, session.id, make.ALICE, "example", "", (make.call(run),))]
    )
    assert (await store.request_cancel(make.ALICE, newest.id, WISH)).id == newest.id
    for _ in range(2):
        # Whom the turn was given to is said once, if at all: the session's row tells.
        assert (await store.end_run(make.end(run, first=3))).stored
        assert (await store.get_session(make.ALICE, session.id)).active_run_id is None
    assert len(await store.run_calls(make.ALICE, run.id)) == 2
    assert (await store.get_session(make.ALICE, session.id)).run_count == 3
    assert await store.trim_events(make.NOW + timedelta(days=1), 9) == 0  # done by the attempt before
    with pytest.raises(EventsTrimmed):
        await store.read_events(make.ALICE, run.id, 0, 99)
    assert await store.trim_requests(make.NOW + timedelta(days=9), 9) == 0  # likewise


async def test_a_caller_who_leaves_does_not_undo_the_write(store: SqlStore) -> None:
    session = make.session()
    await store.create_session(session)
    runs: list[Run] = [make.run(make.session()) for _ in range(20)]
    starts = [
        asyncio.create_task(store.start_run(run, replace(make.session(), id=run.session_id))) for run in runs
    ]
    await asyncio.sleep(0)
    for start in starts:
        start.cancel()
    await asyncio.gather(*starts, return_exceptions=True)
    assert all(start.cancelled() for start in starts)
    while len(await store.list_runs(make.ALICE, Page(100))) < len(runs):
        await asyncio.sleep(0.01)


@pytest.mark.mariadb
async def test_a_server_that_takes_only_small_statements(mariadb: MariaDBServer) -> None:
    """Half of `max_allowed_packet` is all that a value may have, for the driver writes bytes as hex digits."""
    [(usual,)] = mariadb.execute("SELECT @@global.max_allowed_packet")
    with mariadb.migrated_database() as url:
        mariadb.execute(f"SET GLOBAL max_allowed_packet = {2**20}")
        try:
            store = open_store(url)
            await store.open()
            assert store.description == f"MariaDB 127.0.0.1/{url.rpartition('/')[2]}"
            session = make.session()
            run = make.run(session)
            await store.start_run(run, session)
            data = os.urandom(5_000_000)
            picture = make.medium(data)
            said = [replace(make.message(run, parts=part), media=(picture.sha256,)) for part in (data, b"{}")]
            said += [make.message(run, parts=os.urandom(100_000)) for _ in range(30)]
            await store.append_events([make.chunk(run, 1, data)])
            await store.end_run(make.end(run, first=2, events=[data], messages=said, media=[picture]))
            history = await store.load_history(make.ALICE, session.id, 1)
            assert [message.parts for message in history] == [message.parts for message in said]
            assert (await store.get_media(make.ALICE, [picture.sha256]))[picture.sha256] == picture
            await store.close()
        finally:
            mariadb.execute(f"SET GLOBAL max_allowed_packet = {usual}")


async def test_closing_waits_for_the_writes_under_way(database_url: str) -> None:
    store = open_store(database_url)
    await store.open()
    sessions = [make.session() for _ in range(20)]
    writes = [asyncio.create_task(store.create_session(session)) for session in sessions]
    await asyncio.sleep(0)
    await store.close()
    await store.close()
    await asyncio.gather(*writes)
    again = open_store(database_url)
    await again.open()
    assert len(await again.list_sessions(make.ALICE, "", Page(100))) == len(sessions)
    await again.close()
