"""A run's events as one stream for one caller: filtered, and with a heartbeat whenever it was silent for long.

A pump takes events from the engine and lays them in a small basket; the stream takes the whole basket at once, so a busy
run costs neither a task nor a timer per event. While the caller reads slowly the basket is full, the pump rests, and
nothing but this stream waits: the engine keeps the events. A heartbeat is sent by one timer, which is only looked at when
it rings; a silent `__anext__` is never cancelled for it.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable

from dragoman.v1.event_pb2 import Heartbeat, RunEvent

BASKET = 64
"""Events that wait for a slow caller."""


async def follow(
    events: AsyncGenerator[RunEvent, None],
    wants: Callable[[RunEvent], bool] | None,
    heartbeat_interval: float,
) -> AsyncGenerator[RunEvent, None]:
    """The events that `wants` lets through (None: all), and a heartbeat after `heartbeat_interval` seconds of silence.

    Ends when `events` ends and raises what it raises, after all that came before. Closing it stops the pump and closes
    `events`.
    """
    basket = _Basket(heartbeat_interval)
    pump = asyncio.create_task(_pump(events, wants, basket), name="event-pump")
    pump.add_done_callback(basket.finish)
    try:
        while batch := await basket.take():
            for event in batch:
                yield event
            basket.touch()
        await pump
    finally:
        basket.close()
        pump.cancel()
        await asyncio.wait({pump})


async def _pump(
    events: AsyncGenerator[RunEvent, None], wants: Callable[[RunEvent], bool] | None, basket: "_Basket"
) -> None:
    try:
        async for event in events:
            if wants is None or wants(event):
                basket.put(event)
                if basket.full:
                    await basket.room()
    finally:
        await events.aclose()


class _Basket:
    """What the pump has brought and the stream has not taken yet."""

    def __init__(self, heartbeat_interval: float) -> None:
        self._loop = asyncio.get_running_loop()
        self._events: list[RunEvent] = []
        self._finished = False
        self._taker: asyncio.Future[None] | None = None
        self._giver: asyncio.Future[None] | None = None
        self._interval = heartbeat_interval
        self._last = self._loop.time()
        self._timer = self._loop.call_at(self._last + heartbeat_interval, self._ring)

    @property
    def full(self) -> bool:
        """True when the pump should rest."""
        return len(self._events) >= BASKET

    def put(self, event: RunEvent) -> None:
        """Lays an event in."""
        self._events.append(event)
        _release(self._taker)

    async def room(self) -> None:
        """Waits until the basket was taken."""
        self._giver = self._loop.create_future()
        await self._giver

    async def take(self) -> list[RunEvent]:
        """Waits for events and takes all; nothing when there will be no more."""
        if not self._events and not self._finished:
            self._taker = self._loop.create_future()
            try:
                await self._taker
            finally:
                self._taker = None
        taken, self._events = self._events, []
        _release(self._giver)
        return taken

    def touch(self) -> None:
        """Notes that the caller has just been sent something."""
        self._last = self._loop.time()

    def finish(self, pump: asyncio.Task[None]) -> None:
        """Says that nothing more will come."""
        self._finished = True
        if not pump.cancelled():
            pump.exception()  # when the stream was closed before, nobody else asks for it
        _release(self._taker)

    def close(self) -> None:
        """Stops the timer."""
        self._timer.cancel()

    def _ring(self) -> None:
        now = self._loop.time()
        due = self._last + self._interval
        # Nobody waits: then it is the caller who is slow, and the connection is busy enough.
        if due <= now and self._taker is not None and not self._events:
            self.put(RunEvent(heartbeat=Heartbeat()))
        self._timer = self._loop.call_at(due if due > now else now + self._interval, self._ring)


def _release(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)
