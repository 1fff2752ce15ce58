"""What members of a team have cost, and why they failed: told to the mapping from the ledger.

It knows nothing of the run whose books these are: a run that knows its mapping, and is known by it, would stay in memory with
all of its messages until the garbage collector comes by, which counts objects and not their size.
"""

from typing import Any

from dragoman.adapter import failures
from dragoman.adapter.calls import Ledger
from dragoman.errors import DragomanError
from dragoman.records import Totals, totals


class MemberBooks:
    """Those of one run."""

    def __init__(self, ledger: Ledger, currency: str) -> None:
        self.spent_before: dict[str, Totals] = {}
        """What members had spent before a pause, by run id."""
        self._ledger = ledger
        self._currency = currency

    def spent(self, member_run_id: str) -> Totals:
        """What a member's own calls have come to, those before a pause included."""
        now = totals(self._ledger.of_run(member_run_id), self._currency)
        before = self.spent_before.get(member_run_id)
        return now if before is None else before + now

    def why_failed(self, event: Any, name: str, provider: str) -> DragomanError:
        """Why a member failed: of Agno's event, the member's name and its model's provider."""
        call = self._ledger.failed_with(event.content, event.run_id)
        return failures.classify(
            event.error_type,
            event.content,
            call.error if call else None,
            status=call.http_status if call else None,
            provider=call.provider if call else provider,
            agent_name=name,
        )
