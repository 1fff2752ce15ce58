"""CancelRun at every moment of a run: one end, a prompt one, nothing left open, an exact bill, and a session that goes on."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from agno.agent import Agent
from agno.run import cancel
from support.e2e import Stubs, claude, kinds, stubs
from support.faulty import Faults, install

from dragoman.agents import BaseAgent
from dragoman.engine import run as engine_run
from dragoman.testing.anthropic import Block, FakeAnthropic, Outcome, Text, Thinking, ToolUse, Turn, Usage
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, run_service_pb2

USAGE = Usage(input_tokens=101, output_tokens=67, cache_read_input_tokens=11)
CANCELLED, COMPLETED = "run_cancelled", "run_completed"

released = threading.Event()


@pytest.fixture(autouse=True)
async def _threads_end() -> AsyncIterator[None]:
    """Asynchronous: the event loop, which waits for its threads, is closed after it."""
    released.clear()
    yield
    released.set()


async def waiting(note: str) -> str:
    """Waits for ever."""
    await asyncio.Event().wait()
    return note


def blocking(note: str) -> str:
    """Holds its thread."""
    released.wait(30)
    return note


async def counting(note: str) -> Any:
    """Never ends counting."""
    for number in range(1_000_000):
        yield f"{note} {number}"
        await asyncio.sleep(0.001)


def quick(note: str) -> str:
    """Answers at once."""
    return note


class Assistant(BaseAgent):
    """Has all of these tools."""

    name = "assistant"
    description = "Is interrupted."
    history_runs = None

    def __init__(self, fake: FakeAnthropic) -> None:
        self.model = claude(fake)

    def build_agent(self) -> Agent:
        return Agent(model=self.model, tools=[waiting, blocking, counting, quick])


def calls(tool: str) -> Turn:
    """The model says something and calls the tool, and another one that answers at once."""
    note = {"note": "n"}
    return Turn([Text("Let me see."), ToolUse("t1", tool, note), ToolUse("t2", "quick", note)], usage=USAGE)


THOUGHT: list[Block] = [Thinking("I must think about this"), Text("one two three")]

MOMENTS: list[tuple[str, list[Turn], str, str]] = [
    # when, what the model does, the event after which it is cancelled, how it ends
    # the API never begins its answer, so what it bills does not hang on whether the request was still sent
    (
        "at the beginning",
        [Turn("one two", hang_before_first_byte=True, usage=USAGE)],
        "run_started",
        CANCELLED,
    ),
    (
        "before the first byte",
        [Turn("one", hang_before_first_byte=True, usage=USAGE)],
        "model_request_started",
        CANCELLED,
    ),
    (
        "before the first word",
        [Turn("one two", hang_after=0, usage=USAGE)],
        "model_request_started",
        CANCELLED,
    ),
    ("in its thoughts", [Turn(THOUGHT, hang_after=2, usage=USAGE)], "reasoning_delta", CANCELLED),
    ("after its thoughts", [Turn(THOUGHT, hang_after=7, usage=USAGE)], "content_delta", CANCELLED),
    (
        "in the arguments of a tool call",
        [Turn([Text("Hm."), ToolUse("t1", "quick", {"note": "a long note"})], hang_after=3, usage=USAGE)],
        "content_delta",
        CANCELLED,
    ),
    ("in an asynchronous tool", [calls("waiting")], "tool_call_started", CANCELLED),
    ("in a tool that blocks a thread", [calls("blocking")], "tool_call_started", CANCELLED),
    ("in a tool that is a generator", [calls("counting")], "tool_call_started", CANCELLED),
    (
        "after a tool",
        [calls("quick"), Turn("one", hang_before_first_byte=True)],
        "tool_call_completed",
        CANCELLED,
    ),
    ("after the last word", [Turn("one two", hang_after="usage", usage=USAGE)], "content_delta", CANCELLED),
    ("after the end", [Turn("one two", usage=USAGE)], "run_completed", COMPLETED),
]


async def follow(
    client: Stubs, moment: str, then: Callable[[str], Awaitable[None]]
) -> list[event_pb2.RunEvent]:
    """The events of a run; what `then` does with its id begins at the first event of that kind."""
    request = run_service_pb2.RunRequest(
        agent_name="assistant", message="Go.", detail=run_service_pb2.EVENT_DETAIL_ALL
    )
    events: list[event_pb2.RunEvent] = []
    doing: asyncio.Future[None] | None = None
    async for event in client.runs.Run(request):
        events.append(event)
        if doing is None and event.WhichOneof("event") == moment:
            doing = asyncio.ensure_future(then(events[0].run_started.run_id))
    assert doing is not None
    await doing
    return events


async def assert_over(client: Stubs, fake: FakeAnthropic, events: list[event_pb2.RunEvent], end: str) -> None:
    """One end, stored as it was told; closed requests, an exact bill; the session's next turn is accepted."""
    started = events[0].run_started
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert [kind for kind in kinds(events) if kind in (CANCELLED, COMPLETED, "run_failed")] == [end]
    last = getattr(events[-1], end)
    async with asyncio.timeout(30):
        for request in fake.requests:
            await request.ended.wait()
    assert {request.outcome for request in fake.requests} <= {Outcome.ANSWERED, Outcome.LEFT}
    billed = fake.billed
    assert last.usage.input_tokens == billed.input_tokens
    assert last.usage.output_tokens == billed.output_tokens
    assert last.usage.cache_read_tokens == billed.cache_read_tokens
    run = (await client.runs.GetRun(run_service_pb2.GetRunRequest(run_id=started.run_id))).run
    assert run.last_sequence == events[-1].sequence
    assert getattr(run, end.removeprefix("run_")) == last
    assert await cancel.aget_active_runs() == {}
    fake.unscript()  # a run that is cancelled early has asked for nothing
    fake.respond = lambda _: Turn("Gladly.")
    again = await client.run("assistant", "Go on.", session_id=started.session_id)
    assert kinds(again)[-1] == COMPLETED, again[-1]


