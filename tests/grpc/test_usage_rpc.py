"""UsageService over a real channel."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from support.fake_ports import usage_row
from support.served import UNKNOWN, Served, refusal, serve

from dragoman.auth import Authenticator, KeyRing, Scope, make_key
from dragoman.engine.ports import BudgetPeriod, BudgetState, UsageDimension
from dragoman.records import ApiKey, utcnow
from dragoman.transport import convert
from dragoman.v1 import usage_service_pb2 as pb


async def test_a_grand_total(served: Served) -> None:
    served.store.usage = [usage_row()]
    answer = await served.usage.QueryUsage(pb.QueryUsageRequest())
    (group,) = answer.groups
    assert answer.next_page_token == ""
    assert (group.runs, group.model_calls, group.usage.total_tokens) == (1, 2, 15)
    assert (group.cost.exact_amount, group.cost.exact_usd) == ("9.123456789012", "0.500000000000")
    assert (group.cost.amount.currency_code, group.cost.amount.nanos) == ("ZAR", 123456789)
    assert group.cost.unpriced_calls == 1


GROUPS: list[tuple[list[int], tuple[str, ...], dict[str, str]]] = [
    ([pb.USAGE_DIMENSION_DAY], ("2026-01-02",), {"day": "2026-01-02"}),
    ([pb.USAGE_DIMENSION_AGENT], ("plain",), {"agent_name": "plain"}),
    ([pb.USAGE_DIMENSION_MEMBER], ("helper",), {"member_name": "helper"}),
    ([pb.USAGE_DIMENSION_MODEL], ("Anthropic", "claude"), {"provider": "Anthropic", "model": "claude"}),
    ([pb.USAGE_DIMENSION_USER], ("u",), {"user": "u"}),
    ([pb.USAGE_DIMENSION_SESSION], (UNKNOWN,), {"session_id": UNKNOWN}),
    ([pb.USAGE_DIMENSION_PRINCIPAL], ("local",), {"principal": "local"}),
    (
        [pb.USAGE_DIMENSION_USER, pb.USAGE_DIMENSION_MODEL, pb.USAGE_DIMENSION_DAY],
        ("u", "P", "m", "2026-01-02"),
        {"user": "u", "provider": "P", "model": "m", "day": "2026-01-02"},
    ),
]


@pytest.mark.parametrize(("group_by", "key", "fields"), GROUPS)
async def test_groups_name_their_dimensions_and_no_others(
    served: Served, group_by: list[Any], key: tuple[str, ...], fields: dict[str, str]
) -> None:
    served.store.usage = [usage_row(*key)]
    answer = await served.usage.QueryUsage(pb.QueryUsageRequest(group_by=group_by))
    names = {"day", "agent_name", "member_name", "provider", "model", "user", "session_id", "principal"}
    shown = {name: getattr(answer.groups[0], name) for name in names}
    assert {name: value for name, value in shown.items() if value} == fields


def test_every_dimension_is_known() -> None:
    assert set(convert.USAGE_DIMENSION.values()) == set(UsageDimension)
    assert set(convert.USAGE_DIMENSION) == set(pb.UsageDimension.values()) - {0}


async def test_the_store_is_asked_what_the_caller_asked(served: Served) -> None:
    request = pb.QueryUsageRequest(
        group_by=[pb.USAGE_DIMENSION_DAY],
        start_time=Timestamp(seconds=1_767_225_600, nanos=1_999),
        end_time=Timestamp(seconds=1_767_312_000),
        agent_name="plain",
        session_id=UNKNOWN,
        time_zone="Africa/Johannesburg",
    )
    await served.usage.QueryUsage(request)
    (query,) = served.store.queries
    assert query.group_by == (UsageDimension.DAY,)
    assert query.start_time == datetime(2026, 1, 1, microsecond=1, tzinfo=UTC)
    assert query.end_time == datetime(2026, 1, 2, tzinfo=UTC)
    assert (query.agent_name, str(query.session_id)) == ("plain", UNKNOWN)
    assert query.time_zone == "Africa/Johannesburg"


async def test_days_are_those_of_utc_unless_a_zone_is_named(served: Served) -> None:
    await served.usage.QueryUsage(pb.QueryUsageRequest(group_by=[pb.USAGE_DIMENSION_DAY]))
    assert [query.time_zone for query in served.store.queries] == ["UTC"]


@pytest.mark.parametrize(
    "name",
    ["Africa", "Europe/Nowhere", "europe/berlin", "../etc/passwd", "localtime", "right/UTC", "+02:00", " "],
)
async def test_an_unknown_time_zone_is_refused(served: Served, name: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.usage.QueryUsage(pb.QueryUsageRequest(time_zone=name))
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason, refused.fields) == (
        "INVALID_ARGUMENT",
        "INVALID_INPUT",
        ["time_zone"],
    )


async def test_a_token_of_another_time_zone_is_refused(served: Served) -> None:
    served.store.usage = [usage_row(f"2026-01-0{n}") for n in (1, 2, 3)]
    request = pb.QueryUsageRequest(group_by=[pb.USAGE_DIMENSION_DAY], page_size=1, time_zone="Asia/Tokyo")
    request.page_token = (await served.usage.QueryUsage(request)).next_page_token
    request.time_zone = "Europe/Berlin"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.usage.QueryUsage(request)
    assert (await refusal(caught.value)).reason == "PAGE_TOKEN_INVALID"


async def test_budgets_say_what_is_left(served: Served) -> None:
    reset = datetime(2026, 1, 3, tzinfo=UTC)
    limit = Decimal("12.5")
    served.engine.budget_states = [
        BudgetState("local", "", BudgetPeriod.DAY, limit, Decimal("2.000000000001"), "ZAR", reset),
        BudgetState("", "plain", BudgetPeriod.MONTH, limit, Decimal("12.500000001"), "ZAR", reset),
    ]
    answer = await served.usage.GetBudget(pb.GetBudgetRequest(agent_name="plain"))
    assert [(owner.principal, agent) for owner, agent in served.engine.budget_reads] == [("local", "plain")]
    day, month = answer.budgets
    assert (day.principal, day.agent_name, day.period) == ("local", "", pb.BUDGET_PERIOD_DAY)
    assert (month.principal, month.agent_name, month.period) == ("", "plain", pb.BUDGET_PERIOD_MONTH)
    assert (day.limit.currency_code, day.limit.units, day.limit.nanos) == ("ZAR", 12, 500_000_000)
    assert (day.spent.units, day.spent.nanos) == (2, 0)
    assert (day.remaining.units, day.remaining.nanos) == (10, 500_000_000)
    assert (month.remaining.units, month.remaining.nanos) == (0, 0)
    assert day.reset_time.ToJsonString() == "2026-01-03T00:00:00Z"


async def test_groups_come_in_pages(served: Served) -> None:
    served.store.usage = [usage_row(f"agent {n}, «ü»") for n in range(5)]
    request = pb.QueryUsageRequest(group_by=[pb.USAGE_DIMENSION_AGENT], page_size=2)
    read: list[str] = []
    for expected in (2, 2, 1):
        page = await served.usage.QueryUsage(request)
        assert len(page.groups) == expected
        read += [group.agent_name for group in page.groups]
        request.page_token = page.next_page_token
    assert request.page_token == ""
    assert read == [f"agent {n}, «ü»" for n in range(5)]


async def test_a_token_of_another_grouping_is_refused(served: Served) -> None:
    served.store.usage = [usage_row(f"{n}") for n in range(3)]
    by_agent, by_user = [pb.USAGE_DIMENSION_AGENT], [pb.USAGE_DIMENSION_USER]
    page = await served.usage.QueryUsage(pb.QueryUsageRequest(group_by=by_agent, page_size=1))
    request = pb.QueryUsageRequest(group_by=by_user, page_token=page.next_page_token)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.usage.QueryUsage(request)
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason, refused.fields) == (
        "INVALID_ARGUMENT",
        "PAGE_TOKEN_INVALID",
        ["page_token"],
    )


class OneKey:
    """A source of a single key."""

    def __init__(self, key: ApiKey) -> None:
        self.key = key

    async def all(self) -> list[ApiKey]:
        return [self.key]

    async def changed(self, within: timedelta) -> list[ApiKey]:
        return [self.key]


async def test_budgets_of_agents_that_a_caller_may_not_use_are_not_told() -> None:
    new = make_key("desk", now=utcnow(), scopes=[Scope.READ], agents=["plain"])
    ring = KeyRing(OneKey(new.key))
    await ring.open()
    reset = datetime(2026, 1, 3, tzinfo=UTC)
    try:
        async with serve(authenticator=Authenticator(ring)) as served:
            served.engine.budget_states = [
                BudgetState(principal, agent, BudgetPeriod.DAY, Decimal(1), Decimal(0), "ZAR", reset)
                for principal, agent in (("desk", ""), ("desk", "plain"), ("", "plain"), ("", "painter"))
            ]
            metadata = (("x-api-key", new.text),)
            answer = await served.usage.GetBudget(pb.GetBudgetRequest(), metadata=metadata)
            assert [(each.principal, each.agent_name) for each in answer.budgets] == [
                ("desk", ""),
                ("desk", "plain"),
                ("", "plain"),
            ]
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.usage.GetBudget(pb.GetBudgetRequest(agent_name="painter"), metadata=metadata)
            assert (await refusal(caught.value)).reason == "AGENT_NOT_FOUND"
    finally:
        await ring.close()
