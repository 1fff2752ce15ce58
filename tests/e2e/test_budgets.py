"""A budget that is used up ends a run before its next model call, and no other one begins; the bill and the budget agree."""

from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.type.money_pb2 import Money
from support.e2e import MODEL_ID, ClaudeAgent, claude, kinds, reason_of, stubs

from dragoman.records import utcnow
from dragoman.testing.anthropic import FakeAnthropic, Text, ToolUse, Turn, Usage
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, run_service_pb2, usage_service_pb2

THOUSAND = Usage(input_tokens=1000, output_tokens=1000)
"""Costs 2 rands."""

TOOL = Turn([Text("Looking."), ToolUse("toolu_1", "weather", {"city": "Oslo"})], usage=THOUSAND)
ANSWER = Turn("Clear.", usage=THOUSAND)


def amount(money: Money) -> Decimal:
    return Decimal(money.units) + Decimal(money.nanos).scaleb(-9)


@pytest.fixture
def money(tmp_path: Path) -> dict[str, Any]:
    """A thousand tokens cost a rand."""
    prices, rates = tmp_path / "prices.toml", tmp_path / "rates.toml"
    prices.write_text(f'[anthropic."{MODEL_ID}"]\ninput = "100"\noutput = "100"\n')
    rates.write_text('[rates.ZAR]\n2020-01-01 = "10"\n')
    return {"prices_file": prices, "rates_file": rates}


def budget(rands: str, **more: str) -> dict[str, str]:
    """A day's, in a zone where it is not about midnight."""
    zone = "UTC" if 2 <= utcnow().hour < 22 else "Asia/Tokyo"
    return {"principal": "*", "period": "day", "amount": rands, "time_zone": zone, **more}


async def test_a_budget_that_is_used_up(database_url: str, tmp_path: Path, money: dict[str, Any]) -> None:
    async with FakeAnthropic() as fake:
        fake.script(TOOL, ANSWER, TOOL, ANSWER)
        rules = [budget("5"), budget("99", principal="", agent="assistant", period="month")]
        async with (
            serving(ClaudeAgent(claude(fake)), database_url=database_url, budgets=rules, **money) as server,
            stubs(server.address) as client,
        ):
            assert kinds(await client.run("assistant", "hello"))[-1] == "run_completed"
            events = await client.run("assistant", "hello again")
            # 2 and 2 rands of the first run, and 2 of this one: no further call.
            last = events[-1].run_cancelled
            assert last.reason == event_pb2.CANCEL_REASON_BUDGET_EXCEEDED
            assert last.note.startswith("the budget of ZAR 5 a day for principal local is used up until ")
            assert last.content == "Looking."
            assert (amount(last.cost.amount), last.model_calls) == (Decimal(2), 1)
            assert len(fake.requests) == 3

            with pytest.raises(grpc.aio.AioRpcError) as refused:
                await client.run("assistant", "and again")
            assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            details = reason_of(refused.value)
            assert details["ErrorInfo"].reason == "BUDGET_EXCEEDED"
            assert details["QuotaFailure"].violations[0].subject == "principal local"
            assert 0 < details["RetryInfo"].retry_delay.ToTimedelta().total_seconds() <= 86400 + 60
            runs = await client.runs.ListRuns(run_service_pb2.ListRunsRequest())
            assert len(runs.runs) == 2

            answer = await client.usage.GetBudget(usage_service_pb2.GetBudgetRequest())
            day, month = answer.budgets
            assert (day.principal, day.agent_name) == ("local", "")
            assert (month.principal, month.agent_name) == ("", "assistant")
            assert [amount(each.spent) for each in (day, month)] == [Decimal(6), Decimal(6)]
            assert [amount(each.remaining) for each in (day, month)] == [Decimal(0), Decimal(93)]
            assert datetime.now(UTC) < day.reset_time.ToDatetime(UTC) <= month.reset_time.ToDatetime(UTC)
            usage = await client.usage.QueryUsage(usage_service_pb2.QueryUsageRequest())
            assert Decimal(usage.groups[0].cost.exact_amount) == Decimal(6)
        assert len(fake.requests) == 3


async def test_the_budget_of_one_agent_is_nothing_to_another(tmp_path: Path, money: dict[str, Any]) -> None:
    async with FakeAnthropic() as fake:
        fake.script(ANSWER, ANSWER)
        one, two = ClaudeAgent(claude(fake)), ClaudeAgent(claude(fake))
        two.name = "other"
        rules = [budget("2", principal="", agent="assistant")]
        async with serving(one, two, budgets=rules, **money) as server, stubs(server.address) as client:
            await client.run("assistant", "hello")
            with pytest.raises(grpc.aio.AioRpcError, match="agent assistant"):
                await client.run("assistant", "hello")
            assert kinds(await client.run("other", "hello"))[-1] == "run_completed"
            of_other = usage_service_pb2.GetBudgetRequest(agent_name="other")
            assert not (await client.usage.GetBudget(of_other)).budgets
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await client.usage.GetBudget(usage_service_pb2.GetBudgetRequest(agent_name="nobody"))
            assert reason_of(unknown.value)["ErrorInfo"].reason == "AGENT_NOT_FOUND"


async def test_a_request_that_was_made_before_is_followed_although_nothing_is_left(
    money: dict[str, Any],
) -> None:
    async with FakeAnthropic() as fake:
        fake.script(ANSWER)
        agent = ClaudeAgent(claude(fake))
        async with serving(agent, budgets=[budget("1")], **money) as server, stubs(server.address) as client:
            first = await client.run("assistant", "hello", request_id="once")
            again = await client.run("assistant", "hello", request_id="once")
            assert again == first
            assert len(fake.requests) == 1
