"""Every query has its index: on SQLite, whose planner says so in words."""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support import make

from dragoman.engine.ports import Page, SpendingQuery, UsageDimension, UsageQuery
from dragoman.records import AllOwners, Cancellation, Pause, RequestKey, RunCalls, RunStatus, SessionConflict
from dragoman.storage import Chosen, SqlStore, media, open_store
from dragoman.v1 import event_pb2

SESSION = make.session()
RUN = make.run(SESSION)
LATER = Page(5, (make.NOW, SESSION.id))


QUERIES: list[tuple[str, Callable[[SqlStore], Awaitable[object]], list[str]]] = [
    (
        "sessions",
        lambda store: store.list_sessions(make.ALICE, "", LATER),
        ["ix_sessions_principal_user_update_time_id"],
    ),
    (
        "sessions of an agent",
        lambda store: store.list_sessions(make.ALICE, "example", LATER),
        ["ix_sessions_principal_user_agent_name_update_time_id"],
    ),
    ("runs", lambda store: store.list_runs(make.ALICE, LATER), ["ix_runs_principal_user_create_time_id"]),
    (
        "runs of an agent",
        lambda store: store.list_runs(make.ALICE, LATER, agent_name="example"),
        ["ix_runs_principal_user_agent_name_create_time_id"],
    ),
    (
        "runs of a status",
        lambda store: store.list_runs(make.ALICE, LATER, status=RunStatus.FAILED),
        ["ix_runs_principal_user_status_create_time_id"],
    ),
    (
        "runs of a session",
        lambda store: store.list_runs(make.ALICE, LATER, session_id=SESSION.id),
        ["ix_runs_session_id_create_time_id"],
    ),
    ("runs of all owners", lambda store: store.list_runs(AllOwners(), LATER), ["ix_runs_create_time_id"]),
    (
        "usage of all owners in a time",
        lambda store: store.query_usage(AllOwners(), UsageQuery(start_time=make.NOW), Page(5)),
        ["ix_model_calls_start_time"],
    ),
    (
        "messages",
        lambda store: store.list_messages(make.ALICE, SESSION.id, Page(5, 3)),
        ["sqlite_autoindex_chat_events_2"],
    ),
    (
        "messages of a run",
        lambda store: store.list_messages(make.ALICE, SESSION.id, Page(5, 3), run_id=SESSION.id),
        ["ix_chat_events_root_run_id_sequence"],
    ),
    (
        "history",
        lambda store: store.load_history(make.ALICE, SESSION.id, 5),
        ["ix_runs_session_id_last_message_sequence", "ix_chat_events_root_run_id_sequence"],
    ),
    (
        "members' history",
        lambda store: store.load_member_history(make.ALICE, SESSION.id, ["ann", "bob"], 3, 100),
        ["ix_runs_session_id_last_message_sequence", "ix_chat_events_root_run_id_sequence"],
    ),
    (
        "an append",
        lambda store: store.append_events([make.chunk(RUN, 1, b"event")]),
        ["sqlite_autoindex_runs_1", "sqlite_autoindex_run_events_1"],
    ),
    (
        "abandoned runs",
        lambda store: store.abandoned_runs(timedelta(seconds=9), 5),
        ["ix_runs_status_lease_time"],
    ),
    ("expired runs", lambda store: store.expired_runs(5), ["ix_runs_status_expire_time"]),
    ("runs to trim", lambda store: store.trim_events(make.NOW, 5), ["ix_runs_log_time"]),
    ("requests to trim", lambda store: store.trim_requests(make.NOW, 5), ["ix_requests_create_time"]),
    (
        "a request",
        lambda store: store.find_request(make.ALICE, RequestKey("id", bytes(32))),
        ["sqlite_autoindex_requests_1"],
    ),
    ("progress", lambda store: store.progress([RUN.id]), ["sqlite_autoindex_runs_1"]),
    ("notices", lambda store: store.notices(RUN.id, [RUN.id]), ["sqlite_autoindex_runs_1"]),
    (
        "calls of a run",
        lambda store: store.run_calls(make.ALICE, RUN.id),
        ["ix_model_calls_root_run_id"],
    ),
    (
        "a stretch of the ledger",
        lambda store: store.scan_calls(
            Chosen(make.NOW, make.NOW, "agent", "model", only_unpriced=True), RUN.id
        ),
        ["sqlite_autoindex_model_calls_1"],
    ),
    (
        "usage of a time",
        lambda store: store.query_usage(make.ALICE, UsageQuery(start_time=make.NOW), Page(5)),
        ["ix_model_calls_principal_user_start_time"],
    ),
    (
        "usage of a session",
        lambda store: store.query_usage(make.ALICE, UsageQuery(session_id=SESSION.id), Page(5)),
        ["ix_model_calls_session_id_start_time"],
    ),
    (
        "media",
        lambda store: store._database.read(lambda c: media.get(c, make.ALICE, [bytes(32)])),
        ["sqlite_autoindex_media_2", "sqlite_autoindex_media_chunks_1"],
    ),
]


