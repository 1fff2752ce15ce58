"""One writer per process puts the events of all runs into the store, many at a time.

A run's log hands over each event as it is numbered. The writer waits a moment (`interval`), takes all that has gathered
and appends it in one statement: a row for each run's chunk instead of one for each event. A run that ends takes what is
still here with it (`take`) and stores it in its own last transaction, so that a short run costs no append at all.

When the store does not answer, what has gathered stays and is tried again. It is bounded twice: above `high_water` bytes
the runs are made to wait (`congested`, `settled`), and a run whose oldest event has waited for `patience` seconds is told
so, which ends it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from uuid import UUID

from dragoman.engine.ports import Store
from dragoman.errors import StorageUnavailable
from dragoman.records import EventChunk

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Backlog:
    """Events of one run that are not stored yet."""

    first: int
    since: float
    on_stored: Callable[[int], None]
    on_stuck: Callable[[], None]
    told: bool = False
    events: list[bytes] = field(default_factory=list)

    def chunk(self, run_id: UUID) -> EventChunk:
        return EventChunk(run_id, self.first, self.first + len(self.events) - 1, tuple(self.events))


class EventWriter:
    """Appends events of all runs in batches. Owned by the engine, which runs `run()` as a task."""

    def __init__(
        self,
        store: Store,
        *,
        interval: float = 0.05,
        high_water: int = 32 * 1024 * 1024,
        patience: float = 30.0,
    ) -> None:
        self._store = store
        self._interval = interval
        self._high_water = high_water
        self._patience = patience
        self._backlogs: dict[UUID, _Backlog] = {}
        self._bytes = 0
        self._work = asyncio.Event()
        self._settled = asyncio.Event()
        self._settled.set()
        self._flush = asyncio.Lock()

    @property
    def congested(self) -> bool:
        """True when so much waits to be stored that producers should wait as well."""
        return not self._settled.is_set()

    async def settled(self) -> None:
        """Returns when producers may go on."""
        await self._settled.wait()

    def add(
        self,
        run_id: UUID,
        sequence: int,
        event: bytes,
        on_stored: Callable[[int], None],
        on_stuck: Callable[[], None],
    ) -> None:
        """Takes one numbered event. `on_stored(last)` is told up to where the run is stored; `on_stuck` is called at most once,
        when the store has not taken them for `patience` seconds."""
        backlog = self._backlogs.get(run_id)
        if backlog is None:
            backlog = self._backlogs[run_id] = _Backlog(sequence, time.monotonic(), on_stored, on_stuck)
            self._work.set()
        backlog.events.append(event)
        self._bytes += len(event)
        if self._bytes > self._high_water:
            self._settled.clear()

    async def take(self, run_id: UUID) -> list[bytes]:
        """Removes and returns what of a run is not stored yet; waits for an append that is under way."""
        async with self._flush:
            backlog = self._backlogs.pop(run_id, None)
            if backlog is None:
                return []
            self._count()
            return backlog.events

    async def run(self) -> None:
        """Appends until it is cancelled; then what is left is tried once more."""
        try:
            while True:
                await self._work.wait()
                await asyncio.sleep(self._interval)
                if not await self._append():
                    await asyncio.sleep(1.0)
        finally:
            with contextlib.suppress(StorageUnavailable):
                await self._append()

    async def _append(self) -> bool:
        """One flush. False when the store did not answer."""
        async with self._flush:
            self._work.clear()
            taken, self._backlogs = self._backlogs, {}
            if not taken:
                return True
            try:
                refused = await self._store_all(taken)
            except BaseException:
                self._put_back(taken, failed=False)
                raise
            self._put_back(refused, failed=True)
            return not refused

    async def _store_all(self, taken: dict[UUID, _Backlog]) -> dict[UUID, _Backlog]:
        """Appends what was taken. Returns what the store did not take."""
        try:
            await self._store.append_events([backlog.chunk(run_id) for run_id, backlog in taken.items()])
        except StorageUnavailable:
            return taken
        except Exception:
            if len(taken) == 1:
                logger.exception(
                    "a defect: the events of a run cannot be stored", extra={"run_ids": [*map(str, taken)]}
                )
                return taken
            # One run's events must not hold up those of the others.
            refused: dict[UUID, _Backlog] = {}
            for run_id, backlog in taken.items():
                refused |= await self._store_all({run_id: backlog})
            return refused
        for backlog in taken.values():
            backlog.on_stored(backlog.first + len(backlog.events) - 1)
        return {}

    def _put_back(self, taken: dict[UUID, _Backlog], *, failed: bool) -> None:
        """What could not be stored goes in front of what has come since; runs that wait too long are told."""
        oldest = time.monotonic() - self._patience
        for run_id, backlog in taken.items():
            newer = self._backlogs.pop(run_id, None)
            if newer is not None:
                backlog.events.extend(newer.events)
            self._backlogs[run_id] = backlog
            if failed and not backlog.told and backlog.since < oldest:
                logger.error("the store does not take the events of a run", extra={"run_id": str(run_id)})
                backlog.told = True
                backlog.on_stuck()
        self._count()
        if self._backlogs:
            self._work.set()

    def _count(self) -> None:
        self._bytes = sum(len(event) for backlog in self._backlogs.values() for event in backlog.events)
        if self._bytes <= self._high_water // 2:
            self._settled.set()
