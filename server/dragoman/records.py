"""The plain records that rooms hand to each other: what is stored of a session, a run, a message and a model call.

Frozen dataclasses with no behaviour beyond arithmetic. Times are aware UTC `datetime`s with microseconds; money is
`Decimal`; ids are `uuid.UUID` (v7); an absent figure is None, never 0.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from enum import StrEnum
from typing import Any, Final
from uuid import UUID

from dragoman.quotas import NO_QUOTAS, Quotas
from dragoman.v1 import event_pb2

AGENT_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,128}")
"""What an agent can be called."""

MONEY_SCALE = 12
"""Decimal places that a stored amount keeps. A price per million tokens with six places is exact at this scale."""

_QUANTUM = Decimal(1).scaleb(-MONEY_SCALE)


def money(amount: Decimal) -> Decimal:
    """`amount` at the scale that is stored (half to even): what is computed is what is read back, to the last digit."""
    return amount.quantize(_QUANTUM, rounding=ROUND_HALF_EVEN)


def utcnow() -> datetime:
    """The present moment, aware, in UTC."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose a row is. Every store call takes one, and every query is scoped by both columns."""

    principal: str
    user: str = ""
    """The user for whom a trusted service acts; empty when the principal acts for itself."""


@dataclass(frozen=True, slots=True)
class AllOwners:
    """Everybody's rows, for an administrator: those of a principal, or for a user, when they are named. No query takes it
    that gives out contents."""

    principal: str = ""
    user: str = ""


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by which a service proves who it is. The secret itself is kept nowhere."""

    id: str
    """Its public part, by which it is looked up: it may be shown and logged."""
    principal: str
    """Whose key it is. Several keys may be one principal's."""
    title: str
    """For people."""
    salt: bytes = field(repr=False)
    digest: bytes = field(repr=False)
    """HMAC-SHA256 of the secret, under the salt; 32 bytes each."""
    scopes: tuple[str, ...]
    """What it may do: `read`, `run`, `admin`."""
    agents: tuple[str, ...]
    """Patterns (`*`, `shop-*`) of the agents that it may use."""
    acts_for_users: bool
    """Whether it may name, call by call, the user for whom it acts."""
    create_time: datetime
    expire_time: datetime | None = None
    revoke_time: datetime | None = None
    quotas: Quotas = NO_QUOTAS
    """How much may be done with it."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens by kind, as the provider billed them. `input_tokens` excludes cache tokens."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    """All tokens written to the cache, whatever they live."""
    cache_write_1h_tokens: int = 0
    """Those of `cache_write_tokens` that live one hour and cost more."""
    reasoning_tokens: int = 0
    """Those of `output_tokens` that were reasoning, where the provider says so."""
    input_audio_tokens: int = 0
    output_audio_tokens: int = 0
    input_image_tokens: int = 0
    """Those of `input_tokens` that were pictures, where the provider counts them apart; audio likewise."""
    output_image_tokens: int = 0

    def __add__(self, other: "TokenUsage") -> "TokenUsage":
        return TokenUsage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_tokens + other.cache_read_tokens,
            self.cache_write_tokens + other.cache_write_tokens,
            self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            self.reasoning_tokens + other.reasoning_tokens,
            self.input_audio_tokens + other.input_audio_tokens,
            self.output_audio_tokens + other.output_audio_tokens,
            self.input_image_tokens + other.input_image_tokens,
            self.output_image_tokens + other.output_image_tokens,
        )

    @property
    def total_tokens(self) -> int:
        """What a token cap counts: input, output and cache tokens together."""
        return self.input_tokens + self.output_tokens + self.cache_read_tokens + self.cache_write_tokens


@dataclass(frozen=True, slots=True)
class Cost:
    """The price of one model call, fixed when it is stored, with all that is needed to check it later."""

    usd: Decimal
    amount: Decimal
    """The same in the reporting currency, both at `MONEY_SCALE`."""
    currency: str
    """ISO 4217, upper case."""
    price_version: str
    """Where the unit prices came from, for example `genai-prices 0.2.3` or `overrides 3f2a9c`."""
    exchange_rate: Decimal
    """Reporting currency per US dollar."""
    rate_date: date
    unit_prices: Mapping[str, Decimal]
    """US dollars per million tokens, by the `TokenUsage` field priced with it."""


@dataclass(frozen=True, slots=True)
class Totals:
    """What several model calls came to. A cost is the sum over the priced calls; `unpriced_calls` counts the rest."""

    usage: TokenUsage = TokenUsage()
    usd: Decimal = Decimal(0)
    amount: Decimal = Decimal(0)
    currency: str = ""
    model_calls: int = 0
    unpriced_calls: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.usage + other.usage,
            self.usd + other.usd,
            self.amount + other.amount,
            self.currency,
            self.model_calls + other.model_calls,
            self.unpriced_calls + other.unpriced_calls,
        )


class CallStatus(StrEnum):
    """How a model call ended."""

    COMPLETED = "completed"
    FAILED = "failed"
    """The provider refused or broke off; `usage` is what it had reported by then."""
    INTERRUPTED = "interrupted"
    """We broke off (cancel, deadline, cap); likewise."""


@dataclass(frozen=True, slots=True)
class ModelCall:
    """One request to a model: the ledger's row."""

    id: UUID
    run_id: UUID
    """The run that made it: a member's own id within a team."""
    parent_run_id: UUID | None
    agent_name: str
    kind: str
    """Its part in the run: `model`, or Agno's `parser_model`, `output_model`, `memory_model`, ..."""
    provider: str
    model: str
    usage: TokenUsage
    cost: Cost | None
    """None: no price is known (or no exchange rate)."""
    status: CallStatus
    stop_reason: str
    """The provider's own word (`end_turn`, `tool_use`, `max_tokens`, ...); empty when it never said."""
    start_time: datetime
    duration: timedelta
    time_to_first_token: timedelta | None = None
    attempt: int = 1
    """How many requests it took: those that the provider refused, or that did not reach it, are no calls of their own."""
    failure: str = field(default="", compare=False)
    """Of one that failed: the kind, as `ModelUnavailable` has it. Not stored: for those who watch."""


