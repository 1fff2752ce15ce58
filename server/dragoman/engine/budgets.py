"""Budgets: what principals and agents may spend in a day or a month, watched by every process for the runs that it holds.

A rule of the settings becomes an account for each principal, agent or pair that it fits, and a budget of a key one for the
key's principal. What an account has spent is read
from the ledger: what is older than `SETTLED` once an hour, and what came since whenever the figure is older than `max_age`
and somebody wants it: a run that begins, a caller who asks, or, for as long as the account has runs here, the watch itself.
Calls of this process count from the first report of usage on, booked or not. So a run knows of this process' spending at
once, and of other processes' `max_age` later. A call counts where it has begun, by the clock of the process that made it.

A budget that is used up begins no call. Calls that are under way by then are paid for all the same, so all runs together
overshoot a budget by one call each at the most, and by those that other processes have begun within `max_age`.

While the database does not answer, the figures stand still but for this process' own calls; nothing new is started then.
"""

import asyncio
import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import NamedTuple
from uuid import UUID

from dragoman import zones
from dragoman.engine.ports import BudgetPeriod, BudgetRule, BudgetState, Spending, SpendingQuery, Store
from dragoman.errors import BudgetExceeded, StorageUnavailable
from dragoman.patterns import matches
from dragoman.quotas import NO_QUOTAS, Quotas
from dragoman.records import Cancellation, ModelCall, Owner, utcnow
from dragoman.v1 import event_pb2

logger = logging.getLogger(__name__)

SETTLED = timedelta(minutes=10)
"""After so long a call is taken to be booked for good: longer than calls take."""

SETTLED_FOR = timedelta(hours=1)
"""How long the sum of settled calls is kept: then late bookings and new prices are seen, too."""

IDLE = timedelta(minutes=10)
"""After so long an account that nobody has asked for is forgotten."""

ATTEMPTS = 3
"""How often a figure is read again because a call has become known in the meantime."""


class Subject(NamedTuple):
    """Whose spending, and over what."""

    principal: str
    agent_name: str
    period: BudgetPeriod
    time_zone: str

    def __str__(self) -> str:
        """For callers."""
        names = []
        if self.principal:
            names.append(f"principal {self.principal}")
        if self.agent_name:
            names.append(f"agent {self.agent_name}")
        return " with ".join(names)


@dataclass(frozen=True, slots=True)
class _OwnCall:
    amount: Decimal
    start_time: datetime
    under_way: bool
    final: bool = False
    """Whether its run is over here: what is booked by then counts."""


