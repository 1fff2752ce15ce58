"""Every query has its index: on SQLite, whose planner says so in words."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from support import make

from dragoman.engine.ports import Page, UsageQuery
from dragoman.records import RequestKey, RunStatus
from dragoman.storage import SqlStore, open_store

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
        lambda store: store.get_media(make.ALICE, [bytes(32)]),
        ["sqlite_autoindex_media_2", "sqlite_autoindex_media_chunks_1"],
    ),
]


@pytest.mark.parametrize(
    ("query", "indexes"), [case[1:] for case in QUERIES], ids=[case[0] for case in QUERIES]
)
async def test_a_query_uses_its_index(
    query: Callable[[SqlStore], Awaitable[object]], indexes: list[str]
) -> None:
    store = open_store("sqlite://")
    await store.open()
    await store.start_run(RUN, SESSION)
    statements: list[tuple[str, Any]] = []

    def note(connection: sa.Connection) -> None:
        sa.event.listen(
            connection.engine,
            "before_cursor_execute",
            lambda _connection, _cursor, statement, parameters, *_: statements.append(
                (statement, parameters)
            ),
        )

    await store._database.read(note)
    await query(store)
    statement, parameters = statements[-1]
    plan = await store._database.read(
        lambda c: [row[3] for row in c.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)]
    )
    await store.close()
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
