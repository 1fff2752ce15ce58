"""agno_db(): memories and session state of agents, in Agno's own tables on the server's database.

An author writes `Agent(db=agno_db(), update_memory_on_run=True)`. What he gets is a promise: it keeps nothing until a run
begins, when the catalog puts in its place one that is bound to the server's tables and to the run's owner.

    run of ann by service A ─► AgnoDb(owner A, ann) ─┐
    run of ann by service B ─► AgnoDb(owner B, ann) ─┼─► AgnoTables: Agno's synchronous database, in threads of its own
    run of service A itself ─► AgnoDb(owner A)      ─┘

A bound one sees what its owner has and nothing else, whatever user an agent's code names: the tables' column for the user
holds a digest of principal and user, which no two owners share, however alike a database's collation finds their names.

It keeps no runs. The history is the server's own, and Agno would read all runs of a session whenever one begins.
"""

import asyncio
import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from datetime import date
from functools import partial
from typing import Any, NoReturn, TypeAlias, TypeVar, cast
from uuid import uuid4

from agno.db.base import AsyncBaseDb, BaseDb, SessionType
from agno.db.schemas import UserMemory
from agno.db.utils import json_serializer
from agno.session import Session, TeamSession

from dragoman.errors import StorageUnavailable
from dragoman.records import Owner

logger = logging.getLogger(__name__)

Found: TypeAlias = Any
"""What Agno's databases return: its objects, or rows as dicts where the caller does not want objects."""

SESSIONS, RUNS, METRICS, MEMORIES, VERSIONS = (
    "ai_sessions",
    "ai_runs",
    "ai_metrics",
    "ai_memories",
    "ai_schema_versions",
)
"""The tables. That of runs is never made."""

_NOBODY = "default"
"""As Agno calls the user of a run that has none: it drops memories of None."""

_KEPT = ("sessions", "memories", "metrics")
_ATTEMPTS = 8
_PAUSE = 0.05
"""How often making the tables is tried, and by how many seconds each pause between is longer than the one before."""

T = TypeVar("T")


class AgnoTables:
    """The tables that all runs of a process share, and the threads that ask them.

    `connect` makes a SQLAlchemy engine for Agno, given what turns values into JSON; `threads` is how many connections it
    has; on SQLite one thread does, for there one transaction writes at a time. No thread is started before `open`.
    """

    def __init__(self, connect: Callable[[Callable[[Any], str]], Any], *, threads: int) -> None:
        self._connect = connect
        self._threads = threads
        self._executor: ThreadPoolExecutor | None = None
        self._db: Any = None

    async def open(self) -> None:
        """Connects and makes what tables are missing. Raises StorageUnavailable."""
        self._db = await asyncio.to_thread(self._opened)
        self._executor = ThreadPoolExecutor(
            1 if self._db.db_engine.dialect.name == "sqlite" else self._threads, thread_name_prefix="agno-db"
        )

    async def ask(self, question: Callable[[Any], T]) -> T:
        """What `question` answers when it is given Agno's database, in a thread. Raises what it raises."""
        if self._executor is None or self._db is None:
            raise RuntimeError("the tables of agno_db() are not open")
        return await asyncio.get_running_loop().run_in_executor(self._executor, question, self._db)

    async def close(self) -> None:
        """Waits for what is asked and closes the connections. Harmless when it is not open."""
        executor, db = self._executor, self._db
        self._executor = self._db = None
        if executor is not None:
            await asyncio.to_thread(executor.shutdown)
        if db is not None:
            await asyncio.to_thread(db.close)

    def _opened(self) -> Any:
        engine = self._connect(json_serializer)
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return _made(engine)
            except Exception as error:  # noqa: BLE001 - Agno raises whatever the driver does
                # Other processes that start now make the same tables.
                failure = type(error).__name__
            time.sleep(_PAUSE * attempt)
        engine.dispose()
        logger.warning("Agno's tables cannot be made", extra={"error_type": failure})
        raise StorageUnavailable()


def _made(engine: Any) -> Any:
    """Agno's database, which knows its tables."""
    sqlite = engine.dialect.name == "sqlite"
    db = _on_sqlite(engine) if sqlite else _on_mysql(engine)
    for kind in _KEPT:
        table = db._get_table(table_type=kind, create_table_if_not_found=True)  # noqa: SLF001 - no public way
        if not sqlite:
            _restore_types(table, kind)
    return db


def _on_sqlite(engine: Any) -> Any:
    from agno.db.sqlite import SqliteDb

    return SqliteDb(db_engine=engine, **_names())


def _on_mysql(engine: Any) -> Any:
    from agno.db.mysql import MySQLDb

    # Agno's default would be a schema of its own beside the server's.
    return MySQLDb(db_engine=engine, db_schema=engine.url.database, create_schema=False, **_names())