@pytest.mark.parametrize(
    ("turns", "moment", "end"), [case[1:] for case in MOMENTS], ids=[case[0] for case in MOMENTS]
)
async def test_a_run_is_cancelled_by_two_callers_at_once(
    turns: list[Turn], moment: str, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A run stops because it is told so, not because somebody has lost patience with it.
    monkeypatch.setattr(engine_run, "STOP_GRACE", 600.0)
    async with FakeAnthropic() as fake:
        fake.script(*turns)
        async with serving(Assistant(fake)) as server, stubs(server.address) as client:

            async def cancel_it(run_id: str) -> None:
                if moment != "run_started" and any(turn.hang_after is not None for turn in turns):
                    await (await fake.request(len(turns))).hanging.wait()
                request = run_service_pb2.CancelRunRequest(run_id=run_id, note="enough")
                answers = await asyncio.gather(*(client.runs.CancelRun(request) for _ in range(2)))
                assert len({answer.run.SerializeToString() for answer in answers}) == 1

            events = await follow(client, moment, cancel_it)
            if end == CANCELLED:
                assert events[-1].run_cancelled.reason == event_pb2.CANCEL_REASON_CALLER
                assert events[-1].run_cancelled.note == "enough"
            await assert_over(client, fake, events, end)


@pytest.mark.parametrize("call", ["load_history", "end_run"])
async def test_a_run_is_cancelled_while_the_store_is_slow(call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    faults: Faults = install(monkeypatch)
    reached = asyncio.Event()

    def slow(_: int) -> float:
        reached.set()
        return 0.3

    async with FakeAnthropic() as fake:
        fake.script(Turn("one two", usage=USAGE))
        faults.rules[call] = slow
        async with serving(Assistant(fake)) as server, stubs(server.address) as client:

            async def cancel_it(run_id: str) -> None:
                await reached.wait()
                await client.runs.CancelRun(run_service_pb2.CancelRunRequest(run_id=run_id))

            events = await follow(client, "run_started", cancel_it)
            await assert_over(client, fake, events, CANCELLED if call == "load_history" else COMPLETED)
