"""AgentOS with a SQLite file, for runs that it stores and that outlive their caller (`background=true`)."""

from collections.abc import Callable
from pathlib import Path

from agno.db.sqlite import SqliteDb

from bench.agents import agno_agent
from bench.servers.agentos import serve_agent


def serve(directory: Path, ready: Callable[[str], None]) -> None:
    """Stores runs when they begin and when they end; their events are kept in memory, for callers that come back."""
    serve_agent(agno_agent(db=SqliteDb(db_file=str(directory / "agno.db"))), ready)
