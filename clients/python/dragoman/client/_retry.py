"""When a call is made again, and how long to wait before.

A call is made again when nobody knows whether it was done: no server answered, the connection broke, or the server is
stopping. Nothing is done twice by that, because calls that change something carry a request id. A call that is over a limit
(RESOURCE_EXHAUSTED) was not done: it is made again when the server has said it may be, if that is soon enough. What the
server says about the call itself (INVALID_ARGUMENT, NOT_FOUND, SESSION_BUSY, ...) is told to the caller at once.

The waits grow exponentially and are jittered, so that a thousand clients do not come back in one moment. A server that
names a delay is given it; one that says that it is stopping is left for a peer at once.
"""

import asyncio
import random
from dataclasses import dataclass
from typing import Final

import grpc

from dragoman.client._errors import DragomanError

_TRANSPORT: Final = frozenset(
    {
        grpc.StatusCode.UNKNOWN,
        grpc.StatusCode.INTERNAL,
        grpc.StatusCode.UNAVAILABLE,
    }
)
_WORDS: Final = (
    "rst_stream",
    "goaway",
    "stream removed",
    "stream closed",
    "connection reset",
    "socket closed",
)
"""What gRPC and proxies say, in lower case, when it was the connection and not the call that failed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """How patient a client is. All times are seconds."""

    patience: float = 60.0
    """How long a broken run is tried to be followed again; an event that comes starts the time anew."""
    start_patience: float = 60.0
    """The same before the first event, and for Execute: while nobody has said that the run exists."""
    call_patience: float = 10.0
    """How long other calls are repeated, within their time-out. Who is over a limit waits as long as the server says, and
    not at all when that is longer than these."""
    attempts: int | None = None
    """How many attempts in a row may fail at most; None: as many as fit into the time."""
    initial_backoff: float = 0.1
    """The wait before the second repetition; the first is made at once when a server says that it is stopping."""
    max_backoff: float = 3.0
    """The longest wait."""


def is_break(error: DragomanError) -> bool:
    """Whether the call broke, instead of being answered: then it may be made again."""
    if error.code is grpc.StatusCode.UNAVAILABLE or error.reason == "RUN_NOT_RESUMABLE":
        return True
    if error.reason:
        return False
    if error.code is grpc.StatusCode.CANCELLED:
        # Our own cancels do not come as errors: gRPC has cut the call off, because the server is going away.
        return True
    if error.code not in _TRANSPORT:
        return False
    said = error.message.lower()
    return any(word in said for word in _WORDS)


def is_over_limit(error: DragomanError) -> bool:
    """Whether the call was not done because a limit is reached, and the server has said when to come back."""
    return error.code is grpc.StatusCode.RESOURCE_EXHAUSTED and error.retry_after is not None


class Attempts:
    """Counts what failed since something last went well. One for each call, or each stream that is followed."""

    def __init__(self, policy: RetryPolicy | None, patience: float, deadline: float | None) -> None:
        self._policy = policy
        self._patience = patience
        self._deadline = deadline
        self._failed = 0
        self._since = 0.0

    def progress(self, patience: float) -> None:
        """Something came: what failed before is forgotten, and from now on `patience` holds."""
        self._failed = 0
        self._patience = patience

    async def again(self, error: DragomanError) -> bool:
        """Waits until the next attempt. False, at once, when there is to be none."""
        policy = self._policy
        if policy is None:
            return False
        now = asyncio.get_running_loop().time()
        if not self._failed:
            self._since = now
        self._failed += 1
        if policy.attempts is not None and self._failed >= policy.attempts:
            return False
        until = self._since + self._patience
        if self._deadline is not None:
            until = min(until, self._deadline)
        delay = self._delay(policy, error)
        if now + delay >= until:
            return False
        await asyncio.sleep(delay)
        return True

    def _delay(self, policy: RetryPolicy, error: DragomanError) -> float:
        if error.reason == "DRAINING" and self._failed == 1:
            return 0.0  # its peers are well
        backoff = min(policy.initial_backoff * 2.0 ** min(self._failed - 1, 30), policy.max_backoff)
        wait = backoff * random.uniform(0.5, 1.0)  # not for secrets
        return max(wait, error.retry_after or 0.0)
