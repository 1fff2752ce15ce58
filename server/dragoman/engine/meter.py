"""What a run may still spend.

The runner asks before every request to a model, and reports what a provider says of tokens while it answers and when it
is done. A limit that is reached when a call has ended lets the run finish what it has, and is enforced at the next
request; one that is passed inside an answer ends the run there. So a run is never more than one call over, and a run
whose last answer reached the limit has its answer. Budgets, which many runs share, are looked at between calls alone.

Everything that is noted is also booked, so that a crash leaves a bill.
"""

from collections.abc import Callable
from decimal import Decimal
from uuid import UUID

from dragoman.engine.budgets import RunBudget
from dragoman.records import Cancellation, Limits, ModelCall, Totals, totals
from dragoman.v1 import event_pb2


class RunMeter:
    """Satisfies `ports.Meter`. `before`: what the run had spent before its last pause. `budget`: those that hold for it."""

    def __init__(
        self,
        limits: Limits,
        before: Totals,
        *,
        end: Callable[[Cancellation], None],
        book: Callable[[ModelCall], None],
        budget: RunBudget | None = None,
        ended: Callable[[ModelCall], None] = lambda _: None,
    ) -> None:
        """`ended`: told of each call that has ended."""
        self._ended_with = ended
        self._limits = limits
        self._budget = budget
        self._ended = before
        self._under_way: dict[UUID, ModelCall] = {}
        self._end = end
        self._book = book
        self._exhausted = self._over(before, inclusive=True)

    def may_call(self) -> bool:
        """Whether another request may be made; when not, the run is ended."""
        exhausted = self._exhausted
        if exhausted is None and self._budget is not None:
            exhausted = self._budget.used_up()
        if exhausted is None:
            return True
        self._end(exhausted)
        return False

    def note(self, call: ModelCall, *, under_way: bool) -> None:
        """Takes a call as it is now."""
        unknown = None if self._budget is None else self._budget.note(call, under_way=under_way)
        self._book(call)
        if under_way:
            self._under_way[call.id] = call
        else:
            self._under_way.pop(call.id, None)
            self._ended_with(call)
            self._ended += totals((call,), self._ended.currency)
        over = self._over(
            self._ended + totals(self._under_way.values(), self._ended.currency), inclusive=not under_way
        )
        self._exhausted = self._exhausted or over or unknown
        if under_way and over is not None:
            self._end(over)

    def _over(self, spent: Totals, *, inclusive: bool) -> Cancellation | None:
        """Which limit is passed (`inclusive`: or reached)."""
        tokens, cost = self._limits.max_total_tokens, self._limits.max_cost
        if tokens is not None and _beyond(spent.usage.total_tokens, tokens, inclusive):
            return Cancellation(event_pb2.CANCEL_REASON_MAX_TOKENS, note=f"the limit is {tokens} tokens")
        if cost is not None:
            if _beyond(spent.amount, cost, inclusive):
                return Cancellation(
                    event_pb2.CANCEL_REASON_MAX_COST, note=f"the limit is {spent.currency} {cost}"
                )
            # Of a call that has ended without a price nobody can say that it was within the limit.
            if self._ended.unpriced_calls:
                return Cancellation(
                    event_pb2.CANCEL_REASON_MAX_COST,
                    note="a model call has no known price, but cost is limited",
                )
        return None


def _beyond(spent: Decimal | int, limit: Decimal | int, inclusive: bool) -> bool:
    return spent >= limit if inclusive else spent > limit
