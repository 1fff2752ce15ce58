"""Callers who stop reading, run out of time, reset, or vanish: the run goes on, others notice nothing, nothing stays."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from agno.agent import Agent
from agno.run import cancel
from support.e2e import Stubs, all_ended, kinds, stubs

from dragoman.adapter import AgnoRun
from dragoman.agents import BaseAgent
from dragoman.engine import LiveRun
from dragoman.testing.scripted import Pause, ScriptedModel, Step
from dragoman.testing.serving import Serving, serving
from dragoman.v1 import run_service_pb2

WORDS = 20_000


class Talker(BaseAgent):
    """Says `n` words when it is told a number; with a pause after each when that is negative."""

    name = "talker"
    description = "Talks."

    def __init__(self) -> None:
        self.model = ScriptedModel(respond=lambda request: words(str(request.messages[-1].content)))

    def build_agent(self) -> Agent:
        return Agent(model=self.model)


def words(number: str) -> list[Step]:
    count = int(number)
    said: list[Step] = [f"word{n} " for n in range(abs(count))]
    return said if count > 0 else [step for word in said for step in (word, Pause(0.02))]


def request(number: int) -> run_service_pb2.RunRequest:
    return run_service_pb2.RunRequest(agent_name="talker", message=str(number))


@asynccontextmanager
async def talking() -> AsyncIterator[tuple[Serving, Stubs, Talker]]:
    talker = Talker()
    async with serving(talker, flush_interval=0.0) as server, stubs(server.address) as client:
        yield server, client, talker


async def assert_nothing_left(tasks: int) -> None:
    async with asyncio.timeout(30):
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)
    for _ in range(20):  # a run's place is free a moment before its task has ended
        gc.collect()
        left = [thing for thing in gc.get_objects() if isinstance(thing, AgnoRun | LiveRun)]
        if not left:
            break
        await asyncio.sleep(0.1)
    assert left == []
    assert await cancel.aget_active_runs() == {}


async def test_one_who_stops_reading_holds_up_nobody_and_misses_nothing() -> None:
    async with talking() as (server, client, _), stubs(server.address) as other:
        reader = aiter(client.runs.Run(request(WORDS)))
        first = await anext(reader)
        # Nobody reads, and still the run ends, and another one is served meanwhile.
        async with asyncio.timeout(60):
            assert kinds([event async for event in other.runs.Run(request(100))])[-1] == "run_completed"
        await all_ended(server)
        rest = [event async for event in reader]
    assert [event.sequence for event in (first, *rest)] == sorted(
        {event.sequence for event in (first, *rest)}
    )
    assert "".join(event.content_delta.text for event in rest) == "".join(map(str, words(str(WORDS))))
    assert kinds(rest)[-1] == "run_completed"


async def test_a_deadline_detaches_without_a_stray_word(caplog: pytest.LogCaptureFixture) -> None:
    begun: set[str] = set()
    async with talking() as (server, client, _):

        async def run() -> None:
            async for event in client.runs.Run(request(-100), timeout=1.0):
                if event.HasField("run_started"):
                    begun.add(event.run_started.run_id)

        async def execute() -> None:
            await client.runs.Execute(request(-100), timeout=1.0)

        with caplog.at_level(logging.WARNING):
            ended = await asyncio.gather(
                *(run() for _ in range(10)), *(execute() for _ in range(10)), return_exceptions=True
            )
            await all_ended(server)
        codes = {error.code() for error in ended if isinstance(error, grpc.aio.AioRpcError)}
        assert (len(ended), codes) == (20, {grpc.StatusCode.DEADLINE_EXCEEDED})
        runs = (await client.runs.ListRuns(run_service_pb2.ListRunsRequest())).runs
        # On a busy machine some have run out of time before there was a run.
        assert {run.status for run in runs} == {run_service_pb2.RUN_STATUS_COMPLETED}
        assert begun
        assert begun <= {run.id for run in runs}
    strays = [record for record in caplog.records if "no price is known" not in record.message]
    assert strays == []


async def test_three_hundred_calls_opened_and_cancelled_at_once_leave_nothing() -> None:
    async with talking() as (server, client, talker):
        assert kinds([event async for event in client.runs.Run(request(3))])[-1] == "run_completed"
        await all_ended(server)
        tasks = len(asyncio.all_tasks())
        for pause in (0.0, 0.05, 0.2):
            calls = [client.runs.Run(request(3)) for _ in range(100)]
            await asyncio.sleep(pause)  # some are refused by nobody, some claimed, some under way
            for call in calls:
                call.cancel()
            await asyncio.gather(*(call.wait_for_connection() for call in calls), return_exceptions=True)
        assert kinds([event async for event in client.runs.Run(request(3))])[-1] == "run_completed"
        await all_ended(server)
        talker.model.requests.clear()
        del calls, call
        await assert_nothing_left(tasks)
        runs = (await client.runs.ListRuns(run_service_pb2.ListRunsRequest(page_size=200))).runs
        assert {run.status for run in runs} == {run_service_pb2.RUN_STATUS_COMPLETED}


async def test_connections_that_vanish_and_garbage_are_nobody_elses_concern() -> None:
    async with talking() as (server, client, _):
        assert kinds([event async for event in client.runs.Run(request(3))])[-1] == "run_completed"
        host, port = server.address.split(":")
        preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(1000), preface + b"\xff" * 100, preface):
            _, writer = await asyncio.open_connection(host, int(port))
            writer.write(data)
            await writer.drain()
            writer.close()
            await writer.wait_closed()
        for _ in range(10):
            async with stubs(server.address) as leaving:
                async for event in leaving.runs.Run(request(-20)):
                    if event.sequence > 3:
                        break
        assert kinds([event async for event in client.runs.Run(request(3))])[-1] == "run_completed"
        await all_ended(server)
        runs = (await client.runs.ListRuns(run_service_pb2.ListRunsRequest())).runs
        assert [run.status for run in runs] == [run_service_pb2.RUN_STATUS_COMPLETED] * 12
