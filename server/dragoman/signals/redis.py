"""Signals through Redis: one channel on which every process says of which runs something has changed.

What is told within a moment goes out in one message: the sender's id and the runs' ids, 16 bytes each. Nothing depends on a
message arriving. When Redis does not answer, what was to be told is forgotten, one line is logged, and the connection is
tried again, less and less often, for as long as the process lives.

Deployments that share a Redis do not disturb each other: the channel is named after their database.
"""

import asyncio
import hashlib
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from uuid import UUID

from redis.asyncio import Redis
from redis.exceptions import RedisError

from dragoman import ids

logger = logging.getLogger(__name__)

GATHER = 0.01
"""Seconds over which what is told is gathered into one message."""

MOST = 10_000
"""Runs that are told of in one message; of more, the rest is left to be found in the store."""

TIMEOUT = 5.0
"""Seconds after which Redis counts as not answering."""

PAUSES = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Seconds before each attempt to connect again; the last one from then on."""

_ID = 16


async def answers(url: str) -> bool:
    """Whether there is a Redis at `url`. Raises ValueError for a URL that is not Redis's."""
    redis = Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
    try:
        return bool(await redis.ping())
    except (RedisError, OSError):
        return False
    finally:
        await redis.aclose()


class RedisSignals:
    """Satisfies `engine.ports.Signals`. `open` starts it, `close` ends it.

    `deployment`: what the processes of one deployment have in common and others have not (it is hashed).
    """

    def __init__(self, url: str, deployment: str) -> None:
        """Raises ValueError for a URL that is not Redis's."""
        self._redis = Redis.from_url(url, socket_timeout=TIMEOUT, socket_connect_timeout=TIMEOUT)
        self._channel = f"dragoman:runs:{hashlib.sha256(deployment.encode()).hexdigest()[:16]}"
        self._sender = ids.new_id().bytes
        self._listener: Callable[[Collection[UUID]], None] = lambda _: None
        self._told: set[UUID] = set()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._connected = True

    async def open(self) -> None:
        """Starts to listen and to tell. Returns at once, also when Redis does not answer."""
        self._tasks = [
            asyncio.create_task(self._keep(self._hear), name="signals-hear"),
            asyncio.create_task(self._keep(self._say), name="signals-say"),
        ]

    async def close(self) -> None:
        """Ends both."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        await self._redis.aclose()

    def tell(self, run_ids: Iterable[UUID]) -> None:
        """Tells all other processes, soon."""
        if len(self._told) < MOST:
            self._told.update(run_ids)
        if self._told:
            self._news.set()

    def listen(self, listener: Callable[[Collection[UUID]], None]) -> None:
        """Calls `listener` with what others tell."""
        self._listener = listener

    async def _keep(self, work: Callable[[], Awaitable[None]]) -> None:
        """Does `work` for ever, however often Redis goes away."""
        attempts = 0
        while True:
            since = asyncio.get_running_loop().time()
            try:
                await work()
            except (RedisError, OSError) as error:
                # Who listens notices every outage; who tells may only find out later, by an old connection.
                if work == self._hear:
                    self._lost(error)
            except Exception:
                logger.exception("signals failed, and are tried again")
            if asyncio.get_running_loop().time() - since > TIMEOUT:
                attempts = 0
            await asyncio.sleep(PAUSES[min(attempts, len(PAUSES) - 1)])
            attempts += 1

    async def _hear(self) -> None:
        async with self._redis.pubsub(ignore_subscribe_messages=True) as channel:
            await channel.subscribe(self._channel)
            self._found()
            while True:
                message = await channel.get_message(timeout=TIMEOUT)
                if message is None:
                    # Silence is no answer: a connection that was lost without a word is found out by asking.
                    await channel.ping()
                elif isinstance(data := message["data"], bytes):
                    self._take(data)

    def _take(self, data: bytes) -> None:
        sender, body = data[:_ID], data[_ID:]
        if sender != self._sender and body and len(body) % _ID == 0:
            self._listener([UUID(bytes=body[at : at + _ID]) for at in range(0, len(body), _ID)])

    async def _say(self) -> None:
        while True:
            await self._news.wait()
            await asyncio.sleep(GATHER)
            self._news.clear()
            told, self._told = self._told, set()
            await self._redis.publish(self._channel, self._sender + b"".join(each.bytes for each in told))

    def _lost(self, error: Exception) -> None:
        if self._connected:
            self._connected = False
            logger.warning(
                "redis does not answer: what other processes do is found in the database instead",
                extra={"error": type(error).__name__},
            )

    def _found(self) -> None:
        if not self._connected:
            self._connected = True
            logger.info("redis answers again")