def _restore_types(table: Any, kind: str) -> None:
    """MariaDB has no type JSON: of a table that was there before, Agno learns that such columns hold text, and would
    neither write nor read JSON in them."""
    from agno.db.mysql.schemas import get_table_schema_definition

    for name, column in get_table_schema_definition(kind).items():
        if name in table.c and isinstance(column, dict):
            table.c[name].type = column["type"]()


def _names() -> dict[str, Any]:
    return {
        "session_table": SESSIONS,
        "runs_table": RUNS,
        "metrics_table": METRICS,
        "memory_table": MEMORIES,
        "versions_table": VERSIONS,
    }


def owner_key(owner: Owner) -> str:
    """By what the tables know an owner: 64 hexadecimal digits."""
    return hashlib.sha256(json.dumps([owner.principal, owner.user]).encode()).hexdigest()


class AgnoDb(AsyncBaseDb):
    """Agno's database interface, as far as memories and session state go; all else raises NotImplementedError."""

    def __init__(self, tables: AgnoTables | None = None, owner: str = "") -> None:
        super().__init__(id="dragoman", **_names())
        self._tables = tables
        self._owner = owner

    @classmethod
    def make(cls, tables: AgnoTables | None = None, owner: str = "") -> "AgnoDb":
        """One that is bound to tables and an owner's key, or the promise of one."""
        return cls(tables, owner)

    async def _ask(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """What Agno's synchronous method of this name answers."""
        return await self._bound().ask(lambda db: getattr(db, method)(*args, **kwargs))

    def _bound(self) -> AgnoTables:
        if self._tables is None:
            raise RuntimeError(
                "agno_db() can be used within the run of the agent that it was given to, and only there"
            )
        return self._tables

    async def close(self) -> None:
        """Does nothing: the tables are the server's."""

    async def table_exists(self, table_name: str) -> bool:
        """Whether the database has the table."""
        return bool(await self._ask("table_exists", table_name))

    # Sessions: their state, without runs.

    async def get_session(
        self,
        session_id: str,
        session_type: SessionType | None = None,
        user_id: str | None = None,
        deserialize: bool | None = True,
        runs_limit: int | None = None,
    ) -> Found:
        """The owner's session; None when there is none."""
        found = await self._ask(
            "get_session", session_id, session_type, self._owner, deserialize=deserialize, runs_limit=0
        )
        return _named(found, user_id)

    async def get_sessions(self, *args: Any, **kwargs: Any) -> Found:
        """The owner's sessions. Takes what Agno's databases take."""
        kwargs.pop("include_runs", None)  # there are none, and not every database of Agno's knows the word
        return await self._of_owner("get_sessions", 1, args, kwargs)

    async def upsert_session(self, session: Session, deserialize: bool | None = True) -> Found:
        """Keeps a session without its runs."""
        kept = copy(session)
        kept.user_id = self._owner
        if hasattr(kept, "runs"):
            kept.runs = None
        found = await self._bound().ask(partial(_upsert_session, session=kept, deserialize=deserialize))
        return _named(found, session.user_id)

    async def rename_session(
        self,
        session_id: str,
        session_type: SessionType | None,
        session_name: str,
        user_id: str | None = None,
        deserialize: bool | None = True,
    ) -> Found:
        """Renames the owner's session."""
        renamed = await self._ask(
            "rename_session", session_id, session_type, session_name, self._owner, deserialize=deserialize
        )
        return _named(renamed, user_id)

    async def delete_session(self, session_id: str, user_id: str | None = None) -> bool:
        """Deletes the owner's session."""
        return bool(await self._ask("delete_session", session_id, self._owner))

    async def delete_sessions(self, session_ids: list[str], user_id: str | None = None) -> None:
        """Deletes those of them that are the owner's."""
        await self._ask("delete_sessions", session_ids, self._owner)

    async def upsert_run(
        self, run: object, session_id: str, user_id: str | None = None, run_index: int | None = None
    ) -> None:
        """Keeps nothing: the history is the server's."""

    # Memories.

    async def get_user_memory(
        self, memory_id: str, deserialize: bool | None = True, user_id: str | None = None
    ) -> Found:
        """The owner's memory; None when there is none."""
        found = await self._ask("get_user_memory", memory_id, deserialize, self._owner)
        return _named(found, user_id or _NOBODY)

    async def get_user_memories(self, user_id: str | None = None, *args: Any, **kwargs: Any) -> Found:
        """The owner's memories, whoever is named. Takes what Agno's databases take."""
        found = await self._ask("get_user_memories", self._owner, *args, **kwargs)
        return _all_named(found, user_id or _NOBODY)

    async def get_user_memory_stats(
        self, limit: int | None = None, page: int | None = None, user_id: str | None = None
    ) -> Found:
        """How many memories the owner has."""
        found = await self._ask("get_user_memory_stats", limit, page, self._owner)
        return _all_named(found, user_id or _NOBODY)

    async def get_all_memory_topics(self, user_id: str | None = None) -> list[str]:
        """What the owner's memories are about."""
        topics: list[str] = await self._ask("get_all_memory_topics", self._owner)
        return topics

    async def upsert_user_memory(self, memory: UserMemory, deserialize: bool | None = True) -> Found:
        """Keeps a memory of the owner's. Raises the driver's error when one of that id is somebody else's."""
        kept = copy(memory)
        kept.user_id = self._owner
        found = await self._bound().ask(partial(_upsert_memory, memory=kept, deserialize=deserialize))
        memory.memory_id = kept.memory_id
        return _named(found, memory.user_id)

    async def delete_user_memory(self, memory_id: str, user_id: str | None = None) -> None:
        """Forgets a memory of the owner's."""
        await self._ask("delete_user_memory", memory_id, self._owner)

    async def delete_user_memories(self, memory_ids: list[str], user_id: str | None = None) -> None:
        """Forgets those of them that are the owner's."""
        await self._ask("delete_user_memories", memory_ids, self._owner)

    async def clear_memories(self) -> None:
        """Forgets all that is remembered of the owner, and of nobody else."""
        await self._bound().ask(partial(_clear_memories, owner=self._owner))

    # Metrics, as Agno counts them.

    async def get_metrics(
        self, starting_date: date | None = None, ending_date: date | None = None, user_id: str | None = None
    ) -> Found:
        """The owner's, by day."""
        return await self._ask("get_metrics", starting_date, ending_date, self._owner)

    async def calculate_metrics(self) -> Found:
        """Brings the table of metrics up to date, and tells nothing: they are everybody's."""
        await self._ask("calculate_metrics")

    async def _of_owner(self, method: str, position: int, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        """Asks with the owner in the place of the user: an argument that may come by position or by name."""
        given = list(args)
        user_id = given[position] if len(given) > position else kwargs.pop("user_id", None)
        if len(given) > position:
            given[position] = self._owner
        else:
            kwargs["user_id"] = self._owner
        return _all_named(await self._ask(method, *given, **kwargs), user_id)


def agno_db() -> AgnoDb:
    """Agno's database for memories and session state, for an agent's or a team's `db`, or a MemoryManager's."""
    return AgnoDb.make()


def _upsert_session(db: Any, *, session: Session, deserialize: bool | None) -> Found:
    kind = SessionType.TEAM if isinstance(session, TeamSession) else SessionType.AGENT
    row = {**session.to_dict(), "session_type": kind.value, "updated_at": int(time.time())}
    row["created_at"] = session.created_at or row["updated_at"]
    _upsert(db, "sessions", "session_id", row)
    return db.get_session(session.session_id, kind, session.user_id, deserialize=deserialize, runs_limit=0)


def _upsert_memory(db: Any, *, memory: UserMemory, deserialize: bool | None) -> Found:
    memory.memory_id = memory.memory_id or str(uuid4())
    row = {**vars(memory), "updated_at": int(time.time())}
    row["created_at"] = row["created_at"] or row["updated_at"]
    _upsert(db, "memories", "memory_id", row)
    return db.get_user_memory(memory.memory_id, deserialize, memory.user_id)


def _upsert(db: Any, kind: str, key: str, row: Mapping[str, Any]) -> None:
    """Changes the owner's row of that key, or makes one.

    Agno's own statement does not ask whose the row is. Raises the driver's error when it is somebody else's.
    """
    table = db._get_table(table_type=kind, create_table_if_not_found=True)  # noqa: SLF001 - no public way
    values = {column.name: row[column.name] for column in table.columns if column.name in row}
    theirs = table.c[key] == row[key], table.c.user_id == row["user_id"]
    fixed = (key, "user_id", "created_at")
    changes = {name: value for name, value in values.items() if name not in fixed}
    with db.Session() as session, session.begin():
        if not session.execute(table.update().where(*theirs).values(changes)).rowcount:
            session.execute(table.insert().values(values))


def _clear_memories(db: BaseDb, *, owner: str) -> None:
    rows, _ = cast("tuple[list[dict[str, Any]], int]", db.get_user_memories(user_id=owner, deserialize=False))
    db.delete_user_memories([row["memory_id"] for row in rows], user_id=owner)


def _all_named(found: Found, user_id: str | None) -> Found:
    """A list of them, or a page of rows with their number."""
    for each in found[0] if isinstance(found, tuple) else found:
        _named(each, user_id)
    return found


def _named(found: Found, user_id: str | None) -> Found:
    """A session or memory as belonging to the user for whom it was asked: what the tables say is the server's affair."""
    if isinstance(found, dict):
        found["user_id"] = user_id
    elif found is not None:
        found.user_id = user_id
    return found


def _not_kept(method: str) -> Callable[..., Any]:
    async def refuse(self: AgnoDb, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(f"agno_db() keeps memories and session state; it has no {method}")

    return refuse


# What is left of Agno's interface: knowledge, evaluations, traces, learnings.
for _method in AgnoDb.__abstractmethods__:
    setattr(AgnoDb, _method, _not_kept(_method))
AgnoDb.__abstractmethods__ = frozenset()
