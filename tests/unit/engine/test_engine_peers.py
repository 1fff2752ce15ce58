"""Runs followed and ended through another process, on one database: nothing is lost or doubled wherever one comes in."""

import asyncio
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.examples import on_one_fixture

from dragoman.engine.watch import StoredRun
from dragoman.errors import RunNotFound
from dragoman.records import Owner, Run, RunStatus
from dragoman.v1 import event_pb2

from .engine_fakes import (
    OWNER,
    Remember,
    Script,
    ScriptedRunner,
    Spend,
    assert_whole,
    kinds,
    text,
    tool,
    until,
    watch,
)
from .engine_processes import Cluster, Door, cluster_on

BUSY = (text("one "), tool("a"), text("two "), tool("b"), text("three"), tool("c"))


async def test_a_run_is_followed_elsewhere_from_every_sequence_while_it_goes_on_and_when_it_has_ended(
    cluster: Cluster,
) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(*BUSY, gate.wait, *BUSY), flush_interval=0)
    live = await here.start()
    own = asyncio.create_task(watch(live))
    await until(lambda: stored(here.door, live.run_id, 7))
    during = [asyncio.create_task(there.watch(live.run_id, after)) for after in range(9)]
    await asyncio.sleep(0)
    gate.set()
    whole = await own
    assert_whole(whole)
    for after, follower in enumerate(during):
        assert await follower == whole[after:]
    for after in range(len(whole) + 2):
        assert await there.watch(live.run_id, after) == whole[after:]
        assert await here.watch(live.run_id, after) == whole[after:]
    assert (await (await there.attach(live.run_id)).wait()).status is RunStatus.COMPLETED


async def stored(door: Door, run_id: object, last_sequence: int) -> bool:
    [run] = [run for run in await door.runs() if run.id == run_id]
    return run.last_sequence >= last_sequence


@on_one_fixture(12, database=None)
@given(
    pauses=st.lists(st.sampled_from([0.0, 0.003, 0.02, 0.07]), min_size=5, max_size=20),
    followers=st.lists(
        st.tuples(st.sampled_from([0.0, 0.01, 0.05, 0.1]), st.integers(0, 12)), min_size=1, max_size=6
    ),
    connected=st.booleans(),
)
def test_no_event_is_lost_or_doubled_at_the_seam(
    tmp_path_factory: pytest.TempPathFactory,
    pauses: list[float],
    followers: list[tuple[float, int]],
    connected: bool,
) -> None:
    """However fast the run is, wherever and whenever one comes in."""

    async def scenario() -> None:
        steps: list[object] = []
        for number, seconds in enumerate(pauses):

            async def rest(seconds: float = seconds) -> None:
                await asyncio.sleep(seconds)

            steps += [tool(str(number)), text("x"), rest]
        url = f"sqlite:///{tmp_path_factory.mktemp('seam')}/dragoman.db"
        async with cluster_on(url, connected=connected) as cluster:
            here, there = await cluster.two(ScriptedRunner(*steps))
            live = await here.start()

            async def follow(delay: float, after: int) -> list[event_pb2.RunEvent]:
                await asyncio.sleep(delay)
                return await there.watch(live.run_id, after)

            seen = [asyncio.create_task(follow(delay, after)) for delay, after in followers]
            whole = await watch(live)
            assert_whole(whole)
            for task, (_, after) in zip(seen, followers, strict=True):
                assert await task == whole[after:]

    asyncio.run(scenario())


async def test_a_signal_saves_followers_the_wait_for_the_next_look(database_url: str) -> None:
    gate = asyncio.Event()
    async with cluster_on(database_url, connected=True) as cluster:
        here, there = await cluster.two(ScriptedRunner(gate.wait, text("a")), poll_interval=600.0)
        live = await here.start()
        followed = await there.attach(live.run_id)
        follower = asyncio.create_task(watch(followed))
        await until(lambda: there.door.calls["progress"] >= 1)  # the next look is ten minutes away
        gate.set()
        assert_whole(await follower)
        cancelled = await here.start()
        assert (await there.cancel(cancelled.run_id)).status.final


async def test_who_waits_for_an_end_elsewhere_learns_of_one_that_came_before_he_waited(
    database_url: str,
) -> None:
    """Between the moment when the run was seen, and the one from which on it is watched, a signal reaches nobody."""
    gate = asyncio.Event()
    async with cluster_on(database_url, connected=True) as cluster:
        here, there = await cluster.two(ScriptedRunner(gate.wait, text("a")), poll_interval=600.0)
        # Somebody watches something already: the next look is ten minutes away.
        other = await here.start()
        follower = asyncio.create_task(there.watch(other.run_id))
        await until(lambda: there.door.calls["progress"] >= 1)
        live = await here.start()
        ask = there.door.store.request_cancel

        async def late(*wish: Any) -> Run:
            seen = await ask(*wish)
            gate.set()
            await until(lambda: ended(here.door, live.run_id))
            await asyncio.sleep(0.1)
            return seen

        there.door.__dict__["request_cancel"] = late
        async with asyncio.timeout(30):
            assert (await there.cancel(live.run_id)).status is RunStatus.COMPLETED
            assert_whole(await follower)


async def ended(door: Door, run_id: UUID) -> bool:
    return (await door.run(run_id)).status.final


