"""Limits, turns and policies: what a caller asks for is what the engine is told, and nonsense is refused."""

from datetime import timedelta
from decimal import Decimal
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.type.money_pb2 import Money
from hypothesis import given
from hypothesis import strategies as st
from support.served import Served, refusal

from dragoman import wire
from dragoman.records import Limits, SessionConflict
from dragoman.transport.limits import MAX_COST, MAX_DURATION, read_limits
from dragoman.transport.validation import Checks
from dragoman.v1 import run_service_pb2 as pb

BILLION = 1_000_000_000


def run(**fields: Any) -> pb.RunRequest:
    return pb.RunRequest(agent_name="plain", message="hi", **fields)


def cost(units: int = 0, nanos: int = 0, currency: str = "") -> pb.RunLimits:
    return pb.RunLimits(max_cost=Money(units=units, nanos=nanos, currency_code=currency))


def span(seconds: int = 0, nanos: int = 0) -> pb.RunLimits:
    return pb.RunLimits(max_duration=Duration(seconds=seconds, nanos=nanos))


ACCEPTED: list[tuple[str, pb.RunLimits, Limits]] = [
    ("none", pb.RunLimits(), Limits()),
    ("cost", cost(2, 500_000_000, "ZAR"), Limits(max_cost=Decimal("2.5"))),
    ("the smallest cost", cost(0, 1), Limits(max_cost=Decimal("0.000000001"))),
    ("the largest cost", cost(10**12), Limits(max_cost=MAX_COST)),
    ("tokens", pb.RunLimits(max_total_tokens=1), Limits(max_total_tokens=1)),
    ("very many tokens", pb.RunLimits(max_total_tokens=2**63 - 1), Limits(max_total_tokens=2**63 - 1)),
    ("duration", span(1, 500_000_000), Limits(max_duration=timedelta(seconds=1.5))),
    ("the shortest", span(0, 1), Limits(max_duration=timedelta(microseconds=1))),
    ("the longest", span(30 * 86400), Limits(max_duration=MAX_DURATION)),
]


@pytest.mark.parametrize(("limits", "read"), [c[1:] for c in ACCEPTED], ids=[c[0] for c in ACCEPTED])
async def test_limits_reach_the_engine(served: Served, limits: pb.RunLimits, read: Limits) -> None:
    await served.runs.Execute(run(limits=limits))
    assert served.engine.runs[0].draft.limits == read


REFUSED: list[tuple[str, pb.RunLimits, list[str]]] = [
    ("no cost at all", cost(), ["limits.max_cost"]),
    ("negative cost", cost(-1, -5), ["limits.max_cost"]),
    ("signs that differ", cost(1, -1), ["limits.max_cost.nanos"]),
    ("signs that differ, negative", cost(-1, 1), ["limits.max_cost.nanos"]),
    ("a whole unit of nanos", cost(0, BILLION), ["limits.max_cost.nanos"]),
    ("more than can be kept", cost(10**12, 1), ["limits.max_cost"]),
    ("the most that fits", cost(2**63 - 1, BILLION - 1), ["limits.max_cost"]),
    ("another currency", cost(1, 0, "USD"), ["limits.max_cost.currency_code"]),
    ("small letters", cost(1, 0, "zar"), ["limits.max_cost.currency_code"]),
    ("negative tokens", pb.RunLimits(max_total_tokens=-1), ["limits.max_total_tokens"]),
    ("no time", span(), ["limits.max_duration"]),
    ("negative time", span(-1), ["limits.max_duration"]),
    ("time of two signs", span(1, -1), ["limits.max_duration.nanos"]),
    ("a whole second of nanos", span(0, BILLION), ["limits.max_duration.nanos"]),
    ("a moment too long", span(30 * 86400, 1), ["limits.max_duration"]),
    ("the longest that fits", span(2**63 - 1), ["limits.max_duration"]),
    (
        "everything",
        pb.RunLimits(
            max_cost=Money(units=-1, currency_code="EUR"), max_total_tokens=-5, max_duration=Duration()
        ),
        [
            "limits.max_total_tokens",
            "limits.max_cost.currency_code",
            "limits.max_cost",
            "limits.max_duration",
        ],
    ),
]


@pytest.mark.parametrize(("limits", "fields"), [c[1:] for c in REFUSED], ids=[c[0] for c in REFUSED])
async def test_limits_that_are_none(served: Served, limits: pb.RunLimits, fields: list[str]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(run(limits=limits))
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason) == ("INVALID_ARGUMENT", "INVALID_INPUT")
    assert refused.fields == fields
    assert served.engine.runs == []


@given(st.decimals(Decimal("1e-9"), MAX_COST, places=9))
def test_every_cost_is_read_to_the_last_nano(amount: Decimal) -> None:
    checks = Checks()
    limits = pb.RunLimits(max_cost=wire.to_money(amount, "ZAR"))
    assert read_limits(limits, "ZAR", checks).max_cost == amount
    checks.done()


@given(st.timedeltas(timedelta(microseconds=1), MAX_DURATION))
def test_every_duration_is_read_to_the_microsecond(duration: timedelta) -> None:
    checks = Checks()
    limits = pb.RunLimits(max_duration=wire.duration(duration))
    assert read_limits(limits, "ZAR", checks).max_duration == duration
    checks.done()


CONFLICTS = {
    pb.SESSION_CONFLICT_UNSPECIFIED: SessionConflict.REJECT,
    pb.SESSION_CONFLICT_REJECT: SessionConflict.REJECT,
    pb.SESSION_CONFLICT_QUEUE: SessionConflict.QUEUE,
    pb.SESSION_CONFLICT_INTERRUPT: SessionConflict.INTERRUPT,
}


async def test_every_conflict_policy_reaches_the_engine(served: Served) -> None:
    assert set(CONFLICTS) == set(pb.SessionConflict.values())
    for policy in CONFLICTS:
        await served.runs.Execute(run(session_conflict=policy))
    assert [live.draft.conflict for live in served.engine.runs] == list(CONFLICTS.values())


async def test_only_a_run_that_is_cancelled_with_its_caller_has_his_deadline(served: Served) -> None:
    cases = [
        (pb.DISCONNECT_POLICY_UNSPECIFIED, 60, False),
        (pb.DISCONNECT_POLICY_DETACH, 60, False),
        (pb.DISCONNECT_POLICY_CANCEL, 60, True),
        (pb.DISCONNECT_POLICY_CANCEL, None, True),
    ]
    assert {case[0] for case in cases} == set(pb.DisconnectPolicy.values())
    for policy, timeout, cancel in cases:
        await served.runs.Execute(run(disconnect_policy=policy), timeout=timeout)
        draft = served.engine.runs[-1].draft
        assert draft.cancel_on_disconnect is cancel
        if cancel and timeout:
            assert draft.deadline is not None
            assert 0 < draft.deadline < 60 * 1.02
        else:
            assert draft.deadline is None
    # What the agent is asked about has no deadline yet: it would be wrong by the time the agent has answered.
    assert [draft.deadline for draft in served.catalog.accepted_runs] == [None] * 4


async def test_policies_of_the_future_are_refused(served: Served) -> None:
    future: Any = {"session_conflict": 9, "disconnect_policy": 9}
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(run(**future))
    assert (await refusal(caught.value)).fields == ["session_conflict", "disconnect_policy"]
