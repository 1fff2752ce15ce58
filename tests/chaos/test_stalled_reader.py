"""Readers that stop in the middle of a long run: it goes on as if they were not there, and they get all of it later."""

import asyncio
import time
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.e2e import Stubs
from support.fleet import Fleet, fleet
from support.following import (
    Follower,
    ask,
    assert_same,
    assert_whole,
    attach,
    deltas,
    direct,
    kind,
    run_id_of,
)
from support.processes import note

from dragoman.v1 import event_pb2, run_service_pb2

pytestmark = [pytest.mark.mariadb, pytest.mark.timeout(420)]

EVENTS, SIZE = 50_000, 60
"""Pieces of text, each an event of its own, and their characters."""

STOPPED = 60.0
"""Seconds for which the readers stop."""

GROWTH = 20 * 1024 * 1024
"""Bytes that a server may need for a reader that has stopped."""

# A window that does not grow: what the reader does not take stays with the server, which is what is tested.
NARROW = (("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 64 * 1024))


@dataclass
class Memory:
    """The most that each server had, in bytes."""

    servers: Fleet
    peaks: list[int] = field(default_factory=lambda: [0, 0])

    @asynccontextmanager
    async def measured(self) -> AsyncIterator[None]:
        """Looks all the time while the block lasts."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        while True:
            for slot in (0, 1):
                self.peaks[slot] = max(self.peaks[slot], self.servers[slot].resident())
            await asyncio.sleep(0.1)


class Stalling:
    """A reader that stops after some events until it is told to go on."""

    def __init__(self, stream: AsyncIterable[event_pb2.RunEvent]) -> None:
        self.seen: list[event_pb2.RunEvent] = []
        self.stopped = asyncio.Event()
        self.go_on = asyncio.Event()
        self._stream = stream
        self._task = asyncio.create_task(self._read())

    async def end(self) -> list[event_pb2.RunEvent]:
        """All events."""
        await self._task
        return self.seen

    async def _read(self) -> None:
        async for event in self._stream:
            if kind(event) != "heartbeat":
                self.seen.append(event)
            if len(self.seen) == 100 and not self.go_on.is_set():
                self.stopped.set()
                await self.go_on.wait()


async def timed(follower: Follower) -> float:
    """Seconds until it has everything."""
    begun = time.monotonic()
    await follower.end()
    return time.monotonic() - begun


async def undisturbed(here: Stubs, there: Stubs) -> tuple[float, list[event_pb2.RunEvent]]:
    """The run with readers that read. Returns how long it took, and its events."""
    caller = ask(here, "counter", f"{EVENTS} {SIZE}")
    taking = asyncio.create_task(timed(caller))
    await caller.until(deltas(1))
    peer = attach(there, run_id_of(caller.seen))
    seconds = await taking
    assert_whole(caller.seen)
    assert len(caller.seen) > EVENTS
    assert_same(await peer.end(), caller.seen)
    return seconds, caller.seen


async def test_they_harm_nobody_and_miss_nothing(url: str, tmp_path: Path) -> None:
    async with (
        fleet(url, tmp_path, 2, flush_interval=0, lease=30) as (servers, _),
        direct(servers[0].address, *NARROW) as here,
        direct(servers[1].address, *NARROW) as there,
    ):
        await undisturbed(here, there)  # what is needed once: modules, pools, caches
        usual = Memory(servers)
        async with usual.measured():
            baseline, _ = await undisturbed(here, there)
        note(f"undisturbed: {baseline:.1f} s, peaks {usual.peaks}")

        stalled = Memory(servers)
        async with stalled.measured():
            request = run_service_pb2.RunRequest(
                agent_name="counter", message=f"{EVENTS} {SIZE}", detail=run_service_pb2.EVENT_DETAIL_ALL
            )
            begun = time.monotonic()
            caller = Stalling(here.runs.Run(request))
            await caller.stopped.wait()
            run_id = run_id_of(caller.seen)
            attached = run_service_pb2.AttachRunRequest(
                run_id=run_id, detail=run_service_pb2.EVENT_DETAIL_ALL
            )
            peer = Stalling(there.runs.AttachRun(attached))
            reading = attach(here, run_id)
            await reading.end()
            seconds = time.monotonic() - begun
            note(f"with readers that have stopped: {seconds:.1f} s")
            assert_whole(reading.seen)
            assert kind(reading.seen[-1]) == "run_completed"
            # Meanwhile the others stand still.
            await peer.stopped.wait()
            assert (len(caller.seen), len(peer.seen)) == (100, 100)
            await asyncio.sleep(max(0.0, begun + STOPPED - time.monotonic()))
            assert (len(caller.seen), len(peer.seen)) == (100, 100)
        growth = [there - here for here, there in zip(usual.peaks, stalled.peaks, strict=True)]
        note(f"peaks {stalled.peaks}, growth {growth}")
        caller.go_on.set()
        peer.go_on.set()
        assert_same(await caller.end(), reading.seen)
        assert_same(await peer.end(), reading.seen)
        assert seconds < 2 * baseline + 5
        assert max(growth) < GROWTH
