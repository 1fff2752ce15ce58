"""A real Dragoman server in the event loop of a test: real gRPC on a free port, real storage, real Agno.

    async with serving(MyAgent()) as server:
        async with Dragoman(server.address) as client:
            ...

Without a `database_url` it keeps its data in a SQLite file of its own, which goes when the server goes.
"""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dragoman.app import Server, running
from dragoman.config import Settings


@dataclass(frozen=True, slots=True)
class Serving:
    """A server under test."""

    address: str
    """`host:port` for clients."""
    server: Server
    """The server itself, for looking inside."""


@asynccontextmanager
async def serving(*agents: object, **settings: Any) -> AsyncIterator[Serving]:
    """Serves `agents` (BaseAgent instances or classes, Agno agents, factories) with any of `Settings` changed."""
    with tempfile.TemporaryDirectory(prefix="dragoman-") as directory:
        chosen: dict[str, Any] = {
            "port": 0,
            "database_url": f"sqlite:///{Path(directory, 'test.db')}",
            "entry_points": False,
            "drain_grace": 1.0,
            **settings,
        }
        async with running(Settings(**chosen), agents=agents, migrate=True) as server:
            yield Serving(server.info.address, server)
