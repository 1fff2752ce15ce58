"""A server is killed: its runs end as abandoned, soon and once; what they had is there; sessions are free; pauses stay."""

import asyncio
import time
from pathlib import Path

import pytest
from support.e2e import Stubs, stubs
from support.fleet import LEASE, fleet
from support.following import (
    Follower,
    ask,
    assert_same,
    assert_whole,
    attach,
    deltas,
    get,
    is_abandoned,
    kind,
    run,
    run_id_of,
    session_id_of,
    started,
    text_of,
)
from support.processes import note
from support.provider import Part

from dragoman.v1 import run_service_pb2, session_service_pb2

pytestmark = [pytest.mark.mariadb, pytest.mark.timeout(180)]

NOTICED = LEASE + 5
"""Seconds within which the runs of a server that was killed have ended."""

QUEUE = run_service_pb2.SESSION_CONFLICT_QUEUE


async def active_run(stub: Stubs, session_id: str) -> str:
    """Which run has a session's turn."""
    request = session_service_pb2.GetSessionRequest(session_id=session_id)
    return (await stub.sessions.GetSession(request)).session.active_run_id


async def test_its_runs_are_abandoned_and_what_they_had_is_there(url: str, tmp_path: Path) -> None:
    async with (
        fleet(url, tmp_path, 2) as (servers, model),
        stubs(servers[0].address) as doomed,
        stubs(servers[1].address) as other,
    ):
        part = Part("lost", "plain", 2000, 0.02)
        caller = run(doomed, part)
        await caller.until(deltas(5))
        run_id, session_id = run_id_of(caller.seen), session_id_of(caller.seen)
        peer = attach(other, run_id)
        await peer.until(deltas(20))
        await servers[0].kill()
        killed = time.monotonic()
        await caller.broken()
        followed = await peer.end()
        note(f"abandoned {time.monotonic() - killed:.1f} s after the kill")
        assert time.monotonic() - killed < NOTICED

        assert_whole(followed)
        assert is_abandoned(followed[-1])
        end = followed[-1].run_cancelled
        assert part.text.startswith(end.content)
        assert end.content == text_of(followed)
        # All that the caller had seen is as it was, as far as it was stored; no number has come twice.
        known = min(len(caller.seen), len(followed) - 1)
        assert_same(caller.seen[:known], followed[:known])
        assert caller.seen[-1].sequence < followed[-1].sequence
        # It stays so.
        assert_same(await attach(other, run_id).end(), followed)
        assert_same(await attach(other, run_id, followed[-2].sequence).end(), followed[-1:])
        stored = await get(other, run_id)
        assert stored.status == run_service_pb2.RUN_STATUS_CANCELLED
        assert_same([stored.cancelled], [end])
        # Nobody runs it again, and the session goes on.
        assert await active_run(other, session_id) == ""
        again = Part("again", "thinking", 10, 0.0)
        events = await run(other, again, session_id=session_id).end()
        assert events[-1].run_completed.content == again.text
        assert [(asked.part, asked.step) for asked in model.asked] == [("lost", 0), ("again", 0)]


async def test_those_that_wait_there_are_abandoned_and_those_elsewhere_have_their_turn(
    url: str, tmp_path: Path
) -> None:
    async with (
        fleet(url, tmp_path, 2) as (servers, model),
        stubs(servers[0].address) as doomed,
        stubs(servers[1].address) as other,
    ):
        # Two sessions: of one the run under way is lost, of the other one that waits.
        lost = run(doomed, Part("lost", "plain", 2000, 0.02))
        kept = run(other, Part("kept", "plain", 200, 0.05))
        await lost.until(started)
        await kept.until(started)
        after_lost = run(
            other,
            Part("after-lost", "plain", 5, 0.0),
            session_id=session_id_of(lost.seen),
            session_conflict=QUEUE,
        )
        await after_lost.until(started)
        waiting = run(
            doomed,
            Part("waiting", "plain", 5, 0.0),
            session_id=session_id_of(kept.seen),
            session_conflict=QUEUE,
        )
        await waiting.until(started)
        after_waiting = run(
            other,
            Part("after-w", "plain", 5, 0.0),
            session_id=session_id_of(kept.seen),
            session_conflict=QUEUE,
        )
        await after_waiting.until(started)
        assert [kind(each.seen[0]) for each in (after_lost, waiting, after_waiting)] == ["run_queued"] * 3
        assert [each.seen[0].run_queued.position for each in (after_lost, waiting, after_waiting)] == [
            1,
            1,
            2,
        ]
        await servers[0].kill()
        killed = time.monotonic()
        for run_id in (run_id_of(lost.seen), run_id_of(waiting.seen)):
            events = await attach(other, run_id).end()
            assert time.monotonic() - killed < NOTICED
            assert_whole(events)
            assert is_abandoned(events[-1])
        for follower in (after_lost, kept, after_waiting):
            assert_whole(await follower.end())
            assert kind(follower.seen[-1]) == "run_completed"
        # What waited there was never begun.
        assert not model.of(Part("waiting", "plain", 5, 0.0))
        begun = [asked.part for asked in model.asked]
        assert sorted(begun) == ["after-lost", "after-w", "kept", "lost"]
        assert begun.index("kept") < begun.index("after-w")


async def test_paused_runs_stay_and_are_continued_elsewhere(url: str, tmp_path: Path) -> None:
    async with (
        fleet(url, tmp_path, 2) as (servers, _),
        stubs(servers[0].address) as doomed,
        stubs(servers[1].address) as other,
    ):
        paused = await ask(doomed, "careful", "Erase all.").end()
        assert kind(paused[-1]) == "run_paused"
        run_id, session_id = run_id_of(paused), session_id_of(paused)
        running = run(doomed, Part("lost", "plain", 2000, 0.02))
        await running.until(started)
        await servers[0].kill()
        # When the other one has been noticed, this one would have been, too.
        assert is_abandoned((await attach(other, run_id_of(running.seen)).end())[-1])
        await asyncio.sleep(1)
        assert (await get(other, run_id)).status == run_service_pb2.RUN_STATUS_PAUSED
        assert await active_run(other, session_id) == run_id
        assert_same(await attach(other, run_id).end(), paused)
        yes = run_service_pb2.Resolution(
            requirement_id=paused[-1].run_paused.requirements[0].id,
            confirmation=run_service_pb2.Confirmation(confirmed=True),
        )
        request = run_service_pb2.ContinueRunRequest(
            run_id=run_id, resolutions=[yes], detail=run_service_pb2.EVENT_DETAIL_ALL
        )
        rest = await Follower(other.runs.ContinueRun(request)).end()
        assert_whole(rest, after=paused[-1].sequence)
        assert rest[-1].run_completed.content == "Shall I? Done: all is erased."
        assert await active_run(other, session_id) == ""
        # Killed where it was paused and continued elsewhere, it was billed once.
        usage = rest[-1].run_completed.usage
        assert (usage.input_tokens, usage.output_tokens) == (30, 10)
        assert rest[-1].run_completed.model_calls == 2
