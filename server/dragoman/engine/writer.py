"""One writer per process puts the events of all runs into the store, many at a time.

A run's log hands over each event as it is numbered. The writer waits a moment (`interval`), takes all that has gathered
and appends it in one statement: a row for each run's chunk instead of one for each event. A run that ends takes what is
still here with it (`take`) and stores it in its own last transaction, so that a short run costs no append at all.

Model calls go the same way, as far as they have come: a process that is killed owes the ledger no more than the last moment.

When the store does not answer, what has gathered stays and is tried again. It is bounded twice: above `high_water` bytes
the runs are made to wait (`congested`, `settled`), and a run whose oldest event has waited for `patience` seconds is told
so, which ends it.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from uuid import UUID

from dragoman.engine.ports import Store
from dragoman.errors import StorageUnavailable
from dragoman.records import EventChunk, ModelCall, RunCalls

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Backlog:
    """Events of one run that are not stored yet."""

    since: float
    first: int = 0
    on_stored: Callable[[int], None] | None = None
    on_stuck: Callable[[], None] | None = None
    told: bool = False
    events: list[bytes] = field(default_factory=list)
    # The newest state of each call, and whose calls they are.
    calls: dict[UUID, ModelCall] = field(default_factory=dict)
    ledger: RunCalls | None = None

    @property
    def last(self) -> int:
        return self.first + len(self.events) - 1

    def chunk(self, run_id: UUID) -> EventChunk:
        return EventChunk(run_id, self.first, self.last, tuple(self.events))


class EventWriter:
    """Appends events of all runs in batches. Owned by the engine, which runs `run()` as a task."""

    def __init__(
        self,
        store: Store,
        *,
        interval: float = 0.05,
        high_water: int = 32 * 1024 * 1024,
        patience: float = 30.0,
        on_appended: Callable[[Iterable[UUID]], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._interval = interval
        self._high_water = high_water
        self._patience = patience
        self._on_appended = on_appended
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
        backlog = self._backlogs.get(run_id) or self._begin(run_id)
        if not backlog.events:
            backlog.first, backlog.on_stored, backlog.on_stuck = sequence, on_stored, on_stuck
        backlog.events.append(event)
        self._bytes += len(event)
        if self._bytes > self._high_water:
            self._settled.clear()

    def book(self, ledger: RunCalls, call: ModelCall) -> None:
        """Takes a call of a run as it is now, in place of what was taken of it before. `ledger` says whose it is."""
        backlog = self._backlogs.get(ledger.run_id) or self._begin(ledger.run_id)
        backlog.ledger = ledger
        backlog.calls[call.id] = call

    def _begin(self, run_id: UUID) -> _Backlog:
        backlog = self._backlogs[run_id] = _Backlog(time.monotonic())
        self._work.set()
        return backlog

    async def take(self, run_id: UUID) -> list[bytes]:
        """Removes and returns the events of a run that are not stored yet; waits for an append that is under way.

        Its calls are let go: who ends a run has them all.
        """
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
            await self._store.append_events(
                [backlog.chunk(run_id) for run_id, backlog in taken.items() if backlog.events],
                [
                    replace(backlog.ledger, calls=tuple(backlog.calls.values()))
                    for backlog in taken.values()
                    if backlog.ledger is not None
                ],
            )
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
            if backlog.on_stored is not None:
                backlog.on_stored(backlog.last)
        self._on_appended(taken)
        return {}

    def _put_back(self, taken: dict[UUID, _Backlog], *, failed: bool) -> None:
        """What could not be stored goes in front of what has come since; runs that wait too long are told."""
        oldest = time.monotonic() - self._patience
        for run_id, backlog in taken.items():
            newer = self._backlogs.pop(run_id, None)
            if newer is not None:
                if not backlog.events:
                    backlog.first, backlog.on_stored, backlog.on_stuck = (
                        newer.first,
                        newer.on_stored,
                        newer.on_stuck,
                    )
                backlog.events.extend(newer.events)
                backlog.calls |= newer.calls
                backlog.ledger = newer.ledger or backlog.ledger
            self._backlogs[run_id] = backlog
            if failed and not backlog.told and backlog.since < oldest:
                logger.error("the store does not take the events of a run", extra={"run_id": str(run_id)})
                backlog.told = True
                if backlog.on_stuck is not None:
                    backlog.on_stuck()
        self._count()
        if self._backlogs:
            self._work.set()

    def _count(self) -> None:
        self._bytes = sum(len(event) for backlog in self._backlogs.values() for event in backlog.events)
        if self._bytes <= self._high_water // 2:
            self._settled.set()
