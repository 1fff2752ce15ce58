"""Whoever follows a run joins it once and leaves it once, whatever ends the call, and a deadline is told from a cancel."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from support.fake_ports import FakeRun, Step, completed, delta
from support.served import Served, refusal, serve, stream_of, unary_of, until

from dragoman.errors import StorageUnavailable
from dragoman.records import RunStatus
from dragoman.v1 import event_pb2
from dragoman.v1 import run_service_pb2 as pb


def run_request(served: Served) -> pb.RunRequest:
    return pb.RunRequest(agent_name="plain", message="hi", disconnect_policy=pb.DISCONNECT_POLICY_CANCEL)


def attach_request(served: Served) -> pb.AttachRunRequest:
    return pb.AttachRunRequest(run_id=str(served.store.add_run(served.store.add_session()).id))


def continue_request(served: Served) -> pb.ContinueRunRequest:
    need = event_pb2.Requirement(id="c", confirmation=event_pb2.ConfirmationNeed())
    last = event_pb2.RunEvent(run_paused=event_pb2.RunPaused(requirements=[need]))
    stored = served.store.add_run(
        served.store.add_session(), status=RunStatus.PAUSED, last_event=last.SerializeToString()
    )
    resolution = pb.Resolution(requirement_id="c", confirmation=pb.Confirmation(confirmed=True))
    return pb.ContinueRunRequest(
        run_id=str(stored.id), resolutions=[resolution], disconnect_policy=pb.DISCONNECT_POLICY_CANCEL
    )


METHODS: dict[str, Callable[[Served], Any]] = {
    "Run": run_request,
    "Execute": run_request,
    "AttachRun": attach_request,
    "ContinueRun": continue_request,
}
every_method = pytest.mark.parametrize("method", METHODS)


def begin(served: Served, method: str, **options: Any) -> Any:
    """Makes the call."""
    return getattr(served.runs, method)(METHODS[method](served), **options)


async def outcome(call: Any, method: str) -> None:
    """Reads the call to its end. Raises AioRpcError."""
    if method == "Execute":
        await call
    else:
        async for _ in call:
            pass


async def joined(served: Served, number: int = 0) -> FakeRun:
    """The run of this number, once somebody follows it and has seen its first event."""
    await until(lambda: len(served.engine.runs) > number and served.engine.runs[number].sent > 0)
    return served.engine.runs[number]


async def has_left(served: Served, run: FakeRun) -> list[bool]:
    """Waits until the call is over for the server, too, and tells how those who joined have left."""
    await until(lambda: bool(run.left))
    await until(lambda: "event-pump" not in {task.get_name() for task in asyncio.all_tasks()})
    assert run.joined == 1
    assert run.opened == run.closed <= 1  # none, when the call was over before the first event
    return run.left


@every_method
async def test_at_the_end(served: Served, method: str) -> None:
    await outcome(begin(served, method), method)
    assert await has_left(served, served.engine.runs[-1]) == [False]


@every_method
@pytest.mark.parametrize("script", [(delta("a"),), ()], ids=["later", "at once"])
async def test_by_an_error(served: Served, method: str, script: tuple[Step, ...]) -> None:
    served.engine.script = (*script, StorageUnavailable())
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await outcome(begin(served, method), method)
    assert (await refusal(caught.value)).reason == "STORAGE_UNAVAILABLE"
    assert await has_left(served, served.engine.runs[-1]) == [False]


@every_method
async def test_by_a_cancel_of_the_caller(served: Served, method: str) -> None:
    served.engine.script = (delta("a"), asyncio.Event())
    for number in range(20):
        call = begin(served, method, timeout=600)
        if method != "Execute":
            await anext(aiter(call))
        run = await joined(served, number)
        call.cancel()
        assert await has_left(served, run) == [False]


@every_method
async def test_by_a_deadline(served: Served, method: str) -> None:
    served.engine.script = (delta("a"), asyncio.Event())
    for _ in range(5):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await outcome(begin(served, method, timeout=1), method)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        if not served.engine.runs or not served.engine.runs[-1].joined:
            served.engine.runs.clear()
            continue  # the machine was so busy that the time was over before the run was begun
        told = await has_left(served, served.engine.runs[-1])
        assert len(told) == 1
        # The deadline of an attached call is not the run's.
        if told == [method != "AttachRun"]:
            return
        # The request was under way for longer than is allowed for: again, on a quieter machine.
        served.engine.runs.clear()
    pytest.fail("a call that has timed out was never told from one that was cancelled")


async def test_by_a_deadline_while_nothing_is_read(served: Served) -> None:
    served.engine.script = (*(delta("x" * 10_000) for _ in range(20_000)), completed("x"))
    call = served.runs.Run(run_request(served), timeout=3)
    run = await joined(served)
    assert len(await has_left(served, run)) == 1
    assert run.sent < 20_000
    call.cancel()


async def test_by_a_cancel_in_a_flood(served: Served) -> None:
    served.engine.script = tuple(delta(str(n)) for n in range(100_000))
    for _ in range(20):
        call = served.runs.Run(run_request(served))
        await anext(aiter(call))
        call.cancel()
        assert await has_left(served, served.engine.runs[-1]) == [False]


@every_method
async def test_by_a_connection_that_breaks(method: str) -> None:
    async with serve() as served:
        served.engine.script = (delta("a"), asyncio.Event())
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{served.port}")
        make = unary_of if method == "Execute" else stream_of
        call = make(channel, f"/dragoman.v1.RunService/{method}")(METHODS[method](served).SerializeToString())
        run = await joined(served)
        await channel.close(None)
        assert await has_left(served, run) == [False]
        assert call.done()


CLIENT = """
import sys
import grpc
from dragoman.v1 import run_service_pb2 as pb, run_service_pb2_grpc