class Account:
    """What one subject has spent in the present period."""

    def __init__(self, subject: Subject, currency: str) -> None:
        self.subject = subject
        self.watchers = 0
        self.asked = datetime.min.replace(tzinfo=UTC)
        self.reading: asyncio.Task[None] | None = None
        self._currency = currency
        self._start = self._end = datetime.min.replace(tzinfo=UTC)
        self._own: dict[UUID, _OwnCall] = {}
        self._forget()

    def _forget(self) -> None:
        self._settled = self._recent = Decimal(0)
        self._until = self._start
        self._settled_at: datetime | None = None
        self._read_at: datetime | None = None

    def spent(self, now: datetime) -> Decimal:
        """In the period that `now` is in."""
        self._turn(now)
        own = (call.amount for call in self._own.values() if self._start <= call.start_time < self._end)
        return self._settled + self._recent + sum(own, Decimal(0))

    def reset_time(self, now: datetime) -> datetime:
        """When the period ends that `now` is in."""
        self._turn(now)
        return self._end

    def note(self, call: ModelCall, *, under_way: bool) -> None:
        """Takes a call of this process as it is now."""
        amount = call.cost.amount if call.cost is not None else Decimal(0)
        self._own[call.id] = _OwnCall(amount, call.start_time, under_way)

    def release(self, call_ids: Collection[UUID]) -> None:
        """Nothing more will be heard of these calls."""
        for call_id in call_ids:
            if (call := self._own.get(call_id)) is not None:
                self._own[call_id] = replace(call, under_way=False, final=True)

    def is_stale(self, now: datetime, max_age: timedelta) -> bool:
        """Whether the ledger has to be asked."""
        self._turn(now)
        # A clock that was set back makes no figure younger.
        return self._read_at is None or abs(now - self._read_at) >= max_age

    def query(self, now: datetime) -> SpendingQuery:
        """What to ask the ledger."""
        self._turn(now)
        whole = self._settled_at is None or abs(now - self._settled_at) >= SETTLED_FOR
        start = self._start if whole else self._until
        return SpendingQuery(
            principal=self.subject.principal,
            agent_name=self.subject.agent_name,
            currency=self._currency,
            start_time=start,
            split_time=max(start, now - SETTLED),
            end_time=self._end,
            own=frozenset(self._own),
        )

    def take(self, query: SpendingQuery, found: Spending, now: datetime, *, anyway: bool = False) -> bool:
        """Takes what the ledger has answered at `now`, when it was asked.

        False: other calls have become known since, which may be in the sums, or not. (`anyway`: they count twice until
        the next reading, rather than not at all.)
        """
        if query.end_time != self._end or (not anyway and not query.own.issuperset(self._own)):
            return False
        whole = query.start_time == self._start
        self._settled = found.settled + (Decimal(0) if whole else self._settled)
        self._recent = found.recent
        self._until, self._read_at = query.split_time, now
        if whole:
            self._settled_at = now
        for call_id, booked in found.own.items():
            call = self._own.get(call_id)
            if call is None or call.under_way or not (call.final or call.amount == booked):
                continue
            del self._own[call_id]
            if query.split_time <= call.start_time < self._end:
                self._recent += booked
            elif self._start <= call.start_time < query.split_time:
                self._settled += booked
        self._drop_lost(now)
        return True

    def _drop_lost(self, now: datetime) -> None:
        """Forgets calls that are over and that the ledger will never have: their session was deleted under them."""
        lost = [
            call_id
            for call_id, call in self._own.items()
            if not call.under_way and abs(now - call.start_time) >= SETTLED_FOR
        ]
        for call_id in lost:
            del self._own[call_id]

    def _turn(self, now: datetime) -> None:
        if not self._start <= now < self._end:
            self._start, self._end = window(self.subject.period, self.subject.time_zone, now)
            self._forget()


class HeldBudget(NamedTuple):
    """A budget that holds for a run."""

    rule: BudgetRule
    account: Account


class RunBudget:
    """What one run looks at between its calls, and reports to. Used on the event loop only."""

    def __init__(self, budgets: "Budgets", held: Sequence[HeldBudget]) -> None:
        self._budgets = budgets
        self._held = held
        self._calls: set[UUID] = set()
        for _, account in held:
            account.watchers += 1

    def used_up(self) -> Cancellation | None:
        """Why the run must not make another call; None when it may."""
        error = self._budgets.exceeded(self._held)
        return None if error is None else cancellation(error)

    def note(self, call: ModelCall, *, under_way: bool) -> Cancellation | None:
        """Takes a call as it is now. Returns why it must have been the last one: nobody knows what it cost."""
        self._calls.add(call.id)
        for account in {id(account): account for _, account in self._held}.values():
            account.note(call, under_way=under_way)
        if not self._held or under_way or call.cost is not None:
            return None
        note = "a model call has no known price, but a budget holds"
        return Cancellation(event_pb2.CANCEL_REASON_BUDGET_EXCEEDED, note=note)

    def close(self) -> None:
        """The run has ended, or pauses."""
        for _, account in self._held:
            account.watchers -= 1
            account.release(self._calls)
        self._held = ()


