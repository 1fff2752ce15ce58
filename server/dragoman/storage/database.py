"""Runs blocking database work on a few threads, and repeats what failed for a passing reason.

The event loop hands a function over and goes on. A function gets a connection with a transaction open; when it returns,
the transaction is committed, and when it raises, rolled back. Each lane has its threads and a bounded queue: who comes
when it is full waits before it is queued. On SQLite one lane with one thread writes, in the order of arrival, and a
second one reads; on MySQL and MariaDB one lane does both.

A transaction that fails for a passing reason is repeated as a whole, after a pause that grows (with jitter), until
`patience` is spent. Then, and at once for what will not pass, the caller gets StorageUnavailable. The driver's own words
stay here: the log has the driver's sentence, without SQL and its parameters.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeAlias, TypeVar

from sqlalchemy import Connection
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import DBAPIError

from dragoman.errors import StorageUnavailable
from dragoman.observing import UNOBSERVED, Observer, TransactionWatch
from dragoman.storage import engines
from dragoman.storage.failures import Failure, classify, is_away

T = TypeVar("T")

Work: TypeAlias = Callable[[Connection], T]

logger = logging.getLogger(__name__)

QUEUE = 64
"""Jobs that may wait in a lane behind those that run."""

FIRST_PAUSE = 0.005
LONGEST_PAUSE = 1.0
"""Seconds between two attempts: doubled each time, from the first to the longest, and a random part of that."""


class Lane:
    """An engine with as many threads as it has connections."""

    def __init__(self, name: str, engine: Engine, threads: int) -> None:
        self.engine = engine
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix=f"storage-{name}")
        self._room = asyncio.Semaphore(threads + QUEUE)

    async def run(self, job: Callable[[], T]) -> T:
        """The result of `job`, run on one of the threads."""
        async with self._room:
            return await asyncio.get_running_loop().run_in_executor(self._executor, job)

    def transact(self, work: Work[T]) -> T:
        """The result of `work` in a transaction of its own. Blocks: only for the lane's threads."""
        with self.engine.connect() as connection:
            try:
                with connection.begin():
                    return work(connection)
            except DBAPIError as error:
                if is_away(error):
                    connection.invalidate()
                raise

    async def close(self) -> None:
        """Waits for what runs, closes the connections, ends the threads."""
        await self.run(self.engine.dispose)
        await asyncio.to_thread(self._executor.shutdown)


class Database:
    """The lanes of one database."""

    def __init__(
        self,
        url: URL,
        *,
        connections: int,
        sqlite_synchronous: str,
        patience: float,
        observer: Observer = UNOBSERVED,
    ) -> None:
        self.url = url
        self._observer = observer
        self._patience = patience
        if engines.is_sqlite(url):
            self._writes = Lane("writer", engines.sqlite_writer(url, sqlite_synchronous), 1)
            self._reads = (
                self._writes
                if engines.is_memory(url)
                else Lane("reader", engines.sqlite_readers(url), engines.SQLITE_READERS)
            )
        else:
            self._writes = self._reads = Lane("database", engines.mysql(url, connections), connections)

    @property
    def is_mariadb(self) -> bool:
        """Whether the server has said that it is MariaDB; False as long as there was no connection."""
        return bool(getattr(self._writes.engine.dialect, "is_mariadb", False))

    async def read(self, work: Work[T]) -> T:
        """The result of `work`, which only reads. Raises StorageUnavailable, and what `work` raises."""
        return await self._repeat(self._reads, lambda _uncertain: self._reads.transact(work), work)

    async def write(self, work: Work[T]) -> T:
        """The result of `work`, which may write. Raises as `read`."""
        return await self._repeat(self._writes, lambda _uncertain: self._writes.transact(work), work)

    async def write_once(self, work: Callable[[Connection, bool], T]) -> T:
        """As `write`; `work` is told whether an earlier attempt of this call may have been committed after all."""
        return await self._repeat(
            self._writes,
            lambda uncertain: self._writes.transact(lambda connection: work(connection, uncertain)),
            work,
        )

    async def compute(self, job: Callable[[], T]) -> T:
        """The result of a job that needs a thread but no connection."""
        return await self._reads.run(job)

    async def attempt(self, job: Callable[[], T]) -> T:
        """The result of a job that opens its own connections, repeated like a transaction."""
        return await self._repeat(self._writes, lambda _uncertain: job(), job)

    async def on_writer(self, job: Callable[[Engine], T]) -> T:
        """The result of a job that wants the writing engine itself."""
        return await self._repeat(self._writes, lambda _uncertain: job(self._writes.engine), job)

    async def close(self) -> None:
        """Closes all connections. Nothing may be asked of the database any more."""
        if self._reads is not self._writes:
            await self._reads.close()
        await self._writes.close()

    async def _repeat(self, lane: Lane, job: Callable[[bool], T], work: Callable[..., object]) -> T:
        watch = self._observer.transaction(_operation(work), self.url.get_backend_name())
        failure = "interrupted"
        try:
            result = await self._attempts(lane, job, watch)
        except StorageUnavailable as error:
            failure = error.cause or "unavailable"
            raise
        except Exception:
            # What the work itself found wrong: the database has done its part.
            failure = ""
            raise
        else:
            failure = ""
            return result
        finally:
            watch.done(failure)

    async def _attempts(self, lane: Lane, job: Callable[[bool], T], watch: TransactionWatch) -> T:
        deadline = time.monotonic() + self._patience
        uncertain = False
        pause = FIRST_PAUSE
        while True:
            try:
                return await lane.run(partial(job, uncertain))
            except Exception as error:
                failure = classify(error)
                if failure is None:
                    raise
            # Outside of the handler: what is raised here carries nothing of the driver with it.
            uncertain = uncertain or failure.lost
            if not failure.retry or time.monotonic() + pause > deadline:
                _log("the database is not available", failure)
                raise StorageUnavailable(cause=failure.code)
            _log("a transaction is tried again", failure, level=logging.INFO)
            watch.retried()
            await asyncio.sleep(random.uniform(pause / 2, pause))
            pause = min(pause * 2, LONGEST_PAUSE)


def _operation(work: Callable[..., object]) -> str:
    """What a transaction goes by: the method or function that its work is, or was written in (`get_run`)."""
    while isinstance(work, partial):
        work = work.func
    name: str = getattr(work, "__qualname__", "other")
    return name.partition(".<locals>")[0].rpartition(".")[2].strip("_")


def _log(message: str, failure: Failure, level: int = logging.WARNING) -> None:
    logger.log(
        level,
        message,
        extra={"code": failure.code, "detail": failure.detail, "connection_lost": failure.lost},
    )
