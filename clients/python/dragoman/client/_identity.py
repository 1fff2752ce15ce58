"""By what a client proves who it is, with each call: an API key, a bearer token, or both.

A token is a string, or a callable that gives one, which is asked before each call. While an asynchronous one is under way
it is not asked again: all calls that begin meanwhile take its answer, so that a thousand of them are one request to the
identity provider. It should keep a token for as long as that is good.

A call that is refused as unauthenticated is made again, once, if the callable then gives another token: nothing was done by
it. So is a stream whose token ran out while it was open, and again when the next one does. A stream may be silent for as long
as a token lives, and the server does not say which of both it was: `SILENT` tokens in a row are tried, and whatever comes
starts the count anew.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Final, TypeAlias

import grpc

from dragoman.client._errors import DeadlineExceeded, DragomanError

Metadata: TypeAlias = tuple[tuple[str, str], ...]

TokenSource: TypeAlias = str | Callable[[], str | Awaitable[str]]
"""A bearer token, or what gives one that is good now; empty: none is sent. A callable that is not asynchronous holds up the
event loop for as long as it takes."""

SILENT: Final = 3
"""How many fresh tokens in a row may end without anything having come to a stream."""

_TOKEN: Final = re.compile(r"[\x21-\x7e]*")


class Identity:
    """Who an open client is. `close` ends what is still being asked."""

    def __init__(self, api_key: str = "", user: str = "", token: TokenSource = "") -> None:
        self._metadata: Metadata = tuple(
            (key, value) for key, value in (("x-api-key", api_key), ("x-user-id", user)) if value
        )
        self._source = token if callable(token) else None
        self._asking: asyncio.Future[str] | None = None
        if isinstance(token, str):
            self._metadata = self._with(token)

    @property
    def renews(self) -> bool:
        """Whether another token may be had."""
        return self._source is not None

    async def metadata(self, deadline: float | None) -> Metadata:
        """What goes with a call. Raises DeadlineExceeded when there is no token by then (time of the event loop), ValueError
        for what cannot be one, and what the callable does."""
        if self._source is None:
            return self._metadata
        try:
            async with asyncio.timeout_at(deadline) as limit:
                return self._with(await self._ask(self._source))
        except TimeoutError as error:
            if not limit.expired():
                raise  # the callable's own
            text = "the time-out passed before there was a token"
            raise DeadlineExceeded(grpc.StatusCode.DEADLINE_EXCEEDED, text) from error

    async def close(self) -> None:
        """Asks no more."""
        if self._asking is not None:
            self._asking.cancel()
            await asyncio.wait({self._asking})

    async def _ask(self, source: Callable[[], str | Awaitable[str]]) -> str:
        if self._asking is None:
            given = source()
            if not isawaitable(given):
                return given
            self._asking = asyncio.ensure_future(given)
            self._asking.add_done_callback(self._asked)
        # One who leaves takes the answer away from nobody else.
        return await asyncio.shield(self._asking)

    def _asked(self, asking: asyncio.Future[str]) -> None:
        self._asking = None
        if not asking.cancelled():
            asking.exception()  # when all who waited have left, nobody else asks for it

    def _with(self, token: str) -> Metadata:
        if not isinstance(token, str):
            raise TypeError(f"a token is text, not {type(token).__name__}")
        if _TOKEN.fullmatch(token) is None:  # nothing of it may be shown
            raise ValueError("a token is printable ASCII without spaces, and without the word Bearer")
        return (("authorization", f"Bearer {token}"), *self._metadata) if token else self._metadata


class Proof:
    """What one call, or one stream that is followed, is made by; and whether it is made again when that is refused."""

    def __init__(self, identity: Identity, renewals: int) -> None:
        self._identity = identity
        self._renewals = renewals if identity.renews else 0
        self._renewed = 0
        self._used: Metadata = ()
        self._refused: tuple[Metadata, DragomanError] | None = None

    async def metadata(self, deadline: float | None) -> Metadata:
        """As Identity.metadata. Raises the refusal when nothing is known but what was refused."""
        self._used = await self._identity.metadata(deadline)
        if self._refused is not None and self._used == self._refused[0]:
            raise self._refused[1]
        return self._used

    def renewable(self, error: DragomanError) -> bool:
        """Whether a call that ended so is to be made again, with the next metadata."""
        if error.code is not grpc.StatusCode.UNAUTHENTICATED or self._renewed == self._renewals:
            return False
        self._renewed += 1
        self._refused = (self._used, error)
        return True

    def accepted(self) -> None:
        """The server has taken the proof: when it is refused later, it has run out."""
        self._refused, self._renewed = None, 0
