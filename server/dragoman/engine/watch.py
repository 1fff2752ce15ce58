"""Runs that other processes hold, or that nobody holds any more, followed through the store.

One task asks the store, in one query, how far all the runs are that somebody watches here, a few times per second, or at once
when another process gives a signal. Each observer keeps its own position and reads what is new in big steps when it has
time; nothing is kept for it in between.

A stream ends with the event that ends or pauses its run; a pause that was over when the observer came is passed by. When
this process is about to stop, those who would have to wait here are sent to a peer.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Collection, Iterable, Iterator
from contextlib import contextmanager
from typing import Final
from uuid import UUID

from dragoman.engine.log import CATCH_UP_BYTES
from dragoman.engine.ports import Progress, Store
from dragoman.errors import Draining, RunNotFound, StorageUnavailable
from dragoman.records import EventChunk, Run
from dragoman.v1 import event_pb2

logger = logging.getLogger(__name__)

FINAL: Final = frozenset({"run_completed", "run_failed", "run_cancelled"})


class Watch:
    """How far one run is, as far as is known here."""

    def __init__(self, progress: Progress) -> None:
        self.progress: Progress | None = progress
        """None: the run is gone."""
        self._news = asyncio.Event()

    def update(self, progress: Progress | None) -> None:
        """Wakes those who wait when it is news."""
        if progress != self.progress:
            self.progress = progress
            self.wake()

    def wake(self) -> None:
        """Lets those who wait look again."""
        self._news.set()
        self._news.clear()

    async def news(self) -> None:
        """Waits for a change."""
        await self._news.wait()


class Watcher:
    """Watches runs in the store. Owned by the engine, which runs `run()` as a task."""

    def __init__(self, store: Store, interval: float) -> None:
        self._store = store
        self._interval = interval
        self._watches: dict[UUID, set[Watch]] = {}
        self._work = asyncio.Event()
        self._hurry = asyncio.Event()
        self.stopping = False

    @contextmanager
    def watch(self, run: Run) -> Iterator[Watch]:
        """Keeps an eye on a run that was seen like this."""
        watch = Watch(Progress(run.status, run.last_sequence))
        self._watches.setdefault(run.id, set()).add(watch)
        self._work.set()
        try:
            yield watch
        finally:
            watches = self._watches[run.id]
            watches.remove(watch)
            if not watches:
                del self._watches[run.id]

    def hurry(self, run_ids: Collection[UUID]) -> None:
        """Something has changed about these runs: looks at once if somebody watches one."""
        if not self._watches.keys().isdisjoint(run_ids):
            self._hurry.set()

    def stop(self) -> None:
        """Sends all who wait away."""
        self.stopping = True
        for watches in self._watches.values():
            for watch in watches:
                watch.wake()

    async def run(self) -> None:
        """Looks until it is cancelled."""
        while True:
            await self._work.wait()
            if not self._watches:
                self._work.clear()
                continue
            self._hurry.clear()  # before: what changes during a look is for the next one
            try:
                await self._look()
            except StorageUnavailable:
                logger.warning("runs of other processes cannot be followed: the store does not answer")
            except Exception:
                logger.exception("a defect: runs of other processes could not be followed")
            try:
                async with asyncio.timeout(self._interval):
                    await self._hurry.wait()
            except TimeoutError:
                continue

    async def _look(self) -> None:
        wanted = list(self._watches)
        found = await self._store.progress(wanted)
        for run_id in wanted:
            for watch in self._watches.get(run_id, ()):
                watch.update(found.get(run_id))


class StoredRun:
    """A run that is followed through the store."""

    def __init__(self, run: Run, store: Store, watcher: Watcher, after_sequence: int = 0) -> None:
        self._run = run
        self._store = store
        self._watcher = watcher
        self._after_sequence = after_sequence

    @property
    def run_id(self) -> UUID:
        """The run's id."""
        return self._run.id

    @property
    def session_id(self) -> UUID:
        """The session's id."""
        return self._run.session_id

    @property
    def after_sequence(self) -> int:
        """After which sequence followers of the request begin."""
        return self._after_sequence

    async def events(self, after_sequence: int) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """The events after the sequence, to the one that ends or pauses the run.

        Raises RunNotFound when it is deleted meanwhile, EventsTrimmed, StorageUnavailable, and Draining when this process
        is about to stop and the run goes on elsewhere.
        """
        position = after_sequence
        with self._watcher.watch(self._run) as watch:
            while True:
                chunks = await self._store.read_events(
                    self._run.owner, self._run.id, position, CATCH_UP_BYTES
                )
                for event in _after(chunks, position):
                    yield event
                    position = event.sequence
                    if self._ends(event):
                        return
                if chunks:
                    continue
                while (progress := watch.progress) is not None and progress.last_sequence <= position:
                    if not progress.status.held:
                        return
                    if self._watcher.stopping:
                        raise Draining(self._run.id, position)
                    await watch.news()

    async def wait(self) -> Run:
        """The run when it has ended or is paused. Raises RunNotFound, StorageUnavailable, Draining."""
        with self._watcher.watch(self._run) as watch:
            # It may have ended since it was seen like this, and the signal come before anybody watched.
            self._watcher.hurry((self._run.id,))
            while (progress := watch.progress) is not None and progress.status.held:
                if self._watcher.stopping:
                    raise Draining(self._run.id, progress.last_sequence)
                await watch.news()
        if watch.progress is None:
            raise RunNotFound(self._run.id)
        return await self._store.get_run(self._run.owner, self._run.id)

    def join(self) -> None:
        """Nothing: only the process that holds a run ends it when nobody follows it there."""

    def leave(self, *, timed_out: bool = False) -> None:
        """Nothing, likewise."""

    def _ends(self, event: event_pb2.RunEvent) -> bool:
        kind = event.WhichOneof("event")
        if kind == "run_paused":
            seen = self._run.last_sequence
            return event.sequence > seen or (event.sequence == seen and not self._run.status.held)
        return kind in FINAL


def _after(chunks: Iterable[EventChunk], position: int) -> Iterator[event_pb2.RunEvent]:
    for chunk in chunks:
        for sequence, data in enumerate(chunk.events, chunk.first_sequence):
            if sequence > position:
                yield event_pb2.RunEvent.FromString(data)
