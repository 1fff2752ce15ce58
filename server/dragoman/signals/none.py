"""No signals: processes find in the store what others did, a moment later."""

from collections.abc import Callable, Collection, Iterable
from uuid import UUID


class NoSignals:
    """Satisfies `engine.ports.Signals`."""

    def tell(self, run_ids: Iterable[UUID]) -> None:
        """Nobody is told."""

    def listen(self, listener: Callable[[Collection[UUID]], None]) -> None:
        """There is nothing to hear."""