@pytest.fixture
async def store() -> AsyncIterator[SqlStore]:
    """A store on a database in memory."""
    store = open_store("sqlite://")
    await store.open()
    yield store
    await store.close()


async def heard(store: SqlStore, work: Callable[[SqlStore], Awaitable[object]]) -> list[tuple[str, Any]]:
    """The statements that the work takes, with their parameters."""
    statements: list[tuple[str, Any]] = []

    def note(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    def listen(connection: sa.Connection) -> None:
        sa.event.listen(connection.engine, "before_cursor_execute", note)

    def leave(connection: sa.Connection) -> None:
        sa.event.remove(connection.engine, "before_cursor_execute", note)

    await store._database.read(listen)
    await work(store)
    await store._database.read(leave)
    return statements


async def explain(store: SqlStore, statement: str, parameters: Any) -> list[str]:
    """The planner's words."""
    return await store._database.read(
        lambda c: [row[3] for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    )


@pytest.mark.parametrize(
    ("query", "indexes"), [case[1:] for case in QUERIES], ids=[case[0] for case in QUERIES]
)
async def test_a_query_uses_its_index(
    store: SqlStore, query: Callable[[SqlStore], Awaitable[object]], indexes: list[str]
) -> None:
    await store.start_run(RUN, SESSION)
    statement, parameters = (await heard(store, query))[-1]
    plan = await explain(store, statement, parameters)
    for index in indexes:
        assert any(f"INDEX {index} " in step for step in plan), plan
    tables = [
        table
        for table in (
            "sessions",
            "runs",
            "run_events",
            "chat_events",
            "model_calls",
            "media",
            "requests",
            "run_pauses",
        )
        if f"SCAN {table}" in plan
    ]
    assert tables == []


@pytest.mark.parametrize(
    ("principal", "agent", "indexes"),
    [
        ("service", "", {"ix_model_calls_principal_start_time"}),
        ("", "example", {"ix_model_calls_root_agent_name_start_time"}),
        (
            "service",
            "example",
            {"ix_model_calls_principal_start_time", "ix_model_calls_root_agent_name_start_time"},
        ),
    ],
    ids=["a principal", "an agent", "both"],
)
async def test_what_a_budget_reads_is_what_it_sums_up(
    store: SqlStore, principal: str, agent: str, indexes: set[str]
) -> None:
    hour = timedelta(hours=1)
    asked = SpendingQuery(
        principal, agent, "ZAR", make.NOW - hour, make.NOW, make.NOW + hour, frozenset({RUN.id})
    )
    statements = await heard(store, lambda store: store.spending([asked]))
    assert len(statements) == 3
    plans = [" ".join(await explain(store, *statement)) for statement in statements]
    for plan in plans[:2]:
        assert any(f"INDEX {index} " in plan for index in indexes), plan
        assert "start_time>? AND start_time<?" in plan
    assert "sqlite_autoindex_model_calls_1" in plans[2]


async def test_the_days_of_a_zone_take_two_looks_at_the_index(store: SqlStore) -> None:
    await store.start_run(RUN, SESSION)
    await store.end_run(make.end(RUN, calls=[make.call(RUN)]))
    query = UsageQuery((UsageDimension.DAY,), make.NOW, time_zone="Europe/Berlin")
    statements = await heard(store, lambda store: store.query_usage(make.ALICE, query, Page(5)))
    assert len(statements) == 3
    for statement in statements:
        plan = " ".join(await explain(store, *statement))
        assert "INDEX ix_model_calls_principal_user_start_time " in plan


async def life(store: SqlStore) -> None:
    """All that runs go through: queued, interrupted, paused, continued, abandoned, cancelled, trimmed, deleted."""
    session = make.session()
    run, queued, newest = (replace(make.run(session), holder=SESSION.id) for _ in range(3))
    await store.create_session(session, RequestKey("session", bytes(32)))
    await store.start_run(run, None, request=RequestKey("run", bytes(32)))
    await store.start_run(queued, None, conflict=SessionConflict.QUEUE, max_queued=1)
    pause = Pause(b"state", "content", timedelta(0), make.NOW)
    await store.end_run(replace(make.end(run, status=RunStatus.PAUSED), pause=pause))
    await store.continue_run(
        make.ALICE, run.id, after_sequence=2, holder=SESSION.id, request=RequestKey("go on", bytes(32))
    )
    await store.append_events(
        [make.chunk(run, 3, b"event")],
        [RunCalls(run.id, session.id, make.ALICE, "example", "", (make.call(run),))],
    )
    await store.start_run(newest, None, conflict=SessionConflict.INTERRUPT)
    await store.start_run(run, None, request=RequestKey("run", bytes(32)))
    await store.request_cancel(make.ALICE, run.id, Cancellation(event_pb2.CANCEL_REASON_CALLER))
    await store.renew_leases(SESSION.id, [run.id, newest.id])
    await store.end_run(make.end(queued, status=RunStatus.CANCELLED))
    end = make.end(run, first=4, calls=[make.call(run)], messages=[make.message(run)])
    await store.end_run(replace(end, booked=True))
    late = replace(end, chunk=make.chunk(run, 9, b"late"), lapsed=timedelta(0))
    await store.end_run(late)
    await store.end_run(replace(late, lapsed=None))
    await store.end_run(replace(make.end(newest, status=RunStatus.PAUSED), pause=pause))
    await store.end_run(replace(make.end(newest, first=3), only_paused=True))
    await store.read_events(make.ALICE, run.id, 0, 99)
    await store.trim_events(make.NOW + timedelta(days=1), 9)
    await store.read_events(make.ALICE, run.id, 4, 99)
    await store.trim_requests(make.NOW, 9)
    await store.delete_session(make.ALICE, session.id)


async def test_nothing_that_runs_go_through_reads_a_whole_table(store: SqlStore) -> None:
    statements = await heard(store, life)
    scans = set()
    for statement, parameters in statements:
        if statement.startswith(("SELECT", "UPDATE", "DELETE")) and not isinstance(parameters, list):
            plan = await explain(store, statement, parameters)
            scans |= {
                (step, statement) for step in plan if step.startswith("SCAN") and "CONSTANT" not in step
            }
    assert len(statements) > 90
    assert scans == set()


async def whole_run(store: SqlStore) -> None:
    """As short as most are: begun in a session that is there, ended with its messages and calls."""
    run = make.run(SESSION)
    await store.start_run(run, None)
    await store.end_run(make.end(run, messages=[make.message(run)], calls=[make.call(run)]))


async def test_a_plain_run_takes_few_statements(store: SqlStore) -> None:
    await store.create_session(SESSION)
    statements = [statement for statement, _ in await heard(store, whole_run)]
    assert len(statements) == 3 + 8, statements
