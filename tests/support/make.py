"""Records to store: plain ones with what a test wants to say, and Hypothesis strategies for any."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from uuid import UUID

from hypothesis import strategies as st

from dragoman import ids
from dragoman.records import (
    CallStatus,
    Cost,
    EventChunk,
    Media,
    Message,
    ModelCall,
    Owner,
    Run,
    RunEnd,
    RunStatus,
    Session,
    TokenUsage,
    Totals,
    totals,
)

ALICE = Owner("service", "alice")
NOW = datetime(2026, 3, 4, 5, 6, 7, 123456, tzinfo=UTC)


def session(owner: Owner = ALICE, agent_name: str = "example", time: datetime = NOW) -> Session:
    return Session(
        id=ids.new_id(),
        owner=owner,
        agent_name=agent_name,
        title="",
        metadata={},
        inputs={},
        create_time=time,
        update_time=time,
    )


def run(of: Session, time: datetime = NOW) -> Run:
    return Run(
        id=ids.new_id(),
        session_id=of.id,
        owner=of.owner,
        agent_name=of.agent_name,
        model="claude-x",
        provider="anthropic",
        status=RunStatus.RUNNING,
        metadata={},
        create_time=time,
        update_time=time,
        totals=Totals(currency="ZAR"),
    )


def message(of: Run, role: str = "user", parts: bytes = b'{"content":"hi"}') -> Message:
    return Message(
        id=ids.new_id(),
        run_id=of.id,
        parent_run_id=None,
        agent_name=of.agent_name,
        role=role,
        provider="",
        model="",
        parts=parts,
        create_time=NOW,
    )


def member_message(of: Run, member: UUID) -> Message:
    return replace(message(of, "assistant"), run_id=member, parent_run_id=of.id, agent_name="member")


def medium(data: bytes, mime_type: str = "image/png") -> Media:
    return Media(hashlib.sha256(data).digest(), mime_type, data)


def cost(usd: Decimal, amount: Decimal, currency: str = "ZAR") -> Cost:
    return Cost(usd, amount, currency, "test 1", Decimal("18.25"), date(2026, 3, 4), {})


def call(of: Run, *, priced: Cost | None = None) -> ModelCall:
    return ModelCall(
        id=ids.new_id(),
        run_id=of.id,
        parent_run_id=None,
        agent_name=of.agent_name,
        kind="model",
        provider="anthropic",
        model="claude-x",
        usage=TokenUsage(3, 5),
        cost=priced,
        status=CallStatus.COMPLETED,
        stop_reason="end_turn",
        start_time=of.create_time,
        duration=timedelta(seconds=1),
    )


def chunk(of: Run, first: int, *events: bytes) -> EventChunk:
    return EventChunk(of.id, first, first + len(events) - 1, events)


def end(
    of: Run,
    *,
    status: RunStatus = RunStatus.COMPLETED,
    first: int = 1,
    events: Sequence[bytes] = (b"started", b"ended"),
    messages: Sequence[Message] = (),
    media: Sequence[Media] = (),
    calls: Sequence[ModelCall] = (),
) -> RunEnd:
    return RunEnd(
        run_id=of.id,
        session_id=of.session_id,
        owner=of.owner,
        status=status,
        end_time=of.create_time + timedelta(seconds=2),
        chunk=chunk(of, first, *events),
        totals=totals(calls, "ZAR"),
        messages=tuple(messages),
        media=tuple(media),
        calls=tuple(calls),
    )


names = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
_zones = st.sampled_from([UTC, timezone(timedelta(hours=5, minutes=45)), timezone(timedelta(hours=-9))])
_years = [datetime(year, 1, 1, tzinfo=UTC).replace(tzinfo=None) for year in (1990, 2190)]
moments = st.datetimes(*_years, timezones=_zones)
durations = st.timedeltas(timedelta(0), timedelta(days=365))
money = st.decimals(Decimal(-9_000_000), Decimal(9_000_000), places=12)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=8,
)
json_objects = st.dictionaries(names, json_values, max_size=4)
labels = st.dictionaries(names, names, max_size=4)
usages = st.builds(TokenUsage, *[st.integers(0, 2**50)] * 10)
costs = st.builds(
    Cost,
    usd=money,
    amount=money,
    currency=st.sampled_from(["ZAR", "USD", "EUR"]),
    price_version=names,
    exchange_rate=st.decimals(Decimal(0), Decimal(10**9), allow_nan=False, places=9),
    rate_date=st.dates(date(1990, 1, 1), date(2190, 1, 1)),
    unit_prices=st.dictionaries(names, st.decimals(allow_nan=False, allow_infinity=False), max_size=8),
)