class Budgets:
    """The budgets of one process. `time_zone`: whose days and months those of credentials mean. `max_age`: seconds after
    which the ledger is asked again. `clock`: that of the calls."""

    def __init__(
        self,
        store: Store,
        currency: str,
        rules: Sequence[BudgetRule] = (),
        *,
        time_zone: str = "UTC",
        max_age: float = 1.0,
        clock: Callable[[], datetime] = utcnow,
    ) -> None:
        self._store = store
        self._currency = currency
        self._rules = tuple(rules)
        self._time_zone = time_zone
        self._wanted = asyncio.Event()
        self._max_age = timedelta(seconds=max_age)
        self._clock = clock
        self._accounts: dict[Subject, Account] = {}
        self._readings: set[asyncio.Task[None]] = set()

    def held(self, owner: Owner, agent_name: str, own: Quotas = NO_QUOTAS) -> list[HeldBudget]:
        """The budgets that hold for the owner's runs of the agent: those of the settings, and of the caller's credentials.

        Each is a budget of the principal's: what it has spent by other credentials counts as well.
        """
        principal, now = owner.principal, self._clock()
        subjects = [
            (
                rule,
                Subject(
                    principal if rule.principal else "",
                    agent_name if rule.agent_name else "",
                    rule.period,
                    rule.time_zone,
                ),
            )
            for rule in self._rules
            if _fits(rule, principal, agent_name)
        ]
        for period, limit in ((BudgetPeriod.DAY, own.budget_day), (BudgetPeriod.MONTH, own.budget_month)):
            if limit is not None:
                rule = BudgetRule(principal, "", period, limit, self._time_zone)
                subjects.append((rule, Subject(principal, "", period, self._time_zone)))
        found = []
        for rule, subject in subjects:
            account = self._accounts.get(subject)
            if account is None:
                account = self._accounts[subject] = Account(subject, self._currency)
                self._wanted.set()
            account.asked = now
            found.append(HeldBudget(rule, account))
        return found

    def watch(self, held: Sequence[HeldBudget]) -> RunBudget:
        """For a run that is held here. Must be closed."""
        return RunBudget(self, held)

    async def admit(self, held: Sequence[HeldBudget]) -> None:
        """Returns when a run may begin. Raises BudgetExceeded, StorageUnavailable."""
        await self._refresh([account for _, account in held])
        if (error := self.exceeded(held)) is not None:
            raise error

    async def refused(self, held: Sequence[HeldBudget]) -> Cancellation | None:
        """Why a run that has waited for its turn must end instead; None when it may begin."""
        try:
            await self.admit(held)
        except BudgetExceeded as error:
            return cancellation(error)
        except StorageUnavailable:  # it is known to the caller, and asks again before its first call
            return None
        return None

    async def states(
        self, owner: Owner, agent_names: Sequence[str], own: Quotas = NO_QUOTAS
    ) -> list[BudgetState]:
        """The budgets that hold for the owner's runs of these agents, the owner's own first. Raises StorageUnavailable."""
        found: dict[tuple[BudgetRule, Subject], Account] = {}
        for agent_name in agent_names:
            for rule, account in self.held(owner, agent_name, own):
                found[rule, account.subject] = account
        await self._refresh(list(found.values()))
        now = self._clock()
        states = [
            BudgetState(
                principal=subject.principal,
                agent_name=subject.agent_name,
                period=subject.period,
                limit=rule.limit,
                spent=account.spent(now),
                currency=self._currency,
                reset_time=account.reset_time(now),
            )
            for (rule, subject), account in found.items()
        ]
        return sorted(states, key=lambda state: not state.principal)

    async def run(self) -> None:
        """Keeps the figures of accounts with runs up to date, and forgets those that nobody asks for.

        Never returns; without budgets it never wakes.
        """
        await self._wanted.wait()
        while True:
            await asyncio.sleep(max(self._max_age.total_seconds(), 0.05))
            try:
                await self.refresh()
            except StorageUnavailable:
                continue  # the store has logged it
            except Exception:
                logger.exception("a defect in watching budgets")
            self._prune()

    async def refresh(self) -> None:
        """Asks the ledger for all accounts that have runs here. Raises StorageUnavailable."""
        await self._refresh([account for account in self._accounts.values() if account.watchers])

    async def close(self) -> None:
        """Waits for what is being read."""
        if self._readings:
            await asyncio.wait(set(self._readings))

    def exceeded(self, held: Sequence[HeldBudget]) -> BudgetExceeded | None:
        """The budget among these that is used up, by what is known here; of several the one that lasts longest."""
        now = self._clock()
        used_up = [pair for pair in held if pair[1].spent(now) >= pair[0].limit]
        if not used_up:
            return None
        rule, account = max(used_up, key=lambda pair: pair[1].reset_time(now))
        limit = f"{self._currency} {rule.limit:f}"
        return BudgetExceeded(str(account.subject), str(rule.period), limit, account.reset_time(now), now=now)

    async def _refresh(self, accounts: Collection[Account]) -> None:
        """Brings what is stale up to date; who comes while it is being read waits for that."""
        now = self._clock()
        stale = {id(each): each for each in accounts if each.is_stale(now, self._max_age)}
        fresh = [each for each in stale.values() if each.reading is None]
        if fresh:
            task = asyncio.create_task(self._read(fresh), name="budgets")
            self._readings.add(task)
            task.add_done_callback(self._done)
            for account in fresh:
                account.reading = task
        reading = {each.reading for each in stale.values() if each.reading is not None}
        if reading:
            await asyncio.wait(reading)
            for task in reading:
                task.result()

    async def _read(self, accounts: Sequence[Account]) -> None:
        try:
            left = list(accounts)
            for attempt in range(1, ATTEMPTS + 1):
                now = self._clock()
                queries = [account.query(now) for account in left]
                answers = zip(left, queries, await self._store.spending(queries), strict=True)
                last = attempt == ATTEMPTS
                left = [
                    each for each, query, found in answers if not each.take(query, found, now, anyway=last)
                ]
                if not left:
                    return
        finally:
            for account in accounts:
                account.reading = None

    def _done(self, reading: asyncio.Task[None]) -> None:
        self._readings.discard(reading)
        if not reading.cancelled():
            reading.exception()  # who waited for it may be gone

    def _prune(self) -> None:
        now = self._clock()
        for subject, account in list(self._accounts.items()):
            if not account.watchers and account.reading is None and abs(now - account.asked) >= IDLE:
                del self._accounts[subject]