async def test_all_that_is_followed_costs_one_query_per_look(cluster: Cluster) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(gate.wait))
    runs = [await here.start() for _ in range(10)]
    followers = [asyncio.create_task(there.watch(live.run_id)) for live in runs]
    await until(lambda: len(there.engine._watcher._watches) == 10)
    looks, reads = there.door.calls["progress"], there.door.calls["read_events"]
    await until(lambda: there.door.calls["progress"] >= looks + 5)
    # Each may have had its first event to read; what does not move is not read.
    assert there.door.calls["read_events"] <= max(reads, 10) + 20
    gate.set()
    for follower in followers:
        assert_whole(await follower)
    assert there.engine._watcher._watches == {}


async def test_a_follower_elsewhere_who_leaves_leaves_nothing(cluster: Cluster) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(text("a"), gate.wait))
    live = await here.start(cancel_on_disconnect=True)
    followed = await there.attach(live.run_id)
    followed.join()
    events = followed.events(0)
    assert (await anext(events)).HasField("run_started")
    await events.aclose()
    followed.leave()
    assert there.engine._watcher._watches == {}
    assert (await here.door.run(live.run_id)).status is RunStatus.RUNNING
    gate.set()
    assert_whole(await watch(live))


async def test_another_owner_learns_nothing_anywhere(cluster: Cluster) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(gate.wait))
    live = await here.start()
    for process in (here, there):
        with pytest.raises(RunNotFound):
            await process.engine.attach(Owner("somebody else"), live.run_id)
        with pytest.raises(RunNotFound):
            await process.engine.cancel(Owner("local", "a user"), live.run_id, by="x", note="")
    gate.set()
    assert kinds(await watch(live))[-1] == "run_completed"


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(Script(asyncio.Event().wait), id="before-its-first-event"),
        pytest.param(Script(Remember(), text("half"), asyncio.Event().wait), id="inside-the-agent"),
        pytest.param(Script(text("half"), Spend(7, reports=(3,), hangs=True)), id="inside-a-call"),
    ],
)
async def test_a_run_is_ended_from_another_process_with_what_it_had(cluster: Cluster, script: Script) -> None:
    runner = ScriptedRunner(hello=Script(*_fresh(script.steps)))
    here, there = await cluster.two(runner)
    live = await here.start()
    await until(lambda: bool(runner.begun))
    content = "half" if any(isinstance(step, event_pb2.RunEvent) for step in script.steps) else ""
    await until(lambda: runner.begun[0].outcome().content == content)
    if any(isinstance(step, Spend) for step in script.steps):
        await until(lambda: bool(runner.begun[0].outcome().calls))
        await until(lambda: bool(runner.begun[0].outcome().calls[0].usage.total_tokens))
    followers = [asyncio.create_task(process.watch(live.run_id)) for process in (here, there)]
    first, second = await asyncio.gather(
        there.cancel(live.run_id, note="enough"), there.cancel(live.run_id, note="enough")
    )
    assert first == second
    assert first.status is RunStatus.CANCELLED
    whole, same = [await follower for follower in followers]
    assert whole == same
    assert_whole(whole)
    cancelled = whole[-1].run_cancelled
    assert (cancelled.reason, cancelled.cancelled_by, cancelled.note, cancelled.content) == (
        event_pb2.CANCEL_REASON_CALLER,
        "local",
        "enough",
        content,
    )
    assert [cancelled.usage.output_tokens] == (await here.door.bill(live.run_id) or [0])
    assert list(cancelled.message_ids) == await here.door.messages(live.run_id)
    assert runner.begun[0].stopped
    assert await here.door.free(live.session_id)
    again = await there.cancel(live.run_id, note="too late")
    assert again == first


def _fresh(steps: tuple[object, ...]) -> list[object]:
    """Without events of another loop."""
    forever = asyncio.Event()
    return [forever.wait if callable(step) and not isinstance(step, Spend) else step for step in steps]


async def test_a_cancel_that_loses_against_the_end_changes_nothing(cluster: Cluster) -> None:
    here, there = await cluster.two(ScriptedRunner(text("done")))
    live = await here.start()
    whole = await watch(live)
    ended = await there.cancel(live.run_id, note="too late")
    assert ended.status is RunStatus.COMPLETED
    assert await here.door.log(live.run_id) == whole


async def test_an_outage_there_delays_its_followers_and_ends_neither_them_nor_the_run(
    cluster: Cluster,
) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(text("a"), gate.wait, tool("1"), text("b")))
    live = await here.start()
    followed = await there.attach(live.run_id)
    assert isinstance(followed, StoredRun)
    follower = asyncio.create_task(watch(followed))
    await until(lambda: there.door.calls["read_events"] >= 2)
    there.door.fail("progress")
    looks = there.door.calls["progress"]
    # Not before a look has failed: one that was under way may still see the end.
    await until(lambda: there.door.calls["progress"] >= looks + 2)
    gate.set()
    whole = await watch(live)
    looks = there.door.calls["progress"]
    await until(lambda: there.door.calls["progress"] >= looks + 3)
    assert not follower.done()
    del there.door.traps["progress"]
    assert await follower == whole


async def test_a_run_that_is_deleted_while_it_is_followed_elsewhere_is_not_found(cluster: Cluster) -> None:
    gate = asyncio.Event()
    here, there = await cluster.two(ScriptedRunner(text("a"), gate.wait))
    live = await here.start()
    followed = await there.attach(live.run_id)
    events = followed.events(0)
    await anext(events)
    waiting = asyncio.create_task(followed.wait())
    looks = there.door.hold("progress")
    gate.set()
    await watch(live)
    await here.door.store.delete_session(OWNER, live.session_id)
    looks.set()
    with pytest.raises(RunNotFound):
        [event async for event in events]
    with pytest.raises(RunNotFound):
        await waiting
