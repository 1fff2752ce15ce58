"""Tokens that somebody else checks: by introspection (RFC 7662), or an in-house endpoint that says whether a token is good.

An answer holds for `cache` seconds, good or bad, so that a token that is taken back opens nothing for longer, and each token is
asked about once at a time however many calls bring it. While there is no answer nobody new is let in (IDENTITY_UNAVAILABLE).
"""

import asyncio
import hashlib
import logging
import math
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote

from dragoman.auth.asking import Answer, Asker, Unanswered
from dragoman.auth.verifying import refusal
from dragoman.errors import IdentityUnavailable

logger = logging.getLogger(__name__)

REMEMBERED: Final = 10_000
"""Answers that are kept at most; the oldest goes first."""

QUESTIONS: Final = 256
"""Questions under way at most, those that wait for a connection included; more are IDENTITY_UNAVAILABLE at once."""

_NO: Final = frozenset((400, 401, 403, 404))
"""By these an in-house endpoint says that a token is not good, whatever its success is."""


class Question(Protocol):
    """How one provider is asked about a token."""

    @property
    def issuer(self) -> str:
        """Whose tokens it knows; for the log."""
        ...

    async def ask(self, asker: Asker, token: str) -> Mapping[str, Any] | None:
        """What the token says; None when it does not count. Raises Unanswered."""
        ...


@dataclass(frozen=True, slots=True)
class Introspection:
    """RFC 7662. `client`: id and secret by which this server may ask; without an id nothing is sent."""

    issuer: str
    url: str
    client_id: str = ""
    client_secret: str = field(default="", repr=False)
    audiences: tuple[str, ...] = ()
    leeway: float = 0.0

    async def ask(self, asker: Asker, token: str) -> Mapping[str, Any] | None:
        """See Question."""
        # RFC 6749, 2.3.1: both are form-encoded before they become Basic credentials.
        auth = (
            (quote(self.client_id, safe=""), quote(self.client_secret, safe="")) if self.client_id else None
        )
        form = {"token": token, "token_type_hint": "access_token"}
        answer = await asker.ask("POST", self.url, form=form, auth=auth)
        if answer.status != 200 or not isinstance(answer.body, dict):
            raise Unanswered(f"status {answer.status}, or not what RFC 7662 says")
        claims: dict[str, Any] = answer.body
        if claims.get("active") is not True or not self._fits(claims):
            return None
        return claims

    def _fits(self, claims: Mapping[str, Any]) -> bool:
        """The provider has checked the token; whether it was made for us is ours to check."""
        now = time.time()
        expires, begins = number(claims.get("exp")), number(claims.get("nbf"))
        if expires is not None and expires + self.leeway <= now:
            return False
        if begins is not None and begins - self.leeway > now:
            return False
        if self.issuer and claims.get("iss", self.issuer) != self.issuer:
            return False
        told = claims.get("aud")
        meant = told if isinstance(told, list) else [told]
        return not self.audiences or any(each in self.audiences for each in meant)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An in-house identity service: `success` is the status by which it says yes, with JSON about the caller."""

    issuer: str
    url: str
    method: Literal["GET", "POST"] = "GET"
    send: Literal["bearer", "form", "json"] = "bearer"
    """Where the token goes: into `authorization: Bearer`, or a field `token` of the body."""
    success: int = 200
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    """What is sent besides, such as a key of this server's own."""

    async def ask(self, asker: Asker, token: str) -> Mapping[str, Any] | None:
        """See Question."""
        answer = await self._send(asker, token)
        if answer.status == self.success:
            if not isinstance(answer.body, dict):
                raise Unanswered("yes, without JSON that says who it is")
            return answer.body
        if answer.status in _NO:
            return None
        raise Unanswered(f"status {answer.status}")

    async def _send(self, asker: Asker, token: str) -> Answer:
        if self.send == "bearer":
            headers = {**self.headers, "authorization": f"Bearer {token}"}
            return await asker.ask(self.method, self.url, headers=headers)
        if self.send == "form":
            return await asker.ask(self.method, self.url, headers=self.headers, form={"token": token})
        return await asker.ask(self.method, self.url, headers=self.headers, body={"token": token})


class Asked:
    """Asks about tokens. `cache`: seconds for which an answer holds."""

    def __init__(self, question: Question, asker: Asker, *, cache: float) -> None:
        self._question = question
        self._asker = asker
        self._cache = cache
        self._answers: OrderedDict[bytes, tuple[Mapping[str, Any] | None, float]] = OrderedDict()
        self._asking: dict[bytes, asyncio.Task[Mapping[str, Any] | None]] = {}

    async def open(self) -> None:
        """Nothing is needed before the first question."""

    async def close(self) -> None:
        """Ends what is being asked, and the connections."""
        tasks = set(self._asking.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._asker.close()

    async def claims(self, token: str) -> Mapping[str, Any]:
        """What the token says, when it counts. Raises Unauthenticated, IdentityUnavailable."""
        key = hashlib.sha256(token.encode()).digest()
        found = self._answers.get(key)
        if found is None or found[1] <= time.monotonic():
            claims = await self._ask(key, token)
        else:
            claims = found[0]
        if claims is None:
            raise refusal("its provider says no", issuer=self._question.issuer)
        return claims

    async def _ask(self, key: bytes, token: str) -> Mapping[str, Any] | None:
        task = self._asking.get(key)
        if task is None:
            if len(self._asking) >= QUESTIONS:
                raise IdentityUnavailable
            task = asyncio.create_task(self._question_of(key, token), name="token-question")
            self._asking[key] = task
            task.add_done_callback(lambda done: self._answered(key, done))
        try:
            return await asyncio.shield(task)
        except Unanswered as error:
            logger.warning(
                "an identity provider gave no answer",
                extra={"issuer": self._question.issuer, "why": str(error)},
            )
            raise IdentityUnavailable from None

    async def _question_of(self, key: bytes, token: str) -> Mapping[str, Any] | None:
        began = time.monotonic()
        claims = await self._question.ask(self._asker, token)
        # As of the question: the answer may have been on its way for a while.
        self._answers[key] = claims, began + self._cache
        self._answers.move_to_end(key)
        while len(self._answers) > REMEMBERED:
            self._answers.popitem(last=False)
        return claims

    def _answered(self, key: bytes, task: "asyncio.Task[Any]") -> None:
        self._asking.pop(key, None)
        if not task.cancelled():
            task.exception()  # told to those who wait; they may have left


def number(value: object) -> float | None:
    """The value, when it is a number by which times can be told."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return value
    return None
