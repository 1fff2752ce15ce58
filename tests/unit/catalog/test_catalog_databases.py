"""agno_db() in the catalog: what is refused, and that every run is given what is its owner's."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.memory import MemoryManager
from agno.team import Team

from dragoman.agents import BaseAgent, agno_db
from dragoman.agents.database import AgnoDb, AgnoTables
from dragoman.catalog import Catalog
from dragoman.catalog.entry import check
from dragoman.catalog.loader import Found, found
from dragoman.catalog.problems import Rejected
from dragoman.engine.ports import RunOrder
from dragoman.records import Owner, Session, utcnow
from dragoman.testing.offline import OfflineModel

MODEL = OfflineModel(delay=0)
Other: Callable[[], Any] = InMemoryDb


def agent(**settings: Any) -> Agent:
    return Agent(name="a", model=MODEL, **settings)


def team(**settings: Any) -> Team:
    return Team(name="t", model=MODEL, members=[Agent(name="m", **settings)])


def catalog_of(value: object) -> Catalog:
    (one,) = found(value, "it")
    assert isinstance(one, Found)
    return Catalog([check(one.agent, "test", None)])


def order(name: str, user: str = "ann") -> RunOrder:
    now, owner = utcnow(), Owner("service", user)
    session = Session(UUID(int=1), owner, name, "", {}, {}, now, now)
    return RunOrder(UUID(int=7), owner, session, name, "hello", (), {}, {})


REFUSED: dict[str, tuple[Callable[[], Agent | Team], str]] = {
    "another database": (
        lambda: agent(db=Other()),
        "a has a InMemoryDb as its db: memories and session state are kept by dragoman.agents.agno_db()",
    ),
    "a member's": (lambda: team(db=Other()), "t/m has a InMemoryDb as its db"),
    "a manager's": (
        lambda: agent(memory_manager=MemoryManager(db=Other())),
        "a has a InMemoryDb as its memory_manager.db",
    ),
    "a history twice": (
        lambda: agent(db=agno_db(), add_history_to_context=True),
        "a has a db and add_history_to_context: agno_db() holds no history",
    ),
    "a member's history": (lambda: team(db=agno_db(), read_chat_history=True), "t/m has a db and read_chat"),
    "other sessions": (lambda: agent(db=agno_db(), search_past_sessions=True), "search_past_sessions"),
    "summaries": (lambda: agent(db=agno_db(), enable_session_summaries=True), "enable_session_summaries"),
    "learning": (lambda: agent(db=agno_db(), learning=True), "a has learning, which agno_db() has no tables"),
}


@pytest.mark.parametrize(("make", "told"), REFUSED.values(), ids=REFUSED)
def test_what_is_refused(make: Callable[[], Agent | Team], told: str) -> None:
    with pytest.raises(Rejected) as refused:
        catalog_of(make())
    assert told in refused.value.message


@pytest.mark.parametrize(
    ("make", "needs"),
    [
        (agent, False),
        (lambda: agent(db=agno_db()), True),
        (lambda: agent(memory_manager=MemoryManager(db=agno_db())), True),
        (lambda: team(db=agno_db()), True),
        (team, False),
    ],
    ids=["nothing", "agent", "manager", "member", "team of nothing"],
)
def test_who_needs_tables(make: Callable[[], Agent | Team], needs: bool) -> None:
    assert catalog_of(make()).needs_database is needs


def tables() -> AgnoTables:
    return AgnoTables(lambda serialize: None, threads=1)


def test_every_run_has_a_database_of_its_own() -> None:
    manager = MemoryManager(model=MODEL, db=agno_db())
    template = agent(db=agno_db(), memory_manager=manager)
    catalog = catalog_of(template)
    catalog.use(tables())
    first, second = catalog.build("a", order("a")), catalog.build("a", order("a", "bob"))
    found_dbs = [first.db, second.db, template.db]
    assert len({id(db) for db in found_dbs}) == 3
    assert all(isinstance(db, AgnoDb) for db in found_dbs)
    for built in (first, second):
        assert built.memory_manager is not None
        assert built.memory_manager is not manager
        assert built.memory_manager.db is built.db
        assert built.memory_manager.model is MODEL
    assert manager.db is not None
    assert "acreate_user_memories" not in vars(manager)


def test_members_have_the_run_s_database() -> None:
    catalog = catalog_of(team(db=agno_db()))
    catalog.use(tables())
    built = catalog.build("t", order("t"))
    assert isinstance(built, Team)
    assert isinstance(built.members, list)
    assert built.db is None
    assert isinstance(built.members[0].db, AgnoDb)


async def test_a_manager_is_told_what_the_user_says_and_not_the_history() -> None:
    class Listening(MemoryManager):
        async def acreate_user_memories(self, *args: Any, **kwargs: Any) -> str:
            heard.append((args, kwargs))
            return "heard"

    class Remembering(BaseAgent):
        name = "remembering"

        def build_agent(self) -> Agent:
            return agent(db=agno_db(), memory_manager=manager, update_memory_on_run=True)

    heard: list[Any] = []
    manager = Listening()
    catalog = catalog_of(Remembering)
    catalog.use(tables())
    made = catalog.build("remembering", order("remembering")).memory_manager
    assert made is not None
    assert await made.acreate_user_memories(messages=[], user_id="ann") == ""
    assert await made.acreate_user_memories(message="I am Ann", user_id="ann") == "heard"
    assert heard == [((), {"message": "I am Ann", "user_id": "ann"})]


async def test_outside_of_a_run_there_is_nothing() -> None:
    with pytest.raises(RuntimeError, match="within the run of the agent"):
        await agno_db().get_user_memories()