def cancellation(error: BudgetExceeded) -> Cancellation:
    """The end of a run, for that reason."""
    return Cancellation(event_pb2.CANCEL_REASON_BUDGET_EXCEEDED, note=error.message)


def window(period: BudgetPeriod, time_zone: str, now: datetime) -> tuple[datetime, datetime]:
    """The period that `now` is in, from and to, in UTC. One begins where the other ends, whatever the clocks there do."""
    at = zones.zone(time_zone)
    first = now.astimezone(at).date()
    if period is BudgetPeriod.MONTH:
        first = first.replace(day=1)
    while zones.start_of(first, at) > now:
        first = _before(period, first)
    while (end := zones.start_of(_after(period, first), at)) <= now:
        first = _after(period, first)
    return zones.start_of(first, at), end


def _after(period: BudgetPeriod, first: date) -> date:
    if period is BudgetPeriod.DAY:
        return first + timedelta(days=1)
    return (first + timedelta(days=31)).replace(day=1)


def _before(period: BudgetPeriod, first: date) -> date:
    before = first - timedelta(days=1)
    return before if period is BudgetPeriod.DAY else before.replace(day=1)


def _fits(rule: BudgetRule, principal: str, agent_name: str) -> bool:
    return (not rule.principal or matches(principal, rule.principal)) and (
        not rule.agent_name or matches(agent_name, rule.agent_name)
    )
