"""Tokens and cost of a run are, to the last digit, what the model API billed times the price file, however it ends."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from support.e2e import MODEL_ID, ClaudeAgent, Stubs, claude, kinds, stubs

from dragoman.records import TokenUsage
from dragoman.testing.anthropic import (
    ErrorEvent,
    FakeAnthropic,
    HttpError,
    Outcome,
    Text,
    Thinking,
    ToolUse,
    Turn,
    Usage,
)
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, run_service_pb2, usage_pb2, usage_service_pb2

PRICES = {
    "input": "3.07",
    "output": "15.31",
    "cache_read": "0.301",
    "cache_write": "3.77",
    "cache_write_1h": "6.13",
}
RATE = "17.2345"

BIG = Usage(
    input_tokens=1_234,
    output_tokens=777,
    cache_read_input_tokens=45_671,
    cache_creation_5m_tokens=1_003,
    cache_creation_1h_tokens=509,
    first_output_tokens=3,
)


@asynccontextmanager
async def ledger_server(fake: FakeAnthropic, url: str, folder: Path, **settings: Any) -> AsyncIterator[Stubs]:
    prices, rates = folder / "prices.toml", folder / "rates.toml"
    prices.write_text(
        f'[anthropic."{MODEL_ID}"]\n'
        + "\n".join(f'{kind} = "{price}"' for kind, price in PRICES.items())
        + "\n"
    )
    rates.write_text(f'[rates.ZAR]\n2020-01-01 = "{RATE}"\n')
    agent = ClaudeAgent(claude(fake))
    async with (
        serving(agent, database_url=url, prices_file=prices, rates_file=rates, **settings) as server,
        stubs(server.address) as client,
    ):
        yield client


def bill(usages: list[TokenUsage]) -> tuple[Fraction, Fraction]:
    """US dollars and rands, exactly: the sum over the requests, each rounded once to 12 places as it is stored."""
    usd_total = amount_total = Fraction(0)
    for usage in usages:
        usd = (
            usage.input_tokens * Fraction(PRICES["input"])
            + usage.output_tokens * Fraction(PRICES["output"])
            + usage.cache_read_tokens * Fraction(PRICES["cache_read"])
            + (usage.cache_write_tokens - usage.cache_write_1h_tokens) * Fraction(PRICES["cache_write"])
            + usage.cache_write_1h_tokens * Fraction(PRICES["cache_write_1h"])
        ) / 1_000_000
        amount = round(usd * Fraction(RATE) * 10**12)
        usd_total += usd
        amount_total += Fraction(amount, 10**12)
    return usd_total, amount_total


def assert_equals_bill(usage: usage_pb2.TokenUsage, cost: usage_pb2.Cost, fake: FakeAnthropic) -> None:
    billed = fake.billed
    told = (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_tokens,
        usage.cache_write_tokens,
        usage.cache_write_1h_tokens,
    )
    assert told == (
        billed.input_tokens,
        billed.output_tokens,
        billed.cache_read_tokens,
        billed.cache_write_tokens,
        billed.cache_write_1h_tokens,
    )
    usd, amount = bill([request.billed for request in fake.requests])
    assert Fraction(Decimal(cost.exact_usd)) == usd
    assert Fraction(Decimal(cost.exact_amount)) == amount
    assert (cost.amount.currency_code, cost.unpriced_calls) == ("ZAR", 0)


async def assert_ledger(client: Stubs, last: event_pb2.RunEvent, run_id: str, fake: FakeAnthropic) -> None:
    """The last event, GetRun and QueryUsage all say what the fake billed."""
    end = getattr(last, last.WhichOneof("event") or "")
    assert_equals_bill(end.usage, end.cost, fake)
    run = (await client.runs.GetRun(run_service_pb2.GetRunRequest(run_id=run_id))).run
    assert_equals_bill(run.usage, run.cost, fake)
    usage = await client.usage.QueryUsage(usage_service_pb2.QueryUsageRequest())
    assert_equals_bill(usage.groups[0].usage, usage.groups[0].cost, fake)
    by_model = await client.usage.QueryUsage(
        usage_service_pb2.QueryUsageRequest(group_by=[usage_service_pb2.USAGE_DIMENSION_MODEL])
    )
    assert {(group.provider, group.model) for group in by_model.groups} == {("Anthropic", MODEL_ID)}
    assert sum(group.model_calls for group in by_model.groups) == end.model_calls


TOOL_TURN = Turn([Text("Looking."), ToolUse("toolu_1", "weather", {"city": "Oslo"})], usage=BIG)

ENDINGS: list[tuple[str, list[Turn | HttpError], str]] = [
    ("plain", [Turn("Hello there", usage=BIG)], "run_completed"),
    ("thinking and tools", [TOOL_TURN, Turn([Thinking("Hm."), Text("Clear.")], usage=BIG)], "run_completed"),
    ("cut by max_tokens", [Turn("Hello th", stop_reason="max_tokens", usage=BIG)], "run_completed"),
    ("refused at once", [HttpError(401)], "run_failed"),
    ("refused after a tool", [TOOL_TURN, HttpError(400)], "run_failed"),
    ("overloaded in the middle", [Turn("one two three", usage=BIG, error_after=ErrorEvent(2))], "run_failed"),
    ("dropped before any text", [Turn("one two three", usage=BIG, drop_after=0)], "run_failed"),
    ("dropped in the middle", [Turn("one two three four", usage=BIG, drop_after=2)], "run_failed"),
    (
        "dropped after the last usage",
        [TOOL_TURN, Turn("one two", usage=BIG, drop_after="usage")],
        "run_failed",
    ),
    ("hangs in the middle", [TOOL_TURN, Turn("one two three", usage=BIG, hang_after=2)], "run_failed"),
]


@pytest.mark.parametrize(("turns", "end"), [case[1:] for case in ENDINGS], ids=[case[0] for case in ENDINGS])
async def test_the_ledger_is_the_bill(
    turns: list[Turn | HttpError], end: str, database_url: str, tmp_path: Path
) -> None:
    async with FakeAnthropic() as fake:
        fake.script(*turns)
        # Only where it is waited for: a loaded machine must not seem to be a silent provider.
        hangs = any(isinstance(turn, Turn) and turn.hang_after is not None for turn in turns)
        settings = {"model_retries": 0, "model_timeout": 3.0 if hangs else 120.0}
        async with ledger_server(fake, database_url, tmp_path, **settings) as client:
            events = await client.run("assistant", "How is the weather in Oslo?")
            assert kinds(events)[-1] == end, events[-1]
            await assert_ledger(client, events[-1], events[0].run_started.run_id, fake)
            calls = [e.model_request_completed for e in events if e.HasField("model_request_completed")]
            if end == "run_completed":
                assert sum(Decimal(call.cost.exact_usd) for call in calls) == Decimal(
                    events[-1].run_completed.cost.exact_usd
                )


async def test_cancelled_in_the_middle(database_url: str, tmp_path: Path) -> None:
    async with FakeAnthropic() as fake:
        fake.script(TOOL_TURN, Turn("one two three four", usage=BIG, progress={2: 41}, hang_after=3))
        async with ledger_server(fake, database_url, tmp_path) as client:
            call = client.runs.Run(run_service_pb2.RunRequest(agent_name="assistant", message="hello"))
            text, run_id, last = "", "", event_pb2.RunEvent()
            async for event in call:
                run_id = run_id or event.run_started.run_id
                text += event.content_delta.text
                if text == "Looking.one two three" and not last.sequence:
                    last = event
                    answer = await client.runs.CancelRun(
                        run_service_pb2.CancelRunRequest(run_id=run_id, note="enough")
                    )
                    assert answer.run.status == run_service_pb2.RUN_STATUS_CANCELLED
                last = event
            assert last.run_cancelled.reason == event_pb2.CANCEL_REASON_CALLER
            assert last.run_cancelled.content == "Looking.one two three"
            await (await fake.request(2)).ended.wait()
            assert fake.requests[1].outcome is Outcome.LEFT
            await assert_ledger(client, last, run_id, fake)


async def test_a_caller_who_leaves_pays_for_the_whole_run(database_url: str, tmp_path: Path) -> None:
    gate = asyncio.Event()
    async with FakeAnthropic() as fake:
        fake.script(Turn("one two three four", usage=BIG, hang_after=2, resume=gate))
        async with ledger_server(fake, database_url, tmp_path) as client:
            call = client.runs.Run(run_service_pb2.RunRequest(agent_name="assistant", message="hello"))
            run_id = ""
            async for event in call:
                run_id = run_id or event.run_started.run_id
                if event.HasField("content_delta"):
                    break
            call.cancel()
            gate.set()
            while True:
                run = (await client.runs.GetRun(run_service_pb2.GetRunRequest(run_id=run_id))).run
                if run.status != run_service_pb2.RUN_STATUS_RUNNING:
                    break
                await asyncio.sleep(0.01)
            assert run.completed.content == "one two three four"
            assert_equals_bill(run.usage, run.cost, fake)
            assert fake.requests[0].outcome is Outcome.ANSWERED
