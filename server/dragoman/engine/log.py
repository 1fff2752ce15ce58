"""The log of one run: coalesce -> number -> persist -> wake, and observers that replay, then follow.

What the agent says comes in through `append`. Text deltas of the same source and kind that follow each other within the
flush interval are joined first; then the event gets its number and its time, goes to the writer, and everybody who
watches is woken. So all observers, now or later, here or elsewhere, see the same contiguous sequence.

Observers are never pushed to: each keeps its own position and takes what is new when it has time. The log keeps the last
events in memory; one that has fallen behind them reads the store in big steps until it has caught up. A slow observer
therefore costs the run nothing, and the others nothing either.

The last event is different: it is stored first and shown only then (`seal`, `ending`, `close`), so that nobody sees an end
that a crash could take back. From `seal` on nothing else comes in: an agent that was left behind may go on talking, and
nobody hears it.

What is shown and not yet stored is lost when the process is killed, and its numbers must never be used again, because
somebody may have seen them. So no more than `WINDOW` events are ever shown ahead of the store (the agent waits), and who
ends a run that another process has left begins `GAP` further on.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from uuid import UUID

from dragoman.engine.ports import Store
from dragoman.engine.writer import EventWriter
from dragoman.errors import DragomanError, RunNotResumable
from dragoman.observing import UNOBSERVED
from dragoman.records import EventChunk, Owner
from dragoman.v1 import event_pb2

KEEP = 2048
"""Events that the log keeps in memory for observers that are nearly up to date."""

KEEP_BYTES = 4 * 1024 * 1024
"""Bytes of events above which it keeps fewer."""

STEP = 256
"""Events that an observer takes from memory at a time."""

CATCH_UP_BYTES = 512 * 1024
"""Bytes that an observer which is far behind reads from the store at a time."""

WINDOW = 8192
"""Events that may be shown before they are stored."""

GAP = 10_000
"""How far after the last stored event the last event of an abandoned run is: more than WINDOW."""

_DELTAS = frozenset({"content_delta", "reasoning_delta"})

MAX_DELTA = 16 * 1024
"""Characters after which a joined delta goes out before its time."""


class RunLog:
    """All events of one run. Used on one event loop; `append` by one producer."""

    def __init__(
        self,
        run_id: UUID,
        owner: Owner,
        store: Store,
        writer: EventWriter,
        flush_interval: float,
        after: int = 0,
        saw: Callable[[str, event_pb2.RunEvent], None] = UNOBSERVED.saw,
    ) -> None:
        """`after`: the sequence of the last event that is stored already, of a run that goes on. `saw` is told of events
        and their kinds; of pieces of text only the first."""
        self._saw = saw
        self._silent = True
        self._run_id = run_id
        self._owner = owner
        self._store = store
        self._writer = writer
        self._interval = flush_interval
        self._loop = asyncio.get_running_loop()
        # The newest events and the sequence of the first of them.
        self._kept: list[event_pb2.RunEvent] = []
        self._sizes: list[int] = []
        self._kept_bytes = 0
        self._first = after + 1
        self._last = after
        self._stored = after
        self._near = asyncio.Event()
        # What the last event takes along into the store.
        self._unstored: tuple[bytes, ...] = ()
        # A delta that waits for more text.
        self._pending: event_pb2.RunEvent | None = None
        self._pending_text: list[str] = []
        self._pending_length = 0
        self._pending_key: tuple[str, str] = ("", "")
        self._last_delta = float("-inf")
        self._timer: asyncio.TimerHandle | None = None
        # What observers wait for.
        self._news = asyncio.Event()
        self._sealed = False
        self._closed = False
        self._failure: DragomanError | None = None
        self.stuck = asyncio.Event()
        """Set when the store has not taken this run's events for too long."""

    @property
    def last_sequence(self) -> int:
        """The number of the last event."""
        return self._last

    def append(self, event: event_pb2.RunEvent) -> None:
        """Takes an event without sequence, and without time unless it has one; leaves it out when the log is sealed."""
        if self._sealed:
            return
        kind = event.WhichOneof("event")
        if self._silent or kind not in _DELTAS:
            self._watched(kind, event)
        if kind == "content_delta":
            self._append_delta(event, kind, event.content_delta.text)
        elif kind == "reasoning_delta":
            self._append_delta(event, kind, event.reasoning_delta.text)
        else:
            self._flush_pending()
            self._emit(event)

    def _watched(self, kind: str | None, event: event_pb2.RunEvent) -> None:
        if kind in _DELTAS:
            self._silent = False
        self._saw(kind or "", event)

    async def room(self) -> None:
        """Waits while the store is so far behind that the run should pause for it."""
        if self._writer.congested:
            await self._writer.settled()
        while self._last - self._stored >= WINDOW:
            self._near.clear()
            await self._near.wait()

    def _append_delta(self, event: event_pb2.RunEvent, kind: str, text: str) -> None:
        key = (kind, event.member.run_id)
        if self._pending is not None:
            if key == self._pending_key:
                self._pending_text.append(text)
                self._pending_length += len(text)
                if self._pending_length > MAX_DELTA:
                    self._flush_pending()
                return
            self._flush_pending()
        now = self._loop.time()
        due = self._last_delta + self._interval
        if now >= due:
            self._last_delta = now
            self._emit(event)
            return
        self._pending, self._pending_key = event, key
        self._pending_text, self._pending_length = [text], len(text)
        self._timer = self._loop.call_at(due, self._flush_pending)

    def _flush_pending(self) -> None:
        event = self._pending
        if event is None:
            return
        self._pending = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if len(self._pending_text) > 1:
            text = "".join(self._pending_text)
            if self._pending_key[0] == "content_delta":
                event.content_delta.text = text
            else:
                event.reasoning_delta.text = text
        self._last_delta = self._loop.time()
        self._emit(event)

    def _emit(self, event: event_pb2.RunEvent) -> None:
        data = self._number(event)
        self._last = event.sequence
        self._writer.add(self._run_id, event.sequence, data, self._on_stored, self._on_stuck)
        self._show(event, len(data))

    def _number(self, event: event_pb2.RunEvent) -> bytes:
        event.sequence = self._last + 1
        if not event.HasField("create_time"):
            event.create_time.seconds, event.create_time.nanos = divmod(time.time_ns(), 1_000_000_000)
        return event.SerializeToString()

    def _show(self, event: event_pb2.RunEvent, size: int) -> None:
        self._kept.append(event)
        self._sizes.append(size)
        self._kept_bytes += size
        if len(self._kept) > 2 * KEEP or self._kept_bytes > 2 * KEEP_BYTES:
            self._trim()
        self._wake()

    def _trim(self) -> None:
        """Lets go of the oldest events that are stored, down to what is to be kept."""
        drop = 0
        spare = min(len(self._kept), self._stored - self._first + 1)
        while drop < spare and (len(self._kept) - drop > KEEP or self._kept_bytes > KEEP_BYTES):
            self._kept_bytes -= self._sizes[drop]
            drop += 1
        del self._kept[:drop]
        del self._sizes[:drop]
        self._first += drop

    def _wake(self) -> None:
        self._news.set()
        self._news.clear()

    def _on_stored(self, last: int) -> None:
        self._stored = max(self._stored, last)
        self._near.set()

    def _on_stuck(self) -> None:
        self.stuck.set()

    async def seal(self) -> None:
        """Takes in nothing more, and collects what is not stored yet for the last write."""
        self._flush_pending()
        self._sealed = True
        self._unstored = tuple(await self._writer.take(self._run_id))

    def ending(self, event: event_pb2.RunEvent) -> EventChunk:
        """Numbers the last event of a sealed log. The chunk has all that is to be stored, the event last."""
        data = self._number(event)
        first = event.sequence - len(self._unstored)
        return EventChunk(self._run_id, first, event.sequence, (*self._unstored, data))

    def close(self, event: event_pb2.RunEvent) -> None:
        """Shows the last event, which is stored, and ends all streams. A log that has failed shows nothing more."""
        self._last = self._stored = event.sequence
        self._unstored = ()
        if not self._closed:
            self._closed = True
            self._show(event, event.ByteSize())

    def fail(self, error: DragomanError) -> None:
        """Closes the log without a last event: observers get `error`."""
        self._failure = error
        self._closed = True
        self._wake()

    async def observe(self, after: int) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """The events after the sequence `after`: those there are, then those to come, to the last.

        Raises the error with which the log failed, and StorageUnavailable or EventsTrimmed when an observer that is far
        behind cannot read the store.
        """
        position = after
        while True:
            if position < self._first - 1:
                for event in await self._catch_up(position):
                    yield event
                    position = event.sequence
                continue
            start = position - self._first + 1
            batch = self._kept[start : start + STEP]
            for event in batch:
                yield event
            if batch:
                position = batch[-1].sequence
            elif self._closed:
                if self._failure is not None:
                    raise self._failure
                return
            else:
                await self._news.wait()

    async def _catch_up(self, after: int) -> list[event_pb2.RunEvent]:
        chunks = await self._store.read_events(self._owner, self._run_id, after, CATCH_UP_BYTES)
        if not chunks or chunks[0].first_sequence > after + 1:
            raise RunNotResumable(self._run_id)
        return [
            event_pb2.RunEvent.FromString(data)
            for chunk in chunks
            for sequence, data in enumerate(chunk.events, chunk.first_sequence)
            if sequence > after
        ]
