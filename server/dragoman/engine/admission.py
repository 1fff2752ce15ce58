"""How many runs there may be here: all together, and of one principal.

A place is taken before anything is asked of the store, and held while the run is claimed, waits for its turn, and runs. It
is given back when the run's end is stored, before anybody is told of the end, so that who waits for a run before he starts
the next is never refused for the one that has ended. A run that pauses gives its place back, and needs one to go on.

The same request, made again while it is being claimed, is no other run: it gets what the first comes to when there is no
place for it. One that comes later is found in the store, by whoever asks.
"""

import asyncio

from dragoman.engine.run import LiveRun
from dragoman.engine.watch import StoredRun
from dragoman.errors import TooManyRuns
from dragoman.quotas import Quotas, QuotaTable, Slot, Slots
from dragoman.records import Owner, RequestKey

Claim = asyncio.Task[LiveRun | StoredRun]


class Admission:
    """The places for runs of one process. `max_runs`: of all together; `quotas`: of each principal."""

    def __init__(self, max_runs: int, quotas: QuotaTable) -> None:
        self.places = Slots()
        self._max_runs = max_runs
        self._quotas = quotas
        self._claims: dict[tuple[Owner, RequestKey], Claim] = {}

    def admit(self, principal: str, own: Quotas) -> Slot:
        """A place for a run of the principal's, whose credentials say `own`. Raises TooManyRuns."""
        limit = self._quotas.of(principal, own).max_runs
        if limit is not None and self.places.of(principal) >= limit:
            raise TooManyRuns(limit, principal=principal)
        if self.places.total >= self._max_runs:
            raise TooManyRuns(self._max_runs)
        return self.places.take(principal)

    def under_way(self, owner: Owner, request: RequestKey | None) -> Claim | None:
        """The claim that the same request has led to, as long as it has come to nothing yet."""
        return None if request is None else self._claims.get((owner, request))

    def follow(self, claim: Claim, place: Slot, owner: Owner, request: RequestKey | None) -> None:
        """Gives the place back when the claim ends without a run that has it."""
        if request is not None:
            self._claims[owner, request] = claim

        def ended(claim: Claim) -> None:
            if request is not None and self._claims.get((owner, request)) is claim:
                del self._claims[owner, request]
            # Its error, if there is one, may be nobody's: the caller may have left.
            if claim.cancelled() or claim.exception() is not None or not _has(claim.result(), place):
                place.release()

        claim.add_done_callback(ended)


def _has(run: LiveRun | StoredRun, place: Slot) -> bool:
    return isinstance(run, LiveRun) and run.place is place
