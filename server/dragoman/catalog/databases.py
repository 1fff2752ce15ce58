"""Where agents keep memories and session state: what is refused, and how a run's agent gets what is its owner's.

Only `agno_db()` is served. Another database of Agno's would keep the history a second time, would be read whole whenever a
run begins, would hold up the event loop where it is a synchronous one, and does not ask whose a session is.
"""

from collections.abc import Awaitable, Callable
from copy import copy
from functools import partial
from typing import Any

from agno.agent import Agent
from agno.memory import MemoryManager
from agno.team import Team

from dragoman.agents.database import AgnoDb
from dragoman.catalog.describe import members
from dragoman.catalog.problems import Rejected

_HISTORY = ("add_history_to_context", "read_chat_history", "search_past_sessions", "enable_session_summaries")
"""Settings that read the history from Agno's database, which has none."""

_ELSEWHERE = ("learning", "offload_tool_results", "filesystem")
"""Settings that need tables of their own."""


def check_database(component: Agent | Team, path: str) -> None:
    """Raises Rejected for what would not work, or would work twice. `path`: how the component is called."""
    manager: Any = component.memory_manager
    for db, where in ((component.db, "db"), (getattr(manager, "db", None), "memory_manager.db")):
        if db is not None and not isinstance(db, AgnoDb):
            raise Rejected(
                f"{path} has a {type(db).__name__} as its {where}: memories and session state are kept by "
                "dragoman.agents.agno_db(), the history by the server"
            )
    if component.db is None:
        return
    for setting in _HISTORY:
        if getattr(component, setting, False):
            raise Rejected(
                f"{path} has a db and {setting}: agno_db() holds no history, for the server keeps it; leave {setting} "
                "away (how many runs are remembered says history_runs)"
            )
    for setting in _ELSEWHERE:
        if getattr(component, setting, None):
            raise Rejected(f"{path} has {setting}, which agno_db() has no tables for")


def needs_database(component: Agent | Team) -> bool:
    """Whether it, or one of its members, keeps something in agno_db()."""
    manager: Any = component.memory_manager
    return (
        isinstance(component.db, AgnoDb)
        or isinstance(getattr(manager, "db", None), AgnoDb)
        or (isinstance(component, Team) and any(map(needs_database, members(component))))
    )


def bind(component: Agent | Team, db: AgnoDb) -> None:
    """Puts `db`, which is a run's own, wherever agno_db() was promised to the component or a member."""
    if isinstance(component.db, AgnoDb):
        component.db = db
    if component.memory_manager is not None:
        # Shared between runs by its author, and Agno notes on it what a run has: database, model, progress.
        component.memory_manager = copy(component.memory_manager)
    elif component.db is db and component.update_memory_on_run:
        component.memory_manager = MemoryManager(model=component.model, db=db)  # as Agno would
    manager: Any = component.memory_manager
    if manager is not None:
        if isinstance(manager.db, AgnoDb):
            manager.db = db
        manager.acreate_user_memories = partial(_remember, manager.acreate_user_memories)
    if isinstance(component, Team):
        for member in members(component):
            bind(member, db)


async def _remember(
    create: Callable[..., Awaitable[str]], message: str | None = None, messages: object = None, **given: Any
) -> str:
    """What the user says, once. `messages` are the history, which was heard before: to send all of it to the memory model
    at every run would cost more than the run, and its tools' results are refused there."""
    return "" if message is None else await create(message=message, **given)
