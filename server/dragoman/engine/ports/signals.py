"""How processes tell each other at once what they would find in the store later."""

from collections.abc import Callable, Collection, Iterable
from typing import Protocol
from uuid import UUID


class Signals(Protocol):
    """Tells processes that something about a run has changed in the store: events, its end, a wish to cancel, its turn.

    Only a hint: a signal may be lost, come late, come twice or be about a run that nobody here knows.
    """

    def tell(self, run_ids: Iterable[UUID]) -> None:
        """Tells all other processes, soon. Never blocks, never raises."""
        ...

    def listen(self, listener: Callable[[Collection[UUID]], None]) -> None:
        """Calls `listener` on the event loop with what others tell. Once, before anything is told."""
        ...
