"""How long a caller waits for a call.

gRPC tells a server the time that is left, in units that grow with it: up to a hundredth is rounded up, and the way there is
not counted. So a caller gives up a little before the server's own clock says so, and a call that ends within that little
counts as one whose time was over.
"""

import asyncio
from typing import cast

from dragoman.transport.context import Context

TRANSIT = 0.25
"""Seconds that a request is under way at most; of short deadlines no more than a quarter."""

ROUNDING = 0.01
"""The part of a time that gRPC may have added to it."""


class Deadline:
    """The deadline of one call, if it has one; made when the call begins."""

    def __init__(self, context: Context) -> None:
        self._loop = asyncio.get_running_loop()
        # The types of gRPC know only calls with a deadline.
        seconds = cast("float | None", context.time_remaining())
        self._at = None if seconds is None else self._loop.time() + seconds
        whole = seconds or 0.0
        self._slack = min(TRANSIT, whole / 4) + ROUNDING * whole

    @property
    def seconds(self) -> float | None:
        """The time that is left; None when the caller waits for ever."""
        return None if self._at is None else max(self._at - self._loop.time(), 0.0)

    @property
    def passed(self) -> bool:
        """True when the caller waits no longer."""
        return self._at is not None and self._loop.time() >= self._at - self._slack
