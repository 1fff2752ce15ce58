"""A run is followed to its end, and the server sees at once when the caller leaves."""

import asyncio
from contextlib import suppress
from typing import Any

import grpc
import pytest
from google.rpc import code_pb2
from support.statuses import status

from dragoman.client import (
    DeadlineExceeded,
    Dragoman,
    DragomanError,
    EventKind,
    NotFound,
    RunFailed,
    image,
    kind,
    result_of,
)
from dragoman.v1 import event_pb2, run_service_pb2

RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
STARTED = event_pb2.RunEvent(
    sequence=1, run_started=event_pb2.RunStarted(run_id=RUN_ID, session_id="s", agent_name="example")
)
HELLO = event_pb2.RunEvent(sequence=2, content_delta=event_pb2.ContentDelta(text="hello"))
COMPLETED = event_pb2.RunEvent(sequence=3, run_completed=event_pb2.RunCompleted(content="hello"))
NOT_FOUND = status(code_pb2.NOT_FOUND, "AGENT_NOT_FOUND", message="no such agent")


async def test_events_and_result(services: Any) -> None:
    services.runs.events = [STARTED, HELLO, COMPLETED]
    async with (
        Dragoman(services.address) as client,
        client.run("example", "hi", session="s", media=[image(b"png")], inputs={"n": 1}, detail="all") as run,
    ):
        with pytest.raises(RuntimeError, match="not ended"):
            _ = run.result
        assert [kind(event) async for event in run] == ["run_started", "content_delta", "run_completed"]
        assert (run.run_id, run.session_id, run.ended) == (RUN_ID, "s", True)
        assert run.result == COMPLETED.run_completed
        assert [event async for event in run] == []  # used once
    request = services.runs.requests[0]
    assert (request.agent_name, request.session_id, request.message) == ("example", "s", "hi")
    assert request.media[0].data == b"png"
    assert request.detail == run_service_pb2.EVENT_DETAIL_ALL
    assert services.runs.remaining is None


async def test_nothing_is_sent_before_the_stream_is_read(services: Any) -> None:
    services.runs.events = [STARTED, COMPLETED]
    async with Dragoman(services.address) as client:
        client.run("example", "never read")
        assert await client.run("example", "read").text() == "hello"
    assert [request.message for request in services.runs.requests] == ["read"]


async def leave_by_break(client: Dragoman) -> None:
    async for _ in client.run("example", "hi"):
        break


async def leave_by_exception(client: Dragoman) -> None:
    with suppress(ZeroDivisionError):
        async for _ in client.run("example", "hi"):
            _ = 1 / 0


async def leave_the_block(client: Dragoman) -> None:
    async with client.run("example", "hi") as run:
        async for _ in run:
            break
    assert not run.ended


async def leave_the_block_by_exception(client: Dragoman) -> None:
    with suppress(ZeroDivisionError):
        async with client.run("example", "hi") as run:
            async for _ in run:
                _ = 1 / 0


async def leave_by_cancellation(client: Dragoman) -> None:
    got = asyncio.Event()
    run = client.run("example", "hi")  # outlives the task, as a name does

    async def follow() -> None:
        async for _ in run:
            got.set()

    task = asyncio.create_task(follow())
    await got.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not run.ended


async def leave_by_close(client: Dragoman) -> None:
    run = client.run("example", "hi")
    assert await anext(run) == STARTED
    run.close()
    run.close()
    assert [event async for event in run] == []


@pytest.mark.parametrize(
    "leave",
    [
        leave_by_break,
        leave_by_exception,
        leave_the_block,
        leave_the_block_by_exception,
        leave_by_cancellation,
        leave_by_close,
    ],
)
async def test_the_server_sees_the_caller_leave(services: Any, leave: Any) -> None:
    services.runs.events = [STARTED, None]
    async with Dragoman(services.address) as client:
        await leave(client)
        async with asyncio.timeout(60):
            await services.runs.gone.wait()  # while the client is still open


def test_a_stream_may_outlive_its_loop(recwarn: pytest.WarningsRecorder) -> None:
    """Nothing is said when a stream that was never left is dropped after the loop is gone."""
    kept = []

    async def follow() -> None:
        async with Dragoman("127.0.0.1:1") as client:
            run = client.run("example", "hi")
            await run.__aenter__()
            kept.append(run)

    asyncio.run(follow())
    kept.clear()
    assert not recwarn.list


async def test_failure_before_the_run(services: Any) -> None:
    services.runs.failure = NOT_FOUND
    async with Dragoman(services.address) as client:
        with pytest.raises(NotFound) as caught:
            async for _ in client.run("nobody", "hi"):
                pass
    assert (caught.value.reason, caught.value.code) == ("AGENT_NOT_FOUND", grpc.StatusCode.NOT_FOUND)


async def test_a_stream_that_is_lost(services: Any) -> None:
    services.runs.events = [STARTED, HELLO]
    async with Dragoman(services.address, retry=None) as client:
        run = client.run("example", "hi")
        with pytest.raises(DragomanError, match="before the run did") as caught:
            await run.text()
        assert caught.value.code is grpc.StatusCode.DATA_LOSS
        assert run.run_id == RUN_ID

        services.runs.failure = grpc.StatusCode.UNAVAILABLE
        with pytest.raises(DragomanError, match="lost"):
            await client.run("example", "hi").text()


async def test_a_deadline_ends_the_following(services: Any) -> None:
    services.runs.events = [STARTED, None]
    async with Dragoman(services.address) as client:
        with pytest.raises(DeadlineExceeded):
            await client.run("example", "hi", timeout=0.2).text()
        async with asyncio.timeout(60):
            await services.runs.gone.wait()


FAILED = event_pb2.RunEvent(
    sequence=3, run_failed=event_pb2.RunFailed(error=NOT_FOUND, content="hel", model_calls=1)
)
CANCELLED = event_pb2.RunEvent(
    sequence=3,
    run_cancelled=event_pb2.RunCancelled(reason=event_pb2.CANCEL_REASON_CALLER, note="enough", content="hel"),
)
PAUSED = event_pb2.RunEvent(sequence=3, run_paused=event_pb2.RunPaused(model_calls=1))


@pytest.mark.parametrize(
    ("last", "code", "reason"),
    [
        (FAILED, grpc.StatusCode.NOT_FOUND, "AGENT_NOT_FOUND"),
        (CANCELLED, grpc.StatusCode.CANCELLED, "CALLER"),
        (PAUSED, grpc.StatusCode.FAILED_PRECONDITION, "RUN_PAUSED"),
    ],
)
async def test_a_run_that_does_not_complete_has_no_text(
    services: Any, last: event_pb2.RunEvent, code: grpc.StatusCode, reason: str
) -> None:
    services.runs.events = [STARTED, HELLO, last]
    async with Dragoman(services.address) as client:
        events = [event async for event in client.run("example", "hi")]  # no exception while streaming
        assert events[-1] == last
        with pytest.raises(RunFailed) as caught:
            await client.run("example", "hi").text()
    assert (caught.value.code, caught.value.reason) == (code, reason)
    assert caught.value.outcome == result_of(last)


def test_every_event_has_a_kind() -> None:
    fields = event_pb2.RunEvent.DESCRIPTOR.oneofs_by_name["event"].fields
    assert [field.name for field in fields] == list(EventKind.__args__)  # type: ignore[attr-defined]
    assert kind(event_pb2.RunEvent(sequence=4)) is None
    assert [kind(event) for event in (STARTED, HELLO, FAILED)] == [
        "run_started",
        "content_delta",
        "run_failed",
    ]
    assert result_of(HELLO) is None
