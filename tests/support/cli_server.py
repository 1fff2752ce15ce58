"""A server of the generated services that plays what a test tells it to, for the tests of the command line."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent import futures
from contextlib import contextmanager
from threading import Event

import grpc
from google.rpc import code_pb2, error_details_pb2, status_pb2
from google.type import money_pb2
from grpc_status import rpc_status
from support.statuses import status

from dragoman.v1 import (
    event_pb2,
    message_pb2,
    run_service_pb2,
    run_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
    usage_pb2,
    usage_service_pb2,
    usage_service_pb2_grpc,
)

RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
SESSION_ID = "01890a5d-ac96-774b-bcce-b302099a8058"
USAGE = usage_pb2.TokenUsage(input_tokens=1200, output_tokens=80, total_tokens=1280)
COST = usage_pb2.Cost(
    amount=money_pb2.Money(currency_code="ZAR", nanos=28_900_000),
    usd=money_pb2.Money(currency_code="USD", nanos=1_600_000),
    exact_amount="0.028900000000",
    exact_usd="0.001600000000",
)


def error(
    code: int,
    message: str,
    reason: str,
    *fields: tuple[str, str],
    metadata: Mapping[str, str] | None = None,
) -> status_pb2.Status:
    """A Status as the server makes it, with what is wrong with which fields."""
    violations = [
        error_details_pb2.BadRequest.FieldViolation(field=field, description=text) for field, text in fields
    ]
    bad = [error_details_pb2.BadRequest(field_violations=violations)] if fields else []
    return status(code, reason, *bad, message=message, **(metadata or {}))


def conversation(text: str) -> list[event_pb2.RunEvent]:
    """The events of a run that thinks, calls two tools, one of which fails, and answers `text` in two deltas."""
    call = message_pb2.ToolCall(id="t1", name="weather")
    call.arguments["city"] = "Paris"
    call.arguments["days"] = 3
    half = len(text) // 2
    return [
        event_pb2.RunEvent(
            run_started=event_pb2.RunStarted(run_id=RUN_ID, session_id=SESSION_ID, agent_name="example")
        ),
        event_pb2.RunEvent(reasoning_delta=event_pb2.ReasoningDelta(text="I think.")),
        event_pb2.RunEvent(tool_call_started=event_pb2.ToolCallStarted(tool_call=call)),
        event_pb2.RunEvent(
            tool_call_completed=event_pb2.ToolCallCompleted(
                tool_call_id="t1", tool_name="weather", result="17 degrees"
            )
        ),
        event_pb2.RunEvent(
            tool_call_failed=event_pb2.ToolCallFailed(
                tool_call_id="t2", tool_name="sensor", error="the tool failed"
            )
        ),
        event_pb2.RunEvent(content_delta=event_pb2.ContentDelta(text=text[:half])),
        event_pb2.RunEvent(content_delta=event_pb2.ContentDelta(text=text[half:])),
        event_pb2.RunEvent(
            run_completed=event_pb2.RunCompleted(content=text, usage=USAGE, cost=COST, model_calls=1)
        ),
    ]


class Services(
    session_service_pb2_grpc.SessionServiceServicer,
    run_service_pb2_grpc.RunServiceServicer,
    usage_service_pb2_grpc.UsageServiceServicer,
):
    """Plays what it is told to and keeps the requests."""

    def __init__(self) -> None:
        self.address = ""
        self.requests: list[object] = []
        self.plays: list[Sequence[event_pb2.RunEvent | None] | status_pb2.Status] = []
        """What each run is answered with: events, of which None waits for CancelRun, or an error."""
        self.cancelled = Event()
        self.runs: list[run_service_pb2.Run] = []
        self.groups: list[usage_service_pb2.UsageGroup] = []
        self.budgets: list[usage_service_pb2.Budget] = []
        self.messages: list[message_pb2.Message] = []

    def Run(
        self, request: run_service_pb2.RunRequest, context: grpc.ServicerContext
    ) -> Iterator[event_pb2.RunEvent]:
        yield from self._play(request, context)

    def AttachRun(
        self, request: run_service_pb2.AttachRunRequest, context: grpc.ServicerContext
    ) -> Iterator[event_pb2.RunEvent]:
        yield from self._play(request, context)

    def ContinueRun(
        self, request: run_service_pb2.ContinueRunRequest, context: grpc.ServicerContext
    ) -> Iterator[event_pb2.RunEvent]:
        yield from self._play(request, context)

    def _play(self, request: object, context: grpc.ServicerContext) -> Iterator[event_pb2.RunEvent]:
        self.requests.append(request)
        play = self.plays.pop(0)
        if isinstance(play, status_pb2.Status):
            context.abort_with_status(rpc_status.to_status(play))
        for event in play:
            if event is None:
                self.cancelled.wait(10)
            else:
                yield event

    def Execute(
        self, request: run_service_pb2.RunRequest, context: grpc.ServicerContext
    ) -> run_service_pb2.ExecuteResponse:
        return run_service_pb2.ExecuteResponse()

    def GetRun(
        self, request: run_service_pb2.GetRunRequest, context: grpc.ServicerContext
    ) -> run_service_pb2.GetRunResponse:
        for run in self.runs:
            if run.id == request.run_id:
                return run_service_pb2.GetRunResponse(run=run)
        context.abort_with_status(
            rpc_status.to_status(error(code_pb2.NOT_FOUND, "there is no run", "RUN_NOT_FOUND"))
        )
        raise AssertionError("abort raises")

    def ListRuns(
        self, request: run_service_pb2.ListRunsRequest, context: grpc.ServicerContext
    ) -> run_service_pb2.ListRunsResponse:
        self.requests.append(request)
        return run_service_pb2.ListRunsResponse(runs=self.runs)

    def CancelRun(
        self, request: run_service_pb2.CancelRunRequest, context: grpc.ServicerContext
    ) -> run_service_pb2.CancelRunResponse:
        self.requests.append(request)
        self.cancelled.set()
        return run_service_pb2.CancelRunResponse(run=run_service_pb2.Run(id=request.run_id))

    def CreateSession(
        self, request: session_service_pb2.CreateSessionRequest, context: grpc.ServicerContext
    ) -> session_service_pb2.CreateSessionResponse:
        self.requests.append(request)
        session = session_service_pb2.Session(id=SESSION_ID, agent_name=request.agent_name)
        return session_service_pb2.CreateSessionResponse(session=session)

    def GetSession(
        self, request: session_service_pb2.GetSessionRequest, context: grpc.ServicerContext
    ) -> session_service_pb2.GetSessionResponse:
        return session_service_pb2.GetSessionResponse()

    def ListSessions(
        self, request: session_service_pb2.ListSessionsRequest, context: grpc.ServicerContext
    ) -> session_service_pb2.ListSessionsResponse:
        return session_service_pb2.ListSessionsResponse()

    def UpdateSession(
        self, request: session_service_pb2.UpdateSessionRequest, context: grpc.ServicerContext
    ) -> session_service_pb2.UpdateSessionResponse:
        return session_service_pb2.UpdateSessionResponse()

    def DeleteSession(
        self, request: session_service_pb2.DeleteSessionRequest, context: grpc.ServicerContext
    ) -> session_service_pb2.DeleteSessionResponse:
        return session_service_pb2.DeleteSessionResponse()

    def ListMessages(
        self, request: session_service_pb2.ListMessagesRequest, context: grpc.ServicerContext
    ) -> session_service_pb2.ListMessagesResponse:
        self.requests.append(request)
        return session_service_pb2.ListMessagesResponse(messages=self.messages)

    def GetMedia(
        self, request: session_service_pb2.GetMediaRequest, context: grpc.ServicerContext
    ) -> Iterator[session_service_pb2.GetMediaResponse]:
        yield session_service_pb2.GetMediaResponse(data=b"PNG")
        yield session_service_pb2.GetMediaResponse(data=request.media_id[:4].encode())

    def QueryUsage(
        self, request: usage_service_pb2.QueryUsageRequest, context: grpc.ServicerContext
    ) -> usage_service_pb2.QueryUsageResponse:
        self.requests.append(request)
        return usage_service_pb2.QueryUsageResponse(groups=self.groups)

    def GetBudget(
        self, request: usage_service_pb2.GetBudgetRequest, context: grpc.ServicerContext
    ) -> usage_service_pb2.GetBudgetResponse:
        self.requests.append(request)
        return usage_service_pb2.GetBudgetResponse(budgets=self.budgets)


@contextmanager
def serving() -> Iterator[Services]:
    """The services, being served by threads: commands have event loops of their own."""
    services = Services()
    with futures.ThreadPoolExecutor(4) as threads:
        server = grpc.server(threads, options=[("grpc.so_reuseport", 0)])
        session_service_pb2_grpc.add_SessionServiceServicer_to_server(services, server)
        run_service_pb2_grpc.add_RunServiceServicer_to_server(services, server)
        usage_service_pb2_grpc.add_UsageServiceServicer_to_server(services, server)
        services.address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
        server.start()
        yield services
        server.stop(None).wait()
