"""Several servers on one database, behind a haproxy, with the agents of tests/chaos and a provider that they ask.

async with fleet(url, folder, 3) as (servers, model):
    async with Dragoman(servers.address) as client:
        await servers[1].kill()
"""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from support.haproxy import HAProxy
from support.processes import ServerProcess
from support.provider import Provider, provider

AGENTS = Path(__file__).parents[1] / "chaos" / "chaos_agents.py"
MODEL_URL = "CHAOS_MODEL_URL"

LEASE = 3.0
"""Seconds. As short as a busy machine allows: a server that lives must not seem to be dead."""


@asynccontextmanager
async def fleet(
    url: str, folder: Path, size: int, **settings: object
) -> "AsyncIterator[tuple[Fleet, Provider]]":
    """So many servers on a migrated database, and the provider that their agents ask."""
    settings = {"lease": LEASE, "model_retries": 0, **settings}
    flags = [flag for name, value in settings.items() for flag in ("--set", f"{name}={value}")]
    arguments = ["--agents", f"{AGENTS}:agents", "--no-entry-points", "--database-url", url, *flags]
    async with provider() as model, Fleet(folder, arguments, {MODEL_URL: model.url}, size=size) as servers:
        yield servers, model


class Fleet:
    """Servers on one database, and a haproxy in front."""

    def __init__(
        self, folder: Path, arguments: Sequence[str], environment: Mapping[str, str], *, size: int
    ) -> None:
        self.proxy = HAProxy.start(size)
        self.servers = [
            ServerProcess(chr(ord("a") + slot), arguments, folder, environment, (self.proxy, slot))
            for slot in range(size)
        ]

    def __getitem__(self, slot: int) -> ServerProcess:
        return self.servers[slot]

    @property
    def address(self) -> str:
        """Where haproxy listens."""
        return self.proxy.address

    @property
    def killed(self) -> dict[int, float]:
        """The pids that were killed, and when."""
        return {pid: at for server in self.servers for pid, at in server.killed.items()}

    async def start_all(self) -> None:
        """Starts those that do not run."""
        await asyncio.gather(*(server.start() for server in self.servers if not server.running))

    async def __aenter__(self) -> Self:
        try:
            await self.start_all()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        try:
            await asyncio.gather(*(server.close() for server in self.servers))
        finally:
            self.proxy.stop()
