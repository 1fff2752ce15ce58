"""Small servers of the generated services, on free loopback ports, for the client to talk to."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import code_pb2, status_pb2
from grpc_status import rpc_status
from support.statuses import status

from dragoman.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    event_pb2,
    message_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"

RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
SESSION_ID = "01890a5d-ac96-774b-bcce-b302099a8058"


class Agents(agent_service_pb2_grpc.AgentServiceServicer):
    """Two agents; `failures` are raised first, one per call."""

    def __init__(self) -> None:
        self.failures: list[grpc.StatusCode | status_pb2.Status] = []
        self.calls = 0
        self.metadata: dict[str, str | bytes] = {}
        self.remaining: float | None = None

    async def ListAgents(
        self, request: agent_service_pb2.ListAgentsRequest, context: Context
    ) -> agent_service_pb2.ListAgentsResponse:
        self.calls += 1
        self.metadata = dict(context.invocation_metadata() or ())
        self.remaining = context.time_remaining()
        if self.failures:
            failure = self.failures.pop(0)
            if isinstance(failure, grpc.StatusCode):
                await context.abort(failure, "not now")
            await context.abort_with_status(rpc_status.to_status(failure))
        names = ("example", "toolbox")
        return agent_service_pb2.ListAgentsResponse(
            agents=[agent_service_pb2.Agent(name=name) for name in names]
        )

    async def GetAgent(
        self, request: agent_service_pb2.GetAgentRequest, context: Context
    ) -> agent_service_pb2.GetAgentResponse:
        return agent_service_pb2.GetAgentResponse(agent=agent_service_pb2.Agent(name=request.name))


MEDIA_ID = "ab" * 32
MEDIUM = bytes(range(30))


class Sessions(session_service_pb2_grpc.SessionServiceServicer):
    """Echoes what it is asked; lists of five, two to a page."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.failures: list[grpc.StatusCode] = []
        self.media_requests: list[session_service_pb2.GetMediaRequest] = []
        self.media_peers: list[str] = []
        self.media_break = -1
        """At which byte the first stream of a medium breaks."""
        self.media_failure = status(code_pb2.UNAVAILABLE, "")
        """With what it does."""

    async def CreateSession(
        self, request: session_service_pb2.CreateSessionRequest, context: Context
    ) -> session_service_pb2.CreateSessionResponse:
        self.requests.append(request)
        if self.failures:
            await context.abort(self.failures.pop(0), "not now")
        session = session_service_pb2.Session(
            id=SESSION_ID,
            agent_name=request.agent_name,
            title=request.title,
            inputs=request.inputs,
            metadata=request.metadata,
        )
        return session_service_pb2.CreateSessionResponse(session=session)

    async def GetSession(
        self, request: session_service_pb2.GetSessionRequest, context: Context
    ) -> session_service_pb2.GetSessionResponse:
        session = session_service_pb2.Session(id=request.session_id)
        return session_service_pb2.GetSessionResponse(session=session)

    async def ListSessions(
        self, request: session_service_pb2.ListSessionsRequest, context: Context
    ) -> session_service_pb2.ListSessionsResponse:
        self.requests.append(request)
        first = int(request.page_token or 0)
        return session_service_pb2.ListSessionsResponse(
            sessions=[session_service_pb2.Session(id=str(at)) for at in range(first, min(first + 2, 5))],
            next_page_token=str(first + 2) if first + 2 < 5 else "",
        )

    async def UpdateSession(
        self, request: session_service_pb2.UpdateSessionRequest, context: Context
    ) -> session_service_pb2.UpdateSessionResponse:
        self.requests.append(request)
        if self.failures:
            await context.abort(self.failures.pop(0), "not now")
        session = session_service_pb2.Session(id=request.session_id, title=request.title)
        return session_service_pb2.UpdateSessionResponse(session=session)

    async def DeleteSession(
        self, request: session_service_pb2.DeleteSessionRequest, context: Context
    ) -> session_service_pb2.DeleteSessionResponse:
        self.requests.append(request)
        if self.failures:
            await context.abort(self.failures.pop(0), "not now")
        return session_service_pb2.DeleteSessionResponse()

    async def ListMessages(
        self, request: session_service_pb2.ListMessagesRequest, context: Context
    ) -> session_service_pb2.ListMessagesResponse:
        self.requests.append(request)
        return session_service_pb2.ListMessagesResponse(messages=[message_pb2.Message(content="hello")])

    async def GetMedia(
        self, request: session_service_pb2.GetMediaRequest, context: Context
    ) -> AsyncIterator[session_service_pb2.GetMediaResponse]:
        self.media_requests.append(request)
        self.media_peers.append(context.peer())
        if request.media_id != MEDIA_ID:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such medium")
        yield session_service_pb2.GetMediaResponse(media=message_pb2.Media(id=MEDIA_ID))
        for offset in range(request.offset, len(MEDIUM), 4):
            if offset == self.media_break and len(self.media_requests) == 1:
                await context.abort_with_status(rpc_status.to_status(self.media_failure))
            yield session_service_pb2.GetMediaResponse(data=MEDIUM[offset : offset + 4])


