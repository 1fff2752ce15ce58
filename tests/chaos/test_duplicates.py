"""The same request fifty times at once, through two servers: one run, one bill, and everybody gets it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from support.e2e import Stubs
from support.fleet import Fleet, fleet
from support.following import assert_same, assert_whole, direct, refusal_of, run, run_id_of, text_of
from support.provider import Part

from dragoman.v1 import run_service_pb2, usage_service_pb2

pytestmark = [pytest.mark.timeout(180)]

CLIENTS = 25
"""On each of the two servers."""


@asynccontextmanager
async def clients(servers: Fleet) -> AsyncIterator[list[Stubs]]:
    """Clients of both servers in turn, each with a connection of its own, which is open."""
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(direct(servers[slot].address))
            for _ in range(CLIENTS)
            for slot in (0, 1)
        ]
        await asyncio.gather(*(client.runs.ListRuns(run_service_pb2.ListRunsRequest()) for client in made))
        yield made


async def test_one_run_one_bill(database_url: str, tmp_path: Path) -> None:
    async with fleet(database_url, tmp_path, 2) as (servers, model), clients(servers) as callers:
        part = Part("once", "tools", 60, 0.02)
        followers = [run(caller, part, request_id="the one") for caller in callers]
        first = await followers[0].end()
        assert_whole(first)
        assert text_of(first) == part.text
        for follower in followers[1:]:
            assert_same(await follower.end(), first)
        assert [(asked.part, asked.step) for asked in model.asked] == [("once", 0), ("once", 1)]
        runs = (await callers[0].runs.ListRuns(run_service_pb2.ListRunsRequest())).runs
        assert [each.id for each in runs] == [run_id_of(first)]
        usage = await callers[1].usage.QueryUsage(usage_service_pb2.QueryUsageRequest())
        assert [group.model_calls for group in usage.groups] == [2]
        billed = sum(asked.record.billed.output_tokens for asked in model.asked)
        assert usage.groups[0].usage.output_tokens == first[-1].run_completed.usage.output_tokens == billed

        # Long after, on either server, it is the same run; with other words it is refused.
        for caller in callers[:2]:
            assert_same(await run(caller, part, request_id="the one").end(), first)
            error = await run(caller, Part("other", "plain", 5, 0.0), request_id="the one").broken()
            assert refusal_of(error) == "REQUEST_ID_REUSED"
        assert len(model.asked) == 2


async def test_of_two_requests_under_one_id_one_is_done(database_url: str, tmp_path: Path) -> None:
    async with fleet(database_url, tmp_path, 2) as (servers, model), clients(servers) as callers:
        parts = [Part("one", "plain", 30, 0.02), Part("two", "plain", 30, 0.02)]
        followers = [
            run(caller, parts[(number // 2) % 2], request_id="the one")
            for number, caller in enumerate(callers)
        ]
        refused, served = [], []
        for number, follower in enumerate(followers):
            part, error = parts[(number // 2) % 2], await follower.done()
            if error is None:
                served.append((part, follower.seen))
            else:
                assert refusal_of(error) == "REQUEST_ID_REUSED"
                refused.append(part)
        assert len({part.name for part, _ in served}) == 1
        assert len({part.name for part in refused}) == 1
        assert len(served) in (CLIENTS - 1, CLIENTS, CLIENTS + 1)
        assert len(served) + len(refused) == len(callers)
        for part, events in served:
            assert text_of(events) == part.text
            assert_same(events, served[0][1])
        assert [asked.part for asked in model.asked] == [served[0][0].name]
