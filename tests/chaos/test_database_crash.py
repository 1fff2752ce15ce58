"""MariaDB is killed while runs stream and start, and comes back: every run ends whole or typed; nothing told is lost."""

import asyncio
import random
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from support.e2e import Stubs, stubs
from support.fleet import fleet
from support.following import (
    Follower,
    assert_same,
    assert_whole,
    attach,
    deltas,
    kind,
    reason_of_failure,
    refusal_of,
    run,
    run_id_of,
    session_id_of,
    text_of,
)
from support.mariadb import MariaDBServer
from support.processes import note
from support.provider import KINDS, Part

from dragoman.v1 import run_service_pb2

pytestmark = [pytest.mark.mariadb, pytest.mark.timeout(240)]

SEED = 7
STREAMING, STARTING = 12, 8
OUTAGES = (2.0, 16.0)
"""Seconds: one that nobody notices, and one that those are told of who start meanwhile. Both are shorter than a lease, so that
servers that cannot renew theirs do not seem to be dead, and than the 30 s for which events wait in memory."""

OPEN = (run_service_pb2.RUN_STATUS_RUNNING, run_service_pb2.RUN_STATUS_QUEUED)


async def ended(client: Stubs, part: Part, follower: Follower) -> str:
    """How it went for a caller: `completed` with all there is to have, or the reason of a typed failure."""
    error = await follower.done()
    if error is not None:
        assert refusal_of(error) == "STORAGE_UNAVAILABLE"
        return "STORAGE_UNAVAILABLE"
    events = follower.seen
    assert_whole(events)
    if kind(events[-1]) == "run_failed":
        assert part.text.startswith(text_of(events))
        assert reason_of_failure(events[-1].run_failed) == "STORAGE_UNAVAILABLE"
        return "STORAGE_UNAVAILABLE"
    assert kind(events[-1]) == "run_completed", events[-1]
    assert text_of(events) == events[-1].run_completed.content == part.text
    assert_same(await attach(client, run_id_of(events)).end(), events)
    return "completed"


async def settled(client: Stubs) -> list[run_service_pb2.Run]:
    """All runs, when none is under way any more."""
    while True:
        runs = (await client.runs.ListRuns(run_service_pb2.ListRunsRequest(page_size=200))).runs
        if not any(each.status in OPEN for each in runs):
            return list(runs)
        await asyncio.sleep(0.2)


def stored_messages(mariadb: MariaDBServer, url: str) -> set[str]:
    """The ids of all messages that are in the database."""
    rows = mariadb.execute(f"SELECT LOWER(HEX(id)) FROM {url.rpartition('/')[2]}.chat_events")
    return {row[0] for row in rows}


async def test_runs_end_whole_or_typed_and_servers_recover(
    mariadb: MariaDBServer, url: str, tmp_path: Path
) -> None:
    dice = random.Random(SEED)
    async with (
        fleet(url, tmp_path, 2, lease=60) as (servers, _),
        stubs(servers[0].address) as one,
        stubs(servers[1].address) as other,
    ):
        told: set[str] = set()
        for outage in OUTAGES:
            callers: list[tuple[Stubs, Part, Follower]] = []

            def begin(name: str, words: int, callers: list[tuple[Stubs, Part, Follower]] = callers) -> None:
                client, part = dice.choice((one, other)), Part(name, dice.choice(KINDS), words, 0.05)
                callers.append((client, part, run(client, part)))

            for number in range(STREAMING):
                begin(f"streaming-{outage:g}-{number}", dice.randrange(30, 160))
            for _, _, follower in callers:
                await follower.until(deltas(2))
            note("MariaDB is killed")
            mariadb.kill()
            for number in range(STARTING):
                begin(f"starting-{outage:g}-{number}", dice.randrange(10, 40))
                await asyncio.sleep(outage / STARTING)
            await asyncio.to_thread(mariadb.restart)
            note("MariaDB is back")

            results = [await ended(*caller) for caller in callers]
            note(f"streaming: {sorted(results[:STREAMING])}, starting: {sorted(results[STREAMING:])}")
            for _, _, follower in callers:
                if follower.seen and kind(follower.seen[-1]) == "run_completed":
                    told.update(follower.seen[-1].run_completed.message_ids)
            # An outage that is shorter than their patience costs runs that stream nothing, also where a caller was told
            # that it takes too long.
            async with asyncio.timeout(60):
                ends = {each.id: each for each in await settled(one)}
            for _, part, follower in callers[:STREAMING]:
                assert ends[run_id_of(follower.seen)].completed.content == part.text
            for _, part, follower in callers[STREAMING:]:
                # What a caller was told of has ended, and as he was told.
                assert not follower.seen or ends[run_id_of(follower.seen)].status not in OPEN, part
            assert {identifier.replace("-", "") for identifier in told} <= stored_messages(mariadb, url)

        runs = await settled(one)
        assert len(runs) <= 2 * (STREAMING + STARTING)
        for each in runs:
            assert each.WhichOneof("outcome") in ("completed", "failed"), each
        for client, server in ((one, servers[0]), (other, servers[1])):
            async with grpc.aio.insecure_channel(server.address) as channel:
                answer = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
            for _, part, follower in callers[:3]:
                again = Part(
                    f"again-{server.name}-{part.name}", "tools" if part.kind == "tools" else "plain", 5, 0.0
                )
                events = await run(client, again, session_id=session_id_of(follower.seen)).end()
                assert events[-1].run_completed.content == again.text
