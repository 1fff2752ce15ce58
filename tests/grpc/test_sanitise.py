"""Whatever goes wrong inside, a caller sees a typed status, and the log has the rest."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any
from uuid import UUID

import grpc
import pytest
from support.fake_ports import Step, completed, delta
from support.served import Served, bare, refusal, serve, stream_of, unary_of, until

from dragoman.errors import Draining, SessionBusy, StorageUnavailable, TooManyRuns
from dragoman.v1 import agent_service_pb2, event_pb2, run_service_pb2, session_service_pb2

SECRET = "password=hunter2 at /etc/passwd"
RUN = run_service_pb2.RunRequest(agent_name="plain", message="hi")
LIST = session_service_pb2.ListSessionsRequest()


async def test_an_exploding_call_tells_an_incident_and_no_more(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    served.store.broken = RuntimeError(SECRET)
    with caplog.at_level(logging.ERROR), pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.sessions.ListSessions(LIST)
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason) == ("INTERNAL", "INTERNAL")
    assert SECRET not in str(caught.value)
    logged = [record for record in caplog.records if getattr(record, "incident_id", "")]
    assert [record.incident_id for record in logged] == [refused.metadata["incident_id"]]  # type: ignore[attr-defined]  # set by extra=
    assert logged[0].exc_info is not None
    assert refused.metadata["incident_id"] in refused.message


async def test_a_stream_that_explodes_keeps_what_was_sent(served: Served) -> None:
    served.engine.script = (delta("a"), delta("b"), RuntimeError(SECRET))
    call = served.runs.Run(RUN)
    events = aiter(call)
    assert [(await anext(events)).content_delta.text for _ in range(2)] == ["a", "b"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await anext(events)
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason) == ("INTERNAL", "INTERNAL")
    assert SECRET not in str(caught.value)


async def test_an_exit_ends_the_call_and_not_the_server(served: Served) -> None:
    served.engine.refusal = SystemExit(3)  # type: ignore[assignment]  # what an agent's validation may let out
    for call in (lambda: served.runs.Execute(RUN), lambda: _drain(served.runs.Run(RUN))):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call()
        assert (await refusal(caught.value)).reason == "INTERNAL"
    served.engine.refusal = None
    assert (await served.runs.Execute(RUN)).content == "hello"


LEAKS: list[tuple[str, Sequence[Step]]] = [
    ("before the first event", (asyncio.CancelledError,)),
    ("later", (delta("a"), asyncio.CancelledError)),
]


@pytest.mark.parametrize("script", [leak[1] for leak in LEAKS], ids=[leak[0] for leak in LEAKS])
async def test_a_cancel_that_is_not_the_calls_does_not_hang_the_caller(
    served: Served, script: Sequence[Step]
) -> None:
    served.engine.script = script
    for call in (
        lambda: served.runs.Execute(RUN, timeout=20),
        lambda: _drain(served.runs.Run(RUN, timeout=20)),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call()
        assert (await refusal(caught.value)).reason == "INTERNAL"


async def _drain(call: Any) -> list[event_pb2.RunEvent]:
    return [event async for event in call]


REFUSALS = [
    (TooManyRuns(7), "RESOURCE_EXHAUSTED", {"ErrorInfo", "QuotaFailure", "RetryInfo"}),
    (StorageUnavailable(), "UNAVAILABLE", {"ErrorInfo", "RetryInfo"}),
    (Draining(), "UNAVAILABLE", {"ErrorInfo", "RetryInfo"}),
    (SessionBusy("s", "r"), "FAILED_PRECONDITION", {"ErrorInfo", "RetryInfo"}),
]


@pytest.mark.parametrize(("error", "code", "details"), REFUSALS, ids=[str(r[0].reason) for r in REFUSALS])
async def test_errors_of_the_engine_are_typed(
    served: Served, error: Any, code: str, details: set[str]
) -> None:
    served.engine.refusal = error
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _drain(served.runs.Run(RUN))
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason, refused.message) == (code, error.reason, error.message)
    assert {type(detail).__name__ for detail in refused.details} == details


async def test_an_error_in_the_middle_of_a_stream_is_typed(served: Served) -> None:
    served.engine.script = (delta("a"), Draining())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _drain(served.runs.Run(RUN))
    assert (await refusal(caught.value)).reason == "DRAINING"


@pytest.mark.parametrize(
    "body", [b"\xff\xff\xff", b"\x0a\x02\xff\xfe", b"\x0a\x7f"], ids=["no message", "no UTF-8", "cut off"]
)
async def test_a_request_that_cannot_be_read(served: Served, body: bytes) -> None:
    for path in ("AgentService/GetAgent", "RunService/Execute"):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await unary_of(served.channel, f"/dragoman.v1.{path}")(body)
        refused = await refusal(caught.value)
        assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "INVALID_INPUT")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await _drain(stream_of(served.channel, "/dragoman.v1.RunService/Run")(body))
    assert (await refusal(caught.value)).reason == "INVALID_INPUT"


async def test_an_unknown_method_is_unimplemented(served: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await unary_of(served.channel, "/dragoman.v1.RunService/Teleport")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_an_interceptor_that_raises_is_sanitised_as_well() -> None:
    class Exploding(grpc.aio.ServerInterceptor):
        async def intercept_service(
            self, continuation: Callable[[Any], Awaitable[Any]], handler_call_details: Any
        ) -> Any:
            raise RuntimeError(SECRET)

    async def unreached(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"no"

    async with bare(unreached, Exploding()) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await _drain(stream_of(channel, "/test.Test/Stream")(b""))
    assert (await refusal(caught.value)).reason == "INTERNAL"
    assert SECRET not in str(caught.value)


async def test_an_abort_of_a_handler_stays_as_it_is() -> None:
    async def aborting(request: bytes, context: Any) -> AsyncIterator[bytes]:
        yield b"one"
        await context.abort(grpc.StatusCode.DATA_LOSS, "as I said")

    async with bare(aborting) as channel:
        call = stream_of(channel, "/test.Test/Stream")(b"")
        assert await call.read() == b"one"
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.DATA_LOSS, "as I said")


IDS = [
    ("own", "job-17:step/3@host", True),
    ("empty", "", False),
    ("long", "x" * 129, False),
    ("with spaces", "a b", False),
    ("with quotes", '{"a":1}', False),
]


@pytest.mark.parametrize(("sent", "kept"), [case[1:] for case in IDS], ids=[case[0] for case in IDS])
async def test_the_request_id_goes_back_with_every_answer(served: Served, sent: str, kept: bool) -> None:
    metadata = (("x-request-id", sent),)
    unary = served.agents.ListAgents(agent_service_pb2.ListAgentsRequest(), metadata=metadata)
    stream = served.runs.Run(RUN, metadata=metadata)
    await unary
    await _drain(stream)
    answers = [(await unary.initial_metadata()), (await stream.initial_metadata())]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.agents.GetAgent(agent_service_pb2.GetAgentRequest(), metadata=metadata)
    answers.append(caught.value.trailing_metadata())
    for answer in answers:
        told = answer["x-request-id"]
        assert (told == sent) is kept
        assert kept or UUID(str(told)).version == 7


async def test_every_call_is_logged_once(served: Served, caplog: pytest.LogCaptureFixture) -> None:
    metadata = (("x-request-id", "logged"),)
    served.engine.script = (delta("the prompt"), completed("the answer"))
    with caplog.at_level(logging.INFO):
        await _drain(served.runs.Run(RUN, metadata=metadata))
        with pytest.raises(grpc.aio.AioRpcError):
            await served.agents.GetAgent(agent_service_pb2.GetAgentRequest(name="x"), metadata=metadata)
        await until(lambda: len(caplog.records) == 2)  # the answer may arrive before the line is written
    lines = [record.__dict__ for record in caplog.records if record.message == "call"]
    assert [(line["method"], line["code"], line["request_id"]) for line in lines] == [
        ("/dragoman.v1.RunService/Run", "OK", "logged"),
        ("/dragoman.v1.AgentService/GetAgent", "AGENT_NOT_FOUND", "logged"),
    ]
    assert all(0 <= line["duration_ms"] < 20_000 for line in lines)
    assert "prompt" not in caplog.text


async def test_what_a_clean_up_raises_after_the_caller_left_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def generate(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            yield b"one"
            await asyncio.Event().wait()
        finally:
            raise RuntimeError(SECRET)

    with caplog.at_level(logging.INFO):
        async with bare(generate) as channel:
            call = stream_of(channel, "/test.Test/Stream")(b"")
            await anext(aiter(call))
            call.cancel()
            await until(lambda: len(caplog.records) == 2)
    defect, line = caplog.records
    assert (defect.levelname, line.__dict__["code"]) == ("ERROR", "INTERNAL")


async def test_a_server_that_stops_in_a_flood_logs_no_defects(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        async with serve() as served:
            served.engine.script = tuple(delta("x" * 1000) for _ in range(20_000))
            calls = [aiter(served.runs.Run(RUN)) for _ in range(5)]
            for call in calls:
                await anext(call)
            await served.server.stop()
            assert [run.closed for run in served.engine.runs] == [1] * 5
    codes = [record.__dict__.get("code") for record in caplog.records if record.message == "call"]
    assert codes == ["CANCELLED"] * 5
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
