"""Callers that do everything in any order, with nonsense in between: what they were told is what is there afterwards."""

import tempfile
from pathlib import Path
from typing import Any

import grpc
from hypothesis import HealthCheck
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule
from support import nasty
from support.nasty import LONG_RUNS, bounded
from support.target import Target, judge, target

from dragoman.v1 import run_service_pb2 as runs_pb
from dragoman.v1 import session_service_pb2 as sessions_pb

PATHS = list(nasty.METHODS)
HARMLESS = [path for path in PATHS if not path.endswith(("/DeleteSession", "/CancelRun", "/ContinueRun"))]
"""Those of which nonsense cannot end what the machine has begun."""


class Callers(RuleBasedStateMachine):
    """Knows which sessions there must be, and how each run must stand."""

    sessions: Bundle[str] = Bundle("sessions")
    runs: Bundle[str] = Bundle("runs")
    server: Target

    def __init__(self) -> None:
        super().__init__()
        self.there: set[str] = set()
        self.busy: dict[str, str] = {}
        """The run that has a session's turn."""
        self.session_of: dict[str, str] = {}
        self.status: dict[str, int] = {}
        self.gone: set[str] = set()

    def said(self, call: Any) -> tuple[Any, str]:
        """The answer, or the reason why there is none."""

        async def ask() -> tuple[Any, str]:
            try:
                return await call, ""
            except grpc.aio.AioRpcError as error:
                return None, judge(error)

        return self.server.do(ask())

    @rule(target=sessions, agent=st.sampled_from(["echo", "asker", "waiter"]))
    def create(self, agent: str) -> str:
        request = sessions_pb.CreateSessionRequest(agent_name=agent)
        made, reason = self.said(self.server.stubs.sessions.CreateSession(request))
        assert not reason
        self.there.add(made.session.id)
        self.busy.pop(made.session.id, None)
        return f"{agent} {made.session.id}"

    @rule(target=runs, session=sessions)
    def run(self, session: str) -> str:
        """Begins a run, and leaves when it has ended, waits or will wait for ever."""
        agent, session_id = session.split()
        request = runs_pb.RunRequest(
            agent_name=agent, session_id=session_id, message="hello", detail=runs_pb.EVENT_DETAIL_ALL
        )
        first, reason = self.said(self._follow(self.server.stubs.runs.Run(request)))
        if session_id in self.gone:
            assert reason == "SESSION_NOT_FOUND"
            return nasty.RUN
        if session_id in self.busy:
            assert reason == "SESSION_BUSY"
            return self.busy[session_id]
        assert not reason
        run_id: str = first[0].run_started.run_id
        last = first[-1].WhichOneof("event")
        self.session_of[run_id] = session_id
        self.status[run_id] = {
            "run_completed": runs_pb.RUN_STATUS_COMPLETED,
            "run_paused": runs_pb.RUN_STATUS_PAUSED,
            "content_delta": runs_pb.RUN_STATUS_RUNNING,
        }[last]
        if self.status[run_id] != runs_pb.RUN_STATUS_COMPLETED:
            self.busy[session_id] = run_id
        return run_id

    @rule(run=runs)
    def attach(self, run: str) -> None:
        request = runs_pb.AttachRunRequest(run_id=run, detail=runs_pb.EVENT_DETAIL_ALL)
        events, reason = self.said(self._follow(self.server.stubs.runs.AttachRun(request)))
        if run not in self.status:
            assert reason == "RUN_NOT_FOUND"
            return
        assert not reason
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))

    @rule(run=runs)
    def cancel(self, run: str) -> None:
        answer, reason = self.said(self.server.stubs.runs.CancelRun(runs_pb.CancelRunRequest(run_id=run)))
        if run not in self.status:
            assert reason == "RUN_NOT_FOUND"
            return
        assert not reason
        if self.status[run] in (runs_pb.RUN_STATUS_RUNNING, runs_pb.RUN_STATUS_PAUSED):
            self._ends(run, runs_pb.RUN_STATUS_CANCELLED)
        assert answer.run.status == self.status[run]

    @rule(run=runs, confirmed=st.booleans())
    def continue_run(self, run: str, confirmed: bool) -> None:
        stored, _ = self.said(self.server.stubs.runs.GetRun(runs_pb.GetRunRequest(run_id=run)))
        answer = runs_pb.Confirmation(confirmed=confirmed)
        wanted = stored.run.paused.requirements if stored is not None else ()
        resolutions = [runs_pb.Resolution(requirement_id=each.id, confirmation=answer) for each in wanted]
        nothing = [runs_pb.Resolution(requirement_id=nasty.REQUIREMENT, confirmation=answer)]
        request = runs_pb.ContinueRunRequest(run_id=run, resolutions=resolutions or nothing)
        _, reason = self.said(self._follow(self.server.stubs.runs.ContinueRun(request)))
        status = self.status.get(run)
        if status == runs_pb.RUN_STATUS_PAUSED:
            assert not reason
            self._ends(run, runs_pb.RUN_STATUS_COMPLETED)
        else:
            assert reason == ("RUN_NOT_FOUND" if status is None else "RUN_NOT_PAUSED")

    @rule(session=consumes(sessions))
    def delete(self, session: str) -> None:
        _, session_id = session.split()
        request = sessions_pb.DeleteSessionRequest(session_id=session_id)
        _, reason = self.said(self.server.stubs.sessions.DeleteSession(request))
        if session_id in self.busy:
            assert reason == "SESSION_BUSY"
            return
        assert not reason
        self.there.discard(session_id)
        self.gone.add(session_id)
        for run in [run for run, where in self.session_of.items() if where == session_id]:
            del self.status[run]

    @rule(data=st.data(), path=st.sampled_from(PATHS))
    def nonsense(self, data: st.DataObject, path: str) -> None:
        """Of which the ids are those of the target, not of the machine."""
        drawn = data.draw(nasty.evil(path) | nasty.damaged(path))
        self.server.do(self.server.call(path, drawn))

    @invariant()
    def all_stands_as_it_was_told(self) -> None:
        for run, status in self.status.items():
            answer, _ = self.said(self.server.stubs.runs.GetRun(runs_pb.GetRunRequest(run_id=run)))
            assert answer.run.status == status
        for session_id in self.there:
            request = sessions_pb.GetSessionRequest(session_id=session_id)
            answer, _ = self.said(self.server.stubs.sessions.GetSession(request))
            assert answer.session.active_run_id == self.busy.get(session_id, "")

    def teardown(self) -> None:
        for run in list(self.busy.values()):
            self.cancel(run)
        for run in self.status:
            self.server.do(self.server.ended(run))
        self.server.do(self.server.settled())

    def _ends(self, run: str, status: int) -> None:
        self.status[run] = status
        del self.busy[self.session_of[run]]

    async def _follow(self, stream: Any) -> list[Any]:
        """Up to the end, or, of a run that has none, to its only word."""
        events = []
        async for event in stream:
            events.append(event)
            if event.content_delta.text == "Well, ":
                stream.cancel()
                break
        return events


def test_callers_of_any_kind() -> None:
    class OnOneServer(Callers):
        pass

    with tempfile.TemporaryDirectory() as directory, target(Path(directory)) as server:
        OnOneServer.server = server
        OnOneServer.TestCase.settings = bounded(
            12, stateful_step_count=60 if LONG_RUNS else 25, suppress_health_check=list(HealthCheck)
        )
        result = OnOneServer.TestCase()
        result.runTest()
