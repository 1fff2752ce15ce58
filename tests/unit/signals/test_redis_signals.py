"""Signals between two processes' worth of `RedisSignals`, on a real Redis that comes and goes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from uuid import UUID

import pytest
from support.redis_server import RedisServer

from dragoman import ids
from dragoman.signals import NoSignals, RedisSignals

PATIENCE = 30.0


@pytest.fixture(scope="module")
def redis() -> Iterator[RedisServer]:
    with RedisServer.start() as server:
        yield server


class Neighbour:
    """One process's signals, and what it has heard."""

    def __init__(self, signals: RedisSignals) -> None:
        self.signals = signals
        self.heard: set[UUID] = set()
        self._news = asyncio.Event()
        signals.listen(self._hear)

    def _hear(self, run_ids: Collection[UUID]) -> None:
        self.heard.update(run_ids)
        self._news.set()

    async def hears(self, run_ids: set[UUID], again: "Neighbour") -> None:
        """Waits until it has heard of all of them, which `again` tells again and again: single signals may be lost."""
        async with asyncio.timeout(PATIENCE):
            while not run_ids <= self.heard:
                again.signals.tell(run_ids)
                self._news.clear()
                try:
                    async with asyncio.timeout(0.2):
                        await self._news.wait()
                except TimeoutError:
                    continue


@asynccontextmanager
async def neighbour(url: str, deployment: str = "mariadb at db/dragoman") -> AsyncIterator[Neighbour]:
    signals = RedisSignals(url, deployment)
    await signals.open()
    try:
        yield Neighbour(signals)
    finally:
        await signals.close()


async def test_what_one_tells_the_others_hear_and_nobody_else(redis: RedisServer) -> None:
    told = {ids.new_id() for _ in range(300)}
    async with (
        neighbour(redis.url) as one,
        neighbour(redis.url) as two,
        neighbour(redis.url) as three,
        neighbour(redis.url, "sqlite dragoman.db") as stranger,
    ):
        await asyncio.gather(two.hears(told, one), three.hears(told, one))
        assert two.heard == three.heard == told
        back = {ids.new_id()}
        await one.hears(back, two)
        assert one.heard == back  # not what it told itself
        assert stranger.heard == set()


async def test_redis_is_killed_and_comes_back(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "dragoman.signals")
    with RedisServer.start() as redis:
        async with neighbour(redis.url) as one, neighbour(redis.url) as two:
            await two.hears({ids.new_id()}, one)
            redis.kill()
            for _ in range(20):
                one.signals.tell([ids.new_id()])
                await asyncio.sleep(0.02)
            redis.restart()
            after = {ids.new_id()}
            await asyncio.gather(two.hears(after, one), one.hears({ids.new_id()}, two))
    lost = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert 1 <= len(lost) <= 2  # once per process and outage


async def test_a_redis_that_is_not_there_hinders_nobody() -> None:
    async with neighbour("redis://127.0.0.1:1/0") as alone:
        alone.signals.tell([ids.new_id()])
        await asyncio.sleep(0.05)
        alone.signals.tell(ids.new_id() for _ in range(100))


async def test_what_is_told_while_nobody_takes_it_is_bounded() -> None:
    async with neighbour("redis://127.0.0.1:1/0") as alone:
        for _ in range(30):
            alone.signals.tell([ids.new_id() for _ in range(1000)])
        assert len(alone.signals._told) <= 11_000


async def test_a_listener_that_fails_is_told_again(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with neighbour(redis.url) as one, neighbour(redis.url) as two:
        failures = 0

        def fail_once(run_ids: Collection[UUID]) -> None:
            nonlocal failures
            if not failures:
                failures += 1
                raise LookupError("not in a mood")
            two._hear(run_ids)

        two.signals.listen(fail_once)
        await two.hears({ids.new_id()}, one)
    assert failures == 1
    assert [each.message for each in caplog.records if each.levelname == "ERROR"] == [
        "signals failed, and are tried again"
    ]


@pytest.mark.parametrize("data", [b"", b"x", b"x" * 16, b"x" * 31, b"x" * 33])
async def test_a_strange_message_is_no_signal(data: bytes) -> None:
    signals = RedisSignals("redis://127.0.0.1:1/0", "")
    heard: list[Collection[UUID]] = []
    signals.listen(heard.append)
    signals._take(data)
    assert heard == []
    await signals.close()


def test_without_signals_nothing_is_told() -> None:
    signals = NoSignals()
    signals.listen(lambda _: pytest.fail("nothing was told"))
    signals.tell([ids.new_id()])
