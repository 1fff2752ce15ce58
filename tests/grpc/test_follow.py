"""A run's events as one caller's stream: detail, heartbeats, order, errors."""

import asyncio
from collections.abc import AsyncGenerator

import pytest
from support.fake_ports import completed, delta
from support.served import Served, serve

from dragoman.transport.detail import LEVELS, TERMINAL, wanted
from dragoman.transport.follow import follow
from dragoman.v1 import event_pb2
from dragoman.v1 import run_service_pb2 as pb

FIELDS = [field.name for field in event_pb2.RunEvent.DESCRIPTOR.oneofs_by_name["event"].fields]


def run(**fields: object) -> pb.RunRequest:
    request = pb.RunRequest(agent_name="plain", message="hi")
    request.MergeFrom(pb.RunRequest(**fields))  # type: ignore[arg-type]  # plain keywords of a test
    return request


def event(name: str) -> event_pb2.RunEvent:
    made = event_pb2.RunEvent()
    getattr(made, name).SetInParent()
    return made


def test_every_event_has_a_level() -> None:
    assert set(LEVELS) == set(FIELDS)


def test_terminal_events_are_those_that_the_contract_calls_last() -> None:
    assert {name for name in FIELDS if LEVELS[name] == pb.EVENT_DETAIL_CONTENT} > TERMINAL
    assert set(FIELDS) > TERMINAL


LEVEL_CASES: list[tuple[pb.EventDetail.ValueType, set[str], set[str]]] = [
    (
        pb.EVENT_DETAIL_CONTENT,
        {"run_started", "content_delta", "media_output", "run_completed", "run_failed", "run_paused"},
        {"reasoning_delta", "tool_call_started", "model_request_completed", "pre_hook_started", "unmapped"},
    ),
    (
        pb.EVENT_DETAIL_STANDARD,
        {"content_delta", "reasoning_delta", "tool_call_failed", "custom", "task_created", "run_cancelled"},
        {"model_request_started", "memory_update_started", "compaction_completed", "unmapped"},
    ),
    (pb.EVENT_DETAIL_ALL, set(FIELDS), set()),
]


@pytest.mark.parametrize(("detail", "passing", "held"), LEVEL_CASES)
def test_levels(detail: pb.EventDetail.ValueType, passing: set[str], held: set[str]) -> None:
    wants = wanted(detail)
    passed = {name for name in FIELDS if wants is None or wants(event(name))}
    assert passing <= passed
    assert not held & passed
    assert passed >= TERMINAL
    assert wants is None or wants(event_pb2.RunEvent())


async def test_what_is_filtered_leaves_gaps(served: Served) -> None:
    served.engine.script = (delta("a"), event("reasoning_delta"), event("pre_hook_started"), completed("a"))
    expected = {
        pb.EVENT_DETAIL_UNSPECIFIED: [1, 2, 4],
        pb.EVENT_DETAIL_CONTENT: [1, 4],
        pb.EVENT_DETAIL_STANDARD: [1, 2, 4],
        pb.EVENT_DETAIL_ALL: [1, 2, 3, 4],
    }
    for detail, sequences in expected.items():
        events = [event async for event in served.runs.Run(run(detail=detail))]
        assert [event.sequence for event in events] == sequences


async def test_a_silent_run_sends_heartbeats_that_are_not_numbered() -> None:
    async with serve(heartbeat_interval=0.01) as served:
        gate = asyncio.Event()
        served.engine.script = (delta("a"), gate, delta("b"), completed("ab"))
        seen: list[event_pb2.RunEvent] = []
        async for received in served.runs.Run(run(detail=pb.EVENT_DETAIL_CONTENT)):
            seen.append(received)
            if sum(one.HasField("heartbeat") for one in seen) == 3:
                gate.set()
    assert [one.WhichOneof("event") for one in seen[:4]] == ["content_delta", *["heartbeat"] * 3]
    assert all(one.sequence == 0 for one in seen if one.HasField("heartbeat"))
    assert [one.sequence for one in seen if not one.HasField("heartbeat")] == [1, 2, 3]


async def test_what_is_filtered_away_does_not_count_as_a_sign_of_life() -> None:
    async def busy() -> AsyncGenerator[event_pb2.RunEvent, None]:
        while True:
            await asyncio.sleep(0.001)
            yield event("pre_hook_started")

    stream = follow(busy(), wanted(pb.EVENT_DETAIL_CONTENT), 0.02)
    assert (await anext(stream)).HasField("heartbeat")
    await stream.aclose()


async def test_a_busy_run_sends_no_heartbeats() -> None:
    async def busy() -> AsyncGenerator[event_pb2.RunEvent, None]:
        for _ in range(100):
            await asyncio.sleep(0.005)
            yield delta("x")

    events = [one async for one in follow(busy(), None, 0.4)]
    assert [one.WhichOneof("event") for one in events] == ["content_delta"] * 100


async def test_a_heartbeat_does_not_disturb_what_the_engine_is_at() -> None:
    cancelled = False
    gate = asyncio.Event()

    async def slow() -> AsyncGenerator[event_pb2.RunEvent, None]:
        nonlocal cancelled
        try:
            await gate.wait()
        except asyncio.CancelledError:
            cancelled = True
            raise
        yield delta("late")

    stream = follow(slow(), None, 0.005)
    for _ in range(3):
        assert (await anext(stream)).HasField("heartbeat")
    gate.set()
    assert [one.content_delta.text async for one in stream if one.HasField("content_delta")] == ["late"]
    assert not cancelled


async def test_all_that_came_before_an_error_is_delivered() -> None:
    async def failing() -> AsyncGenerator[event_pb2.RunEvent, None]:
        for number in range(200):
            yield delta(str(number))
        raise LookupError("gone")

    texts: list[str] = []

    async def read() -> None:
        async for one in follow(failing(), None, 10):
            texts.append(one.content_delta.text)

    with pytest.raises(LookupError):
        await read()
    assert texts == [str(number) for number in range(200)]


async def test_a_stream_that_is_never_read_takes_little() -> None:
    sent = 0
    closed = False

    async def endless() -> AsyncGenerator[event_pb2.RunEvent, None]:
        nonlocal sent, closed
        try:
            while True:
                sent += 1
                yield delta("x")
        finally:
            closed = True

    stream = follow(endless(), None, 10)
    await anext(stream)
    for _ in range(100):
        await asyncio.sleep(0)
    assert sent < 200
    await stream.aclose()
    assert closed
