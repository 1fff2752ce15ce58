"""What begins, pauses and ends a run, as a real server sends it: golden files, from which docs/events.md takes its examples.

Ids, times and what follows from them are replaced by fixed ones; all else is as it came. To write the files anew:
`pytest tests/unit/adapter tests/e2e/test_lifecycle_golden.py --update-golden`.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from agno.agent import Agent
from agno.exceptions import ModelProviderError
from agno.tools import tool
from google.protobuf import text_format

from dragoman.client import Dragoman, RunStream, confirm, kind
from dragoman.records import TokenUsage
from dragoman.testing.scripted import Pause, ScriptedModel, ToolCall, Turn
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2

GOLDEN = Path(__file__).parents[1] / "golden" / "runs"
HEADER = (
    "# proto-file: protos/dragoman/v1/event.proto\n# proto-message: dragoman.v1.RunEvent\n\n# a real run\n"
)
USAGE = TokenUsage(input_tokens=120, output_tokens=14)
RATES = '[rates.ZAR]\n2020-01-01 = "18.00"\n'

UUID = re.compile(r"[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}")
NOW = datetime(2026, 11, 21, 3, 8, 17, tzinfo=UTC)


@tool(requires_confirmation=True)
def refund(order: str) -> str:
    """Pays a customer back."""
    return f"order {order} is refunded"


def scripted(name: str, *turns: Turn) -> Agent:
    """An agent that does what it is told, by a model that has a price."""
    model = ScriptedModel(turns=turns, id="offline-1", provider="offline")
    return Agent(name=name, description=name, model=model, tools=[refund])


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Dragoman]:
    """Of a server whose exchange rates stay as they are."""
    rates = tmp_path / "rates.toml"
    rates.write_text(RATES, encoding="utf-8")
    agents = (
        scripted("clerk", [ToolCall("refund", {"order": "A-17"}), USAGE], ["Order A-17 is refunded.", USAGE]),
        scripted("busy", [ModelProviderError("overloaded", status_code=529)]),
        scripted("patient", ["Let me think.", Pause(600)], ["Now it is my turn.", USAGE]),
    )
    async with (
        serving(*agents, rates_file=rates, heartbeat_interval=0.2) as server,
        Dragoman(server.address) as made,
    ):
        yield made


async def events_of(stream: RunStream) -> dict[str, event_pb2.RunEvent]:
    """The last event of each kind."""
    async with stream:
        return {str(kind(event)): event async for event in stream}


def check(event: event_pb2.RunEvent, request: pytest.FixtureRequest) -> None:
    """The event is as in its golden file."""
    text = HEADER + settled(event)
    path = GOLDEN / f"{kind(event)}.textproto"
    if request.config.getoption("--update-golden", default=False):
        GOLDEN.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "run with --update-golden if this is meant"


def settled(event: event_pb2.RunEvent) -> str:
    """The event as text, at a fixed time, its ids numbered in the order in which they come."""
    copy = event_pb2.RunEvent()
    copy.CopyFrom(event)
    if copy.HasField("run_paused"):
        waits = copy.run_paused.expire_time.ToDatetime() - copy.create_time.ToDatetime()
        copy.run_paused.expire_time.FromDatetime(NOW + timedelta(hours=round(waits / timedelta(hours=1))))
    if copy.sequence:  # heartbeats are not numbered, and have no time
        copy.create_time.FromDatetime(NOW)
    seen: dict[str, str] = {}
    return UUID.sub(
        lambda match: seen.setdefault(match.group(), f"01a1fc13-7ad5-7086-887f-{len(seen) + 1:012d}"),
        text_format.MessageToString(copy, as_utf8=True),
    )


async def test_a_run_that_pauses_and_completes(client: Dragoman, request: pytest.FixtureRequest) -> None:
    began = await events_of(client.run("clerk", "Pay order A-17 back"))
    paused = began["run_paused"].run_paused
    rest = await events_of(
        client.continue_run(began["run_started"].run_started.run_id, [confirm(paused.requirements[0])])
    )
    for event in (began["run_started"], began["run_paused"], rest["run_continued"], rest["run_completed"]):
        check(event, request)


async def test_a_run_that_fails(client: Dragoman, request: pytest.FixtureRequest) -> None:
    check((await events_of(client.run("busy", "hello")))["run_failed"], request)


async def test_a_run_that_waits_and_one_that_is_cancelled(
    client: Dragoman, request: pytest.FixtureRequest
) -> None:
    first = client.run("patient", "hello")
    async with first:
        said = False
        async for event in first:
            said = said or kind(event) == "content_delta"
            if said and kind(event) == "heartbeat":
                check(event, request)
                break
        second = asyncio.create_task(
            events_of(client.run("patient", "and me", session=first.session_id, conflict="queue"))
        )
        while not [each async for each in client.list_runs(session=first.session_id, status="queued")]:
            await asyncio.sleep(0.05)
        await client.cancel_run(first.run_id, note="the user changed her mind")
    ended = await events_of(client.attach(first.run_id))
    check(ended["run_cancelled"], request)
    check((await second)["run_queued"], request)


def test_there_is_one_for_each_that_the_adapter_does_not_make() -> None:
    names: set[Any] = {path.stem for path in GOLDEN.glob("*.textproto")}
    mapped = {path.stem for path in GOLDEN.parent.glob("*.textproto")}
    known = {field.name for field in event_pb2.RunEvent.DESCRIPTOR.oneofs_by_name["event"].fields}
    assert names | mapped == known - {"unmapped"}
