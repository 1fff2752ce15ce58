"""Agno's tables on each database: what one owner keeps, no other sees, changes or deletes."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest
import sqlalchemy as sa
from agno.db.base import SessionType
from agno.db.schemas import UserMemory
from agno.session import AgentSession, TeamSession

from dragoman.agents.database import AgnoDb, AgnoTables, owner_key
from dragoman.errors import StorageUnavailable
from dragoman.records import Owner
from dragoman.storage import schema_state, shared


def tables_at(url: str) -> AgnoTables:
    return AgnoTables(partial(shared, url, connections=3, sqlite_synchronous="NORMAL"), threads=3)


@pytest.fixture
async def tables(database_url: str) -> AsyncIterator[AgnoTables]:
    opened = tables_at(database_url)
    await opened.open()
    yield opened
    await opened.close()


def db_of(tables: AgnoTables, principal: str, user: str = "") -> AgnoDb:
    return AgnoDb.make(tables, owner_key(Owner(principal, user)))


async def test_memories_are_their_owner_s(tables: AgnoTables) -> None:
    ann = db_of(tables, "service", "ann")
    others = [
        db_of(tables, "service", "Ann"),
        db_of(tables, "service", "ann "),
        db_of(tables, "service"),
        db_of(tables, "other", "ann"),
        db_of(tables, 'service", "ann'),
    ]
    kept = await ann.upsert_user_memory(UserMemory(memory="likes tea 🍵", topics=["tea"], user_id="ann"))
    assert (kept.memory, kept.topics, kept.user_id) == ("likes tea 🍵", ["tea"], "ann")
    for other in others:
        assert await other.get_user_memories(user_id="ann") == []
        assert await other.get_user_memory(kept.memory_id) is None
        assert await other.get_all_memory_topics() == []
        with pytest.raises(sa.exc.IntegrityError):
            await other.upsert_user_memory(UserMemory(memory="likes gin", memory_id=kept.memory_id))
        await other.delete_user_memory(kept.memory_id)
        await other.delete_user_memories([kept.memory_id])
        await other.clear_memories()
    (read,) = await ann.get_user_memories(user_id="whoever")
    assert (read.memory, read.topics, read.user_id) == ("likes tea 🍵", ["tea"], "whoever")
    changed = UserMemory(memory="likes coffee", memory_id=kept.memory_id, topics=["coffee"])
    await ann.upsert_user_memory(changed)
    assert [memory.memory for memory in await ann.get_user_memories()] == ["likes coffee"]
    assert (await ann.get_user_memory_stats())[1] == 1
    await ann.clear_memories()
    assert await ann.get_user_memories() == []


async def test_sessions_are_their_owner_s_and_have_no_runs(tables: AgnoTables) -> None:
    ann, bob = db_of(tables, "service", "ann"), db_of(tables, "service", "bob")
    state = {"b": 1, "a": {"ö": [1.5, None, True]}}
    session = AgentSession("s1", agent_id="a", user_id="ann", session_data={"session_state": state})
    await ann.upsert_session(session)
    team = TeamSession("s2", team_id="t", user_id="ann", session_data={"session_state": {}})
    await ann.upsert_session(team)
    read = await ann.get_session("s1", SessionType.AGENT, user_id="ann")
    assert (read.session_data, read.user_id, read.runs or []) == ({"session_state": state}, "ann", [])
    assert isinstance(await ann.get_session("s2", SessionType.TEAM), TeamSession)
    assert await bob.get_session("s1", SessionType.AGENT, user_id="ann") is None
    assert await bob.get_sessions(user_id="ann") == await bob.get_sessions(None, "ann") == []
    with pytest.raises(sa.exc.IntegrityError):
        await bob.upsert_session(AgentSession("s1", user_id="bob", session_data={}))
    assert not await bob.delete_session("s1")
    await bob.delete_sessions(["s1", "s2"])
    state["b"] = 2
    await ann.upsert_session(session)
    changed = await ann.get_session("s1")
    assert changed.session_data == {"session_state": state}
    assert len(await ann.get_sessions(SessionType.AGENT)) == 1
    assert await ann.delete_session("s1")


async def test_they_outlive_the_process_and_are_none_of_the_migrations_business(database_url: str) -> None:
    for expected in (0, 1):
        tables = tables_at(database_url)
        await tables.open()
        ann = db_of(tables, "service", "ann")
        assert [memory.topics for memory in await ann.get_user_memories()] == [["tea"]] * expected
        if not expected:
            await ann.upsert_user_memory(UserMemory(memory="likes tea", topics=["tea"]))
        assert not await ann.table_exists("ai_runs")
        await tables.close()
    assert schema_state(database_url).up_to_date


async def test_processes_that_start_at_once_agree_on_the_tables(database_url: str) -> None:
    starting = [tables_at(database_url) for _ in range(4)]
    await asyncio.gather(*(tables.open() for tables in starting))
    for number, tables in enumerate(starting):
        await db_of(tables, "service").upsert_user_memory(UserMemory(memory=str(number)))
    seen = await db_of(starting[0], "service").get_user_memories()
    assert sorted(memory.memory for memory in seen) == ["0", "1", "2", "3"]
    await asyncio.gather(*(tables.close() for tables in starting))
    await starting[0].close()


async def test_a_database_that_does_not_answer() -> None:
    tables = tables_at("mysql+pymysql://nobody:secret@127.0.0.1:1/none")
    with pytest.raises(StorageUnavailable):
        await tables.open()
    await tables.close()


async def test_what_is_not_kept_says_so(tables: AgnoTables) -> None:
    with pytest.raises(NotImplementedError, match="it has no get_learning"):
        await db_of(tables, "service").get_learning(learning_type="any")
