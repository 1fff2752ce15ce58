"""A server is told to stop while others serve: no client notices more than that its run was ended, if it was."""

import asyncio
import signal
from pathlib import Path

import pytest
from support.fleet import fleet
from support.following import Follower, assert_same, assert_whole, deltas, kind, run_id_of, text_of
from support.provider import Part

from dragoman.client import Dragoman
from dragoman.v1 import event_pb2

pytestmark = [pytest.mark.mariadb, pytest.mark.timeout(180)]

RUNS = 20
GRACE = 3.0


async def test_with_a_peer_every_client_finishes(url: str, tmp_path: Path) -> None:
    async with fleet(url, tmp_path, 2, drain_grace=GRACE) as (servers, model):
        leaving, staying = servers.servers
        clients = [Dragoman(servers.address) for _ in range(RUNS)]
        for client in clients:
            await client.__aenter__()
        # Of the long ones none can be done within the grace, all of the short ones can.
        parts = [Part(f"r{number}", "plain", 200 if number % 4 < 2 else 20, 0.05) for number in range(RUNS)]
        followers = [
            Follower(client.run(part.agent, part.message, detail="all"))
            for client, part in zip(clients, parts, strict=True)
        ]
        for follower in followers:
            await follower.until(deltas(1))
        place = [model.of(part)[0].process for part in parts]
        assert set(place) == {leaving.pid, staying.pid}
        there = [number for number in range(RUNS) if place[number] == staying.pid]

        async with Dragoman(f"ipv4:{leaving.address},{staying.address}") as visitor:
            # The first of its addresses is that of the server that goes.
            visits = [
                Follower(visitor.attach(run_id_of(followers[number].seen), detail="all")) for number in there
            ]
            for visit in visits:
                await visit.until(deltas(1))
            leaving.signal(signal.SIGTERM)
            going = asyncio.create_task(leaving.ended())
            late = Part("late", "tools", 10, 0.0)
            assert await visitor.run(late.agent, late.message).text() == late.text
            for visit, number in zip(visits, there, strict=True):
                assert_same(await visit.end(), await followers[number].end())
        await going

        for number, (part, follower) in enumerate(zip(parts, followers, strict=True)):
            events = await follower.end()
            assert_whole(events)
            if kind(events[-1]) == "run_completed":
                assert text_of(events) == part.text
            else:
                assert events[-1].run_cancelled.reason == event_pb2.CANCEL_REASON_DRAINED
                assert number not in there
                assert part.words == 200
                assert events[-1].run_cancelled.content == text_of(events)
                assert part.text.startswith(text_of(events))
        ends = [kind(follower.seen[-1]) for follower in followers]
        assert "run_cancelled" in ends
        # What ended there is known here.
        async with Dragoman(staying.address) as peer:
            for follower in followers:
                stored = [event async for event in peer.attach(run_id_of(follower.seen), detail="all")]
                assert_same(follower.seen, stored)
                session = await peer.get_session(follower.seen[0].run_started.session_id)
                assert session.active_run_id == ""
        for client in clients:
            await client.__aexit__(None, None, None)