channel = grpc.insecure_channel(sys.argv[1])
request = pb.RunRequest(agent_name="plain", message="hi", disconnect_policy=pb.DISCONNECT_POLICY_CANCEL)
for _ in run_service_pb2_grpc.RunServiceStub(channel).Run(request):
    print("received", flush=True)
"""


async def test_by_the_death_of_the_caller(served: Served) -> None:
    served.engine.script = (delta("a"), asyncio.Event())
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CLIENT, f"127.0.0.1:{served.port}", stdout=asyncio.subprocess.PIPE
    )
    try:
        assert client.stdout is not None
        assert await client.stdout.readline() == b"received\n"
        client.kill()
        assert await has_left(served, served.engine.runs[0]) == [False]
    finally:
        if client.returncode is None:
            client.kill()
        await client.wait()


async def test_by_the_end_of_the_server() -> None:
    async with serve() as served:
        served.engine.script = (delta("a"), asyncio.Event())
        calls = [begin(served, method) for method in METHODS]
        await until(lambda: [run.sent for run in served.engine.runs] == [1] * len(METHODS))
        await served.server.stop()
        assert [(run.joined, run.left) for run in served.engine.runs] == [(1, [False])] * len(METHODS)
        for call in calls:
            call.cancel()


async def test_a_call_that_ends_before_there_is_a_run_has_joined_nothing(served: Served) -> None:
    asked, given_up = asyncio.Event(), asyncio.Event()

    async def start(draft: Any) -> FakeRun:
        asked.set()
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()
        raise AssertionError("unreachable")

    served.engine.start = start  # type: ignore[method-assign]  # one that takes for ever
    call = served.runs.Run(run_request(served))
    await asked.wait()
    call.cancel()
    await given_up.wait()
    assert served.engine.runs == []


async def test_all_who_follow_one_run_leave_it(served: Served) -> None:
    gate = asyncio.Event()
    served.engine.script = (delta("a"), gate, completed("a"))
    request = run_request(served)
    request.request_id = "one"
    calls = [served.runs.Run(request) for _ in range(5)]
    for call in calls:
        await anext(aiter(call))
    (run,) = served.engine.runs
    assert (run.joined, run.left) == (5, [])
    calls[0].cancel()
    await until(lambda: len(run.left) == 1)
    gate.set()
    for call in calls[1:]:
        await outcome(call, "Run")
    await until(lambda: len(run.left) == 5)
    assert run.joined == 5