def totals(calls: Iterable[ModelCall], currency: str) -> Totals:
    """The sum over `calls`, in the reporting currency in which they were priced."""
    usage, usd, amount, count, unpriced = TokenUsage(), Decimal(0), Decimal(0), 0, 0
    for call in calls:
        count += 1
        usage += call.usage
        if call.cost is None:
            unpriced += 1
        else:
            usd += call.cost.usd
            amount += call.cost.amount
    return Totals(usage, usd, amount, currency, count, unpriced)


@dataclass(frozen=True, slots=True)
class Session:
    """A conversation of one owner with one agent."""

    id: UUID
    owner: Owner
    agent_name: str
    title: str
    metadata: Mapping[str, str]
    inputs: Mapping[str, object]
    """What the agent's CreateSessionModel accepted, as JSON."""
    create_time: datetime
    update_time: datetime
    message_count: int = 0
    run_count: int = 0
    active_run_id: UUID | None = None


class RunStatus(StrEnum):
    """Where a run stands. The last three are final."""

    QUEUED = "queued"
    """It waits for its session's turn."""
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """True when nothing can follow."""
        return self in (RunStatus.COMPLETED, RunStatus.FAILED, RunStatus.CANCELLED)

    @property
    def held(self) -> bool:
        """True when a process holds the run (its task runs or waits there) and renews its lease."""
        return self in (RunStatus.QUEUED, RunStatus.RUNNING)


class SessionConflict(StrEnum):
    """What a run does that finds its session's turn taken."""

    REJECT = "reject"
    QUEUE = "queue"
    INTERRUPT = "interrupt"


@dataclass(frozen=True, slots=True)
class RequestKey:
    """A caller's idempotency key: unique per owner, across all methods."""

    id: str
    digest: bytes = field(repr=False)
    """SHA-256 of the method and the request; the same id with another digest is another request."""


@dataclass(frozen=True, slots=True)
class Cancellation:
    """Why, and by whom, a run is ended."""

    reason: event_pb2.CancelReason.ValueType
    by: str = ""
    """A principal; empty when the server did it."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a run may spend; None: no limit. Kept with the run, so that they hold after a pause too."""

    max_cost: Decimal | None = None
    """In the reporting currency."""
    max_total_tokens: int | None = None
    max_duration: timedelta | None = None
    """Of the time that it runs, without queue and pauses."""

    def within(self, other: "Limits") -> "Limits":
        """The lower of each."""
        return Limits(
            _least(self.max_cost, other.max_cost),
            _least(self.max_total_tokens, other.max_total_tokens),
            _least(self.max_duration, other.max_duration),
        )


