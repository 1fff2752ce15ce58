"""The engine's housekeeping, for its own runs and for those that others have left.

    leases      says that the runs of this process live, well before anybody would doubt it
    notices     looks what other processes want of these runs: that they end, that they have their turn
    sweep       ends runs whose process is silent, and paused ones that nobody continued in time
    retention   lets go of the events of old runs, and of old request ids, a few at a time

Every process does all of it. Who ends a run is decided by the store: what two of them try is done once.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import timedelta
from typing import Protocol
from uuid import UUID

from dragoman.engine import elsewhere
from dragoman.engine.ports import Ended, Notice, Store
from dragoman.engine.run import LiveRun
from dragoman.errors import StorageUnavailable
from dragoman.observing import UNOBSERVED, Observer
from dragoman.records import Cancellation, Run, RunStatus, utcnow
from dragoman.v1 import event_pb2

logger = logging.getLogger(__name__)

SWEEP_INTERVAL = 3.0
"""Seconds between two sweeps at the most: an abandoned run is ended within its lease and a little more."""

SLOW = 5.0
"""Seconds after which an answer of the store is as good as none."""

UNREFERENCED = timedelta(days=1)
"""For how long a medium may be there to which nothing refers: a run that brought it may still be about to end."""

AT_A_TIME = 50
"""Runs that are swept, and rows that are trimmed, in one go."""

RETENTION_INTERVAL = 60.0
"""Seconds between two rounds of trimming."""

BREATH = 0.2
"""Seconds between two goes of one round: it must not be felt."""


class Holdings(Protocol):
    """The runs of this process, as the keeper deals with them (`engine.Engine`)."""

    def held(self) -> Mapping[UUID, LiveRun]:
        """All runs that are under way or waiting here, as they are at this moment."""
        ...

    def heed(self, notice: Notice, live: LiveRun) -> None:
        """Does what another process wants of a run that was held here when the store was asked."""
        ...

    def handed_over(self, run: Run, ended: Ended) -> None:
        """A run was ended here that nobody held: tells those whom it concerns."""
        ...


class Keeper:
    """Runs the four loops. Owned by the engine, which runs `loops()` as tasks."""

    def __init__(
        self,
        store: Store,
        holdings: Holdings,
        holder: UUID,
        *,
        lease: float,
        poll_interval: float,
        event_retention: timedelta,
        request_retention: timedelta,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self._observer = observer
        self._store = store
        self._holdings = holdings
        self._holder = holder
        self._lease = lease
        self._poll_interval = poll_interval
        self._event_retention = event_retention
        self._request_retention = request_retention
        self._hurry = asyncio.Event()
        # When the store was last seen not to answer as it should.
        self._trouble = float("-inf")

    def loops(self) -> list[asyncio.Task[None]]:
        """Starts them."""
        sweep_interval = min(self._lease / 3, SWEEP_INTERVAL)
        return [
            asyncio.create_task(self._loop(work, interval), name=f"keeper-{work.__name__}")
            for work, interval in (
                (self.renew, self._lease / 3),
                (self.look, self._poll_interval),
                (self.sweep, sweep_interval),
                (self.trim, RETENTION_INTERVAL),
            )
        ]

    def hurry(self, run_ids: Collection[UUID]) -> None:
        """Something has changed about these runs: looks at once when one is held here."""
        if not self._hurry.is_set() and not self._holdings.held().keys().isdisjoint(run_ids):
            self._hurry.set()

    async def renew(self) -> None:
        """Renews the leases of our runs; lets those know that are gone, with their sessions."""
        if held := self._holdings.held():
            await self._store.renew_leases(self._holder, held.keys())
            for run_id in held.keys() - (await self._store.progress(held.keys())).keys():
                self._holdings.heed(Notice(run_id, RunStatus.CANCELLED, None), held[run_id])

    async def look(self) -> None:
        """Looks what others want of our runs."""
        self._hurry.clear()
        if held := self._holdings.held():
            for notice in await self._store.notices(self._holder, held.keys()):
                self._holdings.heed(notice, held[notice.run_id])

    async def sweep(self) -> None:
        """Ends what is abandoned and what has expired.

        While the store was away nobody could renew a lease: those who live have one lease's time to do so.
        """
        if asyncio.get_running_loop().time() - self._trouble < self._lease:
            return
        lease = timedelta(seconds=self._lease)
        for run in await self._store.abandoned_runs(lease, AT_A_TIME):
            # Ours, when the store was away for longer than a lease: they live, and their leases are about to be renewed.
            if run.id not in self._holdings.held():
                await self._end(run, "abandoned", elsewhere.end_abandoned(self._store, run, lease))
        expired = Cancellation(event_pb2.CANCEL_REASON_EXPIRED)
        for run in await self._store.expired_runs(AT_A_TIME):
            await self._end(run, "expired", elsewhere.end_paused(self._store, run, expired))

    async def trim(self) -> None:
        """Lets go of what is older than it has to be."""
        for trim, retention in (
            (self._store.trim_events, self._event_retention),
            (self._store.trim_requests, self._request_retention),
            (self._store.sweep_media, UNREFERENCED),
        ):
            trimmed = AT_A_TIME
            while trimmed == AT_A_TIME:
                trimmed = await trim(utcnow() - retention, AT_A_TIME)
                await asyncio.sleep(BREATH)

    async def _end(self, run: Run, why: str, end: Awaitable[Ended]) -> None:
        try:
            ended = await end
        except StorageUnavailable:
            raise
        except Exception:
            # One that cannot be ended must not keep the others from it.
            logger.exception("a run could not be ended", extra={"run_id": str(run.id), "why": why})
            return
        if ended.stored:
            self._observer.swept(why)
            logger.warning("ended a run", extra={"run_id": str(run.id), "why": why})
            self._holdings.handed_over(run, ended)

    async def _loop(self, work: Callable[[], Awaitable[None]], interval: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                await work()
                if work != self.trim and loop.time() - began > max(self._lease / 3, SLOW):
                    self._trouble = loop.time()
            except StorageUnavailable:
                self._trouble = loop.time()
                logger.warning("the store does not answer", extra={"task": work.__name__})
            except Exception:
                logger.exception("a defect in the engine's housekeeping", extra={"task": work.__name__})
            if work != self.look:
                await asyncio.sleep(interval)
                continue
            try:
                async with asyncio.timeout(interval):
                    await self._hurry.wait()
            except TimeoutError:
                continue
