"""Whether this server is of use: it is while its database answers.

Every `interval` seconds the database is asked. After `FAILURES` questions in a row without an answer the server says
NOT_SERVING, so that balancers send callers elsewhere, and after the first answer it says SERVING again. Calls are taken all
the same, and streams go on: health is advice to those who have a choice. That the process lives is another question
(`health.LIVENESS`), to which a database has nothing to say: a restart would not bring it back.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

from dragoman.errors import StorageUnavailable

logger = logging.getLogger(__name__)

FAILURES: Final = 2
"""Questions without an answer after which the server is not ready: one may be lost to a database that changes its primary."""

PATIENCE: Final = 5.0
"""Seconds within which an answer counts."""


class Readiness:
    """Asks `ping` and tells `ready`. Used on one event loop, between `open` and `close`."""

    def __init__(
        self, ping: Callable[[], Awaitable[None]], ready: Callable[[bool], None], interval: float
    ) -> None:
        """`ping` returns when the database answers, else raises StorageUnavailable. `interval`: seconds between questions."""
        self._ping = ping
        self._ready = ready
        self._interval = interval
        self._failures = 0
        self._task: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begins to ask."""
        self._task = asyncio.create_task(self._follow(), name="readiness")

    async def close(self) -> None:
        """Asks no more. Harmless when it is called twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self._interval)
            if await self._answers():
                if self._failures >= FAILURES:
                    logger.info("the database answers again: ready")
                    self._ready(True)
                self._failures = 0
                continue
            self._failures += 1
            if self._failures == FAILURES:
                logger.error("the database does not answer: not ready")
                self._ready(False)

    async def _answers(self) -> bool:
        try:
            async with asyncio.timeout(PATIENCE):
                await self._ping()
        except (StorageUnavailable, TimeoutError):
            return False
        return True