class Runs(run_service_pb2_grpc.RunServiceServicer):
    """Plays `events`; a `None` among them waits until the caller is gone."""

    def __init__(self) -> None:
        self.requests: list[object] = []
        self.events: list[event_pb2.RunEvent | None] = []
        self.failure: grpc.StatusCode | status_pb2.Status | None = None
        self.calls = 0
        self.remaining: float | None = None
        self.waiting = asyncio.Event()
        self.gone = asyncio.Event()

    async def Run(
        self, request: run_service_pb2.RunRequest, context: Context
    ) -> AsyncIterator[event_pb2.RunEvent]:
        self.calls += 1
        self.requests.append(request)
        self.remaining = context.time_remaining()
        try:
            for event in self.events:
                if event is None:
                    self.waiting.set()
                    await asyncio.Event().wait()
                else:
                    yield event
        except (asyncio.CancelledError, GeneratorExit):
            self.gone.set()
            raise
        if isinstance(self.failure, grpc.StatusCode):
            await context.abort(self.failure, "lost")
        elif self.failure is not None:
            await context.abort_with_status(rpc_status.to_status(self.failure))

    async def AttachRun(
        self, request: run_service_pb2.AttachRunRequest, context: Context
    ) -> AsyncIterator[event_pb2.RunEvent]:
        self.requests.append(request)
        for event in self.events:
            if event is not None and event.sequence > request.after_sequence:
                yield event

    async def ContinueRun(
        self, request: run_service_pb2.ContinueRunRequest, context: Context
    ) -> AsyncIterator[event_pb2.RunEvent]:
        self.requests.append(request)
        for event in self.events:
            if event is not None:
                yield event

    async def Execute(
        self, request: run_service_pb2.RunRequest, context: Context
    ) -> run_service_pb2.ExecuteResponse:
        self.requests.append(request)
        self.remaining = context.time_remaining()
        return run_service_pb2.ExecuteResponse(
            run=run_service_pb2.Run(id=RUN_ID, session_id=request.session_id), content="x" * 8_000_000
        )

    async def GetRun(
        self, request: run_service_pb2.GetRunRequest, context: Context
    ) -> run_service_pb2.GetRunResponse:
        return run_service_pb2.GetRunResponse(run=run_service_pb2.Run(id=request.run_id))

    async def ListRuns(
        self, request: run_service_pb2.ListRunsRequest, context: Context
    ) -> run_service_pb2.ListRunsResponse:
        self.requests.append(request)
        return run_service_pb2.ListRunsResponse(runs=[run_service_pb2.Run(id=RUN_ID)])

    async def CancelRun(
        self, request: run_service_pb2.CancelRunRequest, context: Context
    ) -> run_service_pb2.CancelRunResponse:
        self.requests.append(request)
        run = run_service_pb2.Run(id=request.run_id, status=run_service_pb2.RUN_STATUS_CANCELLED)
        return run_service_pb2.CancelRunResponse(run=run)


class Usage(usage_service_pb2_grpc.UsageServiceServicer):
    """Keeps the request and returns one group."""

    def __init__(self) -> None:
        self.requests: list[usage_service_pb2.QueryUsageRequest] = []

    async def QueryUsage(
        self, request: usage_service_pb2.QueryUsageRequest, context: Context
    ) -> usage_service_pb2.QueryUsageResponse:
        self.requests.append(request)
        return usage_service_pb2.QueryUsageResponse(
            groups=[usage_service_pb2.UsageGroup(agent_name="example")]
        )

    async def GetBudget(
        self, request: usage_service_pb2.GetBudgetRequest, context: Context
    ) -> usage_service_pb2.GetBudgetResponse:
        return usage_service_pb2.GetBudgetResponse(
            budgets=[usage_service_pb2.Budget(agent_name=request.agent_name)]
        )


class Services:
    """The four services and the address where they are served."""

    def __init__(self) -> None:
        self.agents, self.sessions, self.runs, self.usage = Agents(), Sessions(), Runs(), Usage()
        self.address = ""


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    """The services, being served."""
    async with AsyncExitStack() as stack:
        services = Services()
        server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(services.agents, server)
        session_service_pb2_grpc.add_SessionServiceServicer_to_server(services.sessions, server)
        run_service_pb2_grpc.add_RunServiceServicer_to_server(services.runs, server)
        usage_service_pb2_grpc.add_UsageServiceServicer_to_server(services.usage, server)
        services.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        await server.start()
        stop: Callable[[float | None], Awaitable[None]] = server.stop
        stack.push_async_callback(stop, None)
        yield services
