"""Whatever callers do, in whatever order, to processes that come and go: what must be true of every run and session is true.

Two processes on one database are driven through starts, turns, pauses, cancels, crashes and stops. After each step the
store is looked at in one statement; at the end everything is cancelled, and every log, bill and follower is checked.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from dragoman.engine import elsewhere
from dragoman.engine.log import GAP
from dragoman.engine.ports import Meter, Outcome, RunOrder
from dragoman.engine.states import TRANSITIONS
from dragoman.errors import DragomanError, Draining, RunNotPaused, SessionBusy, TooManyRuns
from dragoman.records import Cancellation, Run, RunStatus, SessionConflict
from dragoman.storage import migrate, open_store
from dragoman.storage.tables import runs, sessions
from dragoman.v1 import event_pb2

from .engine_fakes import (
    ENDS,
    OWNER,
    Remember,
    Script,
    ScriptedRun,
    ScriptedRunner,
    Spend,
    complete,
    draft,
    going_on,
    kinds,
    numbers,
    pause,
    text,
    tool,
    until,
)
from .engine_processes import Door, Process, end_abandoned, engine_on

T = TypeVar("T")

HOLDS_TURN = {RunStatus.RUNNING, RunStatus.PAUSED}
OVERVIEW = sa.select(runs.c.id, runs.c.status, runs.c.session_id, sessions.c.active_run_id).join(
    sessions, sessions.c.id == runs.c.session_id
)


def _reachable() -> dict[RunStatus, set[RunStatus]]:
    """Where a run may be a while later."""
    reach = {status: {status} for status in RunStatus}
    for _ in RunStatus:
        for (status, _step), to in TRANSITIONS.items():
            for further in reach.values():
                if status in further:
                    further.add(to)
    return reach


REACHABLE = _reachable()


class Obedient(ScriptedRunner):
    """Its runs spend something, say something, and then wait to be told how to end."""

    def __init__(self) -> None:
        super().__init__()
        self.orders: dict[UUID, asyncio.Queue[str]] = {}

    def begin(self, order: RunOrder, meter: Meter) -> Any:
        told: list[str] = []
        orders = self.orders[order.run_id] = asyncio.Queue()

        async def obey() -> None:
            told.append(await orders.get())

        def finish(outcome: Outcome) -> None:
            (complete if told == ["complete"] else pause("next"))(outcome)

        steps = (Remember(), Spend(3), text("a"), tool("t"), text("b"), obey)
        run = ScriptedRun(Script(*steps, finish=finish), order, meter, self.pricer)
        self.begun.append(run)
        return run


@dataclass
class Follower:
    """One who follows a run, and what he was shown."""

    run_id: UUID
    after: int
    process: Process
    task: "asyncio.Task[None] | None" = None
    seen: list[event_pb2.RunEvent] = field(default_factory=list)
    error: DragomanError | None = None

    async def follow(self) -> None:
        try:
            async for event in (await self.process.attach(self.run_id)).events(self.after):
                self.seen.append(event)
        except DragomanError as error:
            self.error = error


class Machine(RuleBasedStateMachine):
    """See the module."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.Runner()
        self.folder = Path(tempfile.mkdtemp(prefix="dragoman-test-"))
        self.url = f"sqlite:///{self.folder}/dragoman.db"
        migrate(self.url)
        self.processes = [self.do(self.opened()) for _ in range(2)]
        self.gone: list[Process] = []
        self.sessions: list[UUID] = []
        self.runs: list[UUID] = []
        self.followers: list[Follower] = []
        self.stands: dict[UUID, RunStatus] = {}

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run(work)

    async def opened(self) -> Process:
        store = open_store(self.url, sqlite_synchronous="NORMAL")
        await store.open()
        door, runner = Door(store), Obedient()
        engine = engine_on(runner, door, max_queued_runs=3)
        await engine.open()
        return Process(engine, door, runner)

    def run_at(self, which: int) -> UUID:
        return self.runs[which % len(self.runs)]

    # What happens

    @precondition(lambda self: len(self.sessions) < 2)
    @rule(at=st.integers(0, 1))
    def start(self, at: int) -> None:
        live = self.do(self.processes[at].start())
        self.sessions.append(live.session_id)
        self.runs.append(live.run_id)

    @precondition(lambda self: self.sessions and len(self.runs) < 12)
    @rule(at=st.integers(0, 1), which=st.integers(0, 1), conflict=st.sampled_from(SessionConflict))
    def start_in_session(self, at: int, which: int, conflict: SessionConflict) -> None:
        async def work() -> None:
            process = self.processes[at]
            session = await process.door.session(self.sessions[which % len(self.sessions)])
            live = await process.engine.start(draft(session, conflict=conflict))
            self.runs.append(live.run_id)

        if conflict is SessionConflict.INTERRUPT:
            self.do(work())
        else:
            with suppress(SessionBusy, TooManyRuns):
                self.do(work())

    @precondition(lambda self: self.runs)
    @rule(at=st.integers(0, 1), which=st.integers(0, 11), after=st.integers(0, 8))
    def attach(self, at: int, which: int, after: int) -> None:
        async def work() -> None:
            follower = Follower(self.run_at(which), after, self.processes[at])
            follower.task = asyncio.create_task(follower.follow())
            self.followers.append(follower)
            await asyncio.sleep(0.01)

        self.do(work())

    @precondition(lambda self: self.runs)
    @rule(which=st.integers(0, 11), word=st.sampled_from(["complete", "pause"]))
    def tell(self, which: int, word: str) -> None:
        async def work() -> None:
            run_id = self.run_at(which)
            for process in self.processes:
                assert isinstance(process.runner, Obedient)
                live = process.engine._live.get(run_id)
                if live is not None and (segments := process.runner.of(run_id)) and not segments[-1].closed:
                    process.runner.orders[run_id].put_nowait(word)
                    await until(lambda live=live: live._ended.done())  # type: ignore[misc]

        self.do(work())

    @precondition(lambda self: self.runs)
    @rule(at=st.integers(0, 1), which=st.integers(0, 11))
    def cancel(self, at: int, which: int) -> None:
        run = self.do(self.processes[at].cancel(self.run_at(which)))
        assert run.status.final

    @precondition(lambda self: self.runs)
    @rule(at=st.integers(0, 1), which=st.integers(0, 11), twice=st.booleans())
    def go_on(self, at: int, which: int, twice: bool) -> None:
        async def work() -> None:
            run = await self.processes[at].door.run(self.run_at(which))
            wanted = going_on(run, run.last_sequence)
            asked = [self.processes[at], self.processes[1 - at]][: 1 + twice]
            results = await asyncio.gather(
                *[process.engine.resume(wanted) for process in asked], return_exceptions=True
            )
            refused = [result for result in results if isinstance(result, BaseException)]
            assert all(isinstance(result, RunNotPaused) for result in refused), refused
            assert len(refused) >= len(results) - 1

        self.do(work())

    @precondition(lambda self: self.runs)
    @rule(at=st.integers(0, 1), which=st.integers(0, 11))
    def expire(self, at: int, which: int) -> None:
        async def work() -> None:
            process = self.processes[at]
            run = await process.door.run(self.run_at(which))
            if run.status is RunStatus.PAUSED:
                expired = Cancellation(event_pb2.CANCEL_REASON_EXPIRED)
                end = elsewhere.end_paused(process.engine._store, run, expired)
                await process.engine._keeper._end(run, "expired", end)

        self.do(work())

    @rule(at=st.integers(0, 1))
    def crash(self, at: int) -> None:
        async def work() -> None:
            dead, peer = self.processes[at], self.processes[1 - at]
            held = list(dead.engine._live)
            await dead.crash()
            await self.leave(dead)
            for run_id in held:
                await end_abandoned(peer.door, run_id)

        self.do(work())

    @rule(at=st.integers(0, 1))
    def stop(self, at: int) -> None:
        async def work() -> None:
            process = self.processes[at]
            await process.engine.close()
            await self.leave(process)

        self.do(work())

    async def leave(self, process: Process) -> None:
        """The process is gone, with those who followed through it; another one takes its place."""
        for follower in self.followers:
            if follower.process is process and follower.task is not None:
                if process.crashed:
                    follower.task.cancel()
                await asyncio.wait({follower.task}, timeout=30)
                assert follower.task.done()
        await process.door.store.close()
        self.gone.append(process)
        self.processes[self.processes.index(process)] = await self.opened()

    # What is always true

    @invariant()
    def turns_are_kept(self) -> None:
        async def look() -> list[Any]:
            database = self.processes[0].door.store._database
            return list(await database.read(lambda connection: connection.execute(OVERVIEW).all()))

        rows = self.do(look())
        for session_id in self.sessions:
            of_session = [row for row in rows if row.session_id == session_id]
            holding = [row.id for row in of_session if RunStatus(row.status) in HOLDS_TURN]
            active = of_session[0].active_run_id
            assert holding == ([] if active is None else [active]), of_session
        for row in rows:
            status = RunStatus(row.status)
            assert status in REACHABLE[self.stands.get(row.id, RunStatus.QUEUED)]
            self.stands[row.id] = status

    def teardown(self) -> None:
        try:
            self.do(self.settle())
        finally:
            self.do(self.close())
            self.loop.close()
            shutil.rmtree(self.folder)

    async def close(self) -> None:
        for process in self.processes:
            await process.engine.close()
            await process.door.store.close()

    async def settle(self) -> None:
        process = self.processes[0]
        for run_id in self.runs[::-1]:
            assert (await process.cancel(run_id)).status.final
        following = [follower.task for follower in self.followers if follower.task is not None]
        if following:
            _, left = await asyncio.wait(following, timeout=30)
            assert not left
        for session_id in self.sessions:
            assert await process.door.free(session_id)
        for run_id in self.runs:
            await self.check(process.door, await process.door.run(run_id))

    async def check(self, door: Door, run: Run) -> None:
        log = await door.log(run.id)
        assert [kind for kind in kinds(log) if kind in ENDS] == [kinds(log)[-1]]
        assert log[-1].SerializeToString() == run.last_event
        assert log[-1].sequence == run.last_sequence
        abandoned = log[-1].run_cancelled.reason == event_pb2.CANCEL_REASON_ABANDONED
        last = len(log) - 1 + GAP if abandoned else len(log)
        assert numbers(log) == [*range(1, len(log)), last]
        # Every call is in the ledger once; of those of a crashed process the last moment may be missing.
        everywhere = [*self.processes, *self.gone]
        made = {
            one.id for p in everywhere for run_of in p.runner.of(run.id) for one in run_of.outcome().calls
        }
        booked = [one.id for one in await door.store.run_calls(OWNER, run.id)]
        assert len(booked) == len(set(booked)) == run.totals.model_calls
        assert set(booked) <= made
        assert abandoned or set(booked) == made
        end = log[-1].run_completed if log[-1].HasField("run_completed") else log[-1].run_cancelled
        assert list(end.message_ids) == await door.messages(run.id)
        stored = {event.sequence: event for event in log}
        for follower in self.followers:
            if follower.run_id == run.id:
                self.check_view(follower, stored, abandoned=abandoned)

    def check_view(
        self, follower: Follower, stored: dict[int, event_pb2.RunEvent], *, abandoned: bool
    ) -> None:
        """What he saw is the log from where he began: no gap, nothing twice, no other event under a number of the log."""
        last = max(stored)
        seen = follower.seen
        steady = numbers(seen[:-1] if seen and seen[-1].sequence == last else seen)
        assert steady == list(range(follower.after + 1, follower.after + 1 + len(steady)))
        for event in seen:
            # Ahead of the store when the process died: a number that is never used again.
            assert stored.get(event.sequence) == event or (abandoned and event.sequence < last)
        left_early = follower.process.crashed or isinstance(follower.error, Draining)
        assert follower.error is None or left_early
        if not left_early and seen and "run_paused" not in kinds(seen):
            assert seen[-1] == stored[last]


Machine.TestCase.settings = settings(
    max_examples=15,
    stateful_step_count=14,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

TestRuns = Machine.TestCase