def _least(one: Any, other: Any) -> Any:
    return other if one is None else one if other is None else min(one, other)


@dataclass(frozen=True, slots=True)
class Pause:
    """What a paused run needs to go on, in any process."""

    continuation: bytes = field(repr=False)
    """The adapter's own; opaque to everybody else."""
    content: str = field(repr=False)
    """The text that it has written until now."""
    active: timedelta
    """How long it has run, of `Limits.max_duration`."""
    expire_time: datetime
    """When it ends unless it is continued."""


@dataclass(frozen=True, slots=True)
class Run:
    """One turn of an agent in a session."""

    id: UUID
    session_id: UUID
    owner: Owner
    agent_name: str
    model: str
    provider: str
    status: RunStatus
    metadata: Mapping[str, str]
    create_time: datetime
    update_time: datetime
    end_time: datetime | None = None
    last_sequence: int = 0
    """Of the events that are stored."""
    totals: Totals = Totals()
    last_event: bytes = b""
    """The serialized RunEvent that ended (or paused) the run; empty while it runs."""
    holder: UUID | None = None
    """The process that runs it; None when nobody does."""
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class Media:
    """A content-addressed medium of an owner. Its public id is the hash in hex."""

    sha256: bytes
    mime_type: str
    data: bytes = field(repr=False)

    @property
    def id(self) -> str:
        """The public id."""
        return self.sha256.hex()


@dataclass(frozen=True, slots=True)
class Message:
    """One Agno `Message` as a row of `chat_events`."""

    id: UUID
    run_id: UUID
    parent_run_id: UUID | None
    agent_name: str
    role: str
    """`user`, `assistant`, `tool` (never `system`: that one is rebuilt for every run)."""
    provider: str
    model: str
    parts: bytes = field(repr=False)
    """JSON: the whole `to_dict()` plus what that loses; large media by reference (see adapter/messages.py)."""
    create_time: datetime
    media: tuple[bytes, ...] = ()
    """The hashes of its media, in order: of those that `parts` refers to, and of small ones that are in it."""
    usage: TokenUsage | None = None
    cost: Cost | None = None
    sequence: int = 0
    """The place in the session, from 1; 0 until it is stored."""


@dataclass(frozen=True, slots=True)
class EventChunk:
    """Consecutive events of one run: the unit in which the event log is written and read."""

    run_id: UUID
    first_sequence: int
    last_sequence: int
    events: tuple[bytes, ...] = field(repr=False)
    """Serialized RunEvents, one per sequence."""


@dataclass(frozen=True, slots=True)
class RunCalls:
    """Model calls of a run under way, as far as they have come: booked before the run ends, in case it never does."""

    run_id: UUID
    session_id: UUID
    owner: Owner
    agent_name: str
    currency: str
    calls: tuple[ModelCall, ...]


@dataclass(frozen=True, slots=True)
class RunEnd:
    """All that is written, in one transaction, when a run ends or pauses."""

    run_id: UUID
    session_id: UUID
    owner: Owner
    status: RunStatus
    end_time: datetime
    chunk: EventChunk
    """The last events, the terminal one (`chunk.events[-1]`) included."""
    totals: Totals
    messages: tuple[Message, ...] = ()
    media: tuple[Media, ...] = ()
    calls: tuple[ModelCall, ...] = ()
    """Those since the run was started or continued."""
    booked: bool = False
    """Whether some of `calls` may have been booked before: they are replaced."""
    pause: Pause | None = None
    """When it pauses."""
    only_paused: bool = False
    """Set when a process that does not hold it ends a paused run: only if it is paused still, at the sequence before
    `chunk`."""
    lapsed: timedelta | None = None
    """Set when another process ends it as abandoned: only if its lease is still older than this by the database's clock."""
    opening: EventChunk | None = None
    """What an abandoned run begins with, if no event of it is stored."""
