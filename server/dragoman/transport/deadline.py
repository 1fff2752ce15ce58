"""How long a caller waits for a call.

gRPC tells a server the time that is left, in units that grow with it: up to a hundredth is rounded up, so a caller gives up
a little before the server's own clock says so. A call that ends within that little counts as one whose time was over.
"""

import asyncio
from typing import cast

from dragoman.transport.context import Context

SLACK = 0.05
"""Seconds before the deadline from which on a call that ends has timed out."""

ROUNDING = 0.01
"""Of the time that was left at the beginning: the same again, for what gRPC has rounded up."""


class Deadline:
    """The deadline of one call, if it has one; made when the call begins."""

    def __init__(self, context: Context) -> None:
        self._loop = asyncio.get_running_loop()
        # The types of gRPC know only calls with a deadline.
        seconds = cast("float | None", context.time_remaining())
        self._at = None if seconds is None else self._loop.time() + seconds
        self._slack = SLACK + ROUNDING * (seconds or 0.0)

    @property
    def seconds(self) -> float | None:
        """The time that is left; None when the caller waits for ever."""
        return None if self._at is None else max(self._at - self._loop.time(), 0.0)

    @property
    def passed(self) -> bool:
        """True when the caller waits no longer."""
        return self._at is not None and self._loop.time() >= self._at - self._slack
