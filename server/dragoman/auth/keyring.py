"""The API keys in memory: no call waits for the database to be let in, and a key that was taken back opens no door for long.

The ring asks the store every `REFRESH` seconds for the keys that have changed lately, and reads all of them at first and
after it could not ask for a while. When the last answer is older than `STALE`, a call waits for a fresh one, and fails with
STORAGE_UNAVAILABLE when there is none: without it nobody knows whether its key still counts. All calls that wait share one
look, and what comes of it, so that in an outage nobody waits for the failures of those before it. Who brings an id that nobody
knows waits for the next answer, because the key may be newer than the last one; for all such callers together the store is
asked once in `AGAIN` seconds.

Who holds a call open is told when his key is taken back or runs out (`listen`).
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Collection
from contextvars import copy_context
from datetime import timedelta
from typing import Final, Protocol

from dragoman.auth.keys import valid
from dragoman.auth.sharing import SharedWork
from dragoman.errors import StorageUnavailable
from dragoman.records import ApiKey, utcnow

logger = logging.getLogger(__name__)

REFRESH: Final = 1.5
"""Seconds between two looks at the store."""

STALE: Final = 4.0
"""Seconds for which what the ring knows is good enough to let somebody in."""

AGAIN: Final = 0.5
"""Seconds between two looks at the store for ids that nobody knows."""

LATELY: Final = timedelta(seconds=60)
"""How far back the store is asked: much more than a transaction takes to be seen."""


class KeySource(Protocol):
    """Where keys are kept. Every call may raise StorageUnavailable."""

    async def all(self) -> list[ApiKey]:
        """All keys."""
        ...

    async def changed(self, within: timedelta) -> list[ApiKey]:
        """Those that were made or changed within so long."""
        ...


class KeyRing:
    """See the module. Used on one event loop, between `open` and `close`."""

    def __init__(self, source: KeySource) -> None:
        self._source = source
        self._keys: dict[str, ApiKey] = {}
        self._counted: set[str] = set()
        self._asked = float("-inf")
        # Looks are nobody's: they log no request of the call that was first to wait.
        self._looking = SharedWork(self._ask, "key-ring-look", copy_context())
        self._listener: Callable[[Collection[str]], None] | None = None
        self._task: asyncio.Task[None] | None = None

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """Calls `listener` with the ids of keys that count no more."""
        self._listener = listener

    async def open(self) -> None:
        """Reads the keys and begins to follow them. Raises StorageUnavailable."""
        await self._look(time.monotonic())
        self._task = asyncio.create_task(self._follow(), name="key-ring")

    async def close(self) -> None:
        """Follows them no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        await self._looking.close()

    async def find(self, key_id: str) -> ApiKey | None:
        """The key, if it counts. Raises StorageUnavailable."""
        came = time.monotonic()
        await self._look(came - STALE)
        while key_id not in self._keys and self._asked < came:
            await asyncio.sleep(self._asked + AGAIN - time.monotonic())
            await self._look(max(came, time.monotonic() - AGAIN))
        key = self._keys.get(key_id)
        return key if key is not None and valid(key, utcnow()) else None

    async def _look(self, since: float) -> None:
        """Asks the store, unless somebody has done so since then. Raises StorageUnavailable."""
        while self._asked < since:
            await self._looking.share()

    async def _ask(self) -> None:
        began = time.monotonic()
        if began - self._asked < LATELY.total_seconds() / 2:
            found = await self._source.changed(LATELY)
        else:
            found = await self._source.all()
            self._keys.clear()
        self._keys.update((key.id, key) for key in found)
        self._asked = began
        self._tell()

    def _tell(self) -> None:
        """Tells of the keys that counted a moment ago and do so no more."""
        now = utcnow()
        count = {key.id for key in self._keys.values() if valid(key, now)}
        ended, self._counted = self._counted - count, count
        if ended:
            logger.info("keys count no more", extra={"keys": sorted(ended)})
            if self._listener is not None:
                self._listener(ended)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            with contextlib.suppress(
                StorageUnavailable
            ):  # logged where it happened; calls are refused meanwhile
                await self._look(time.monotonic() - REFRESH / 2)
