"""How a stream ends when its caller leaves or dawdles: closed exactly once, nothing left behind, the run untouched."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest
from support.fake_ports import FakeRun, completed, delta
from support.served import Served, bare, serve, stream_of, until

from dragoman.v1 import run_service_pb2

RUN = run_service_pb2.RunRequest(agent_name="plain", message="hi")


def tasks() -> set[str]:
    return {task.get_name() for task in asyncio.all_tasks()}


@pytest.mark.parametrize("silent", [True, False], ids=["while the run is silent", "in a flood of events"])
async def test_a_caller_who_leaves_closes_its_stream_once(served: Served, silent: bool) -> None:
    gate = asyncio.Event()
    served.engine.script = (delta("a"), gate) if silent else tuple(delta(str(n)) for n in range(100_000))
    for _ in range(20):
        call = served.runs.Run(RUN)
        assert (await anext(aiter(call))).content_delta.text
        call.cancel()
        run = served.engine.runs[-1]
        await until(lambda run=run: run.closed == 1)  # type: ignore[misc]  # bound now, not when the loop has moved on
    assert [(run.opened, run.closed) for run in served.engine.runs] == [(1, 1)] * 20
    assert served.engine.cancelled == []
    await until(lambda: "event-pump" not in tasks())


async def test_a_deadline_only_ends_the_stream(served: Served) -> None:
    served.engine.script = (delta("a"), asyncio.Event())
    call = served.runs.Run(RUN, timeout=2)
    assert await call.read()
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call.read()
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    run = served.engine.runs[0]
    await until(lambda: run.closed == 1)
    assert served.engine.cancelled == []


async def test_a_connection_that_breaks_closes_all_its_streams() -> None:
    async with serve() as served:
        served.engine.script = (delta("a"), asyncio.Event())
        channel = grpc.aio.insecure_channel(f"127.0.0.1:{served.port}")
        method = stream_of(channel, "/dragoman.v1.RunService/Run")
        calls = [method(RUN.SerializeToString()) for _ in range(20)]
        for call in calls:
            await call.read()
        await channel.close(None)
        await until(lambda: [run.closed for run in served.engine.runs] == [1] * 20)
        await until(lambda: "event-pump" not in tasks())


async def test_a_slow_reader_holds_back_only_itself(served: Served) -> None:
    many = 2000
    text = "x" * 10_000
    served.engine.script = (*(delta(text) for _ in range(many)), completed("done"))
    slow = served.runs.Run(RUN)
    dawdling = aiter(slow)
    await anext(dawdling)
    idle = served.engine.runs[0]
    await until(_at_rest(idle))
    assert idle.sent < many  # the server stopped taking events instead of piling them up
    fast = [event async for event in served.runs.Run(RUN)]
    assert len(fast) == many + 1
    assert idle.sent < many
    rest = [event async for event in dawdling]
    assert [event.sequence for event in rest] == list(range(2, many + 2))


def _at_rest(run: FakeRun) -> Callable[[], bool]:
    """True once nothing was taken of the run for 50 turns."""
    seen = [0, 0]

    def resting() -> bool:
        seen[1] = seen[1] + 1 if seen[0] == run.sent else 0
        seen[0] = run.sent
        return seen[1] >= 50

    return resting


async def test_losing_execute_does_not_end_the_run(served: Served) -> None:
    gate = asyncio.Event()
    served.engine.script = (delta("a"), gate, completed("a"))
    call = served.runs.Execute(RUN)
    await until(lambda: bool(served.engine.runs) and served.engine.runs[0].opened == 1)
    call.cancel()
    await until(lambda: served.engine.runs[0].closed == 1)
    assert served.engine.cancelled == []


@pytest.mark.parametrize("flood", [False, True], ids=["waiting", "writing"])
async def test_a_long_clean_up_is_never_cut_short(flood: bool) -> None:
    opened, tidied = 0, 0
    never = asyncio.Event()

    async def generate(request: bytes, context: Any) -> AsyncIterator[bytes]:
        nonlocal opened, tidied
        opened += 1
        try:
            yield b"first"
            while flood:
                yield b"x" * 1000
            await never.wait()
        finally:
            for _ in range(20):
                await asyncio.sleep(0.001)
            tidied += 1

    async with bare(generate) as channel:
        for _ in range(20):
            call = stream_of(channel, "/test.Test/Stream")(b"")
            await anext(aiter(call))
            call.cancel()
        await until(lambda: tidied == 20)
    assert (opened, tidied) == (20, 20)
