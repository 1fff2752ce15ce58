"""Who brings a bearer token: which issuer is to check it, and what its claims mean here.

    token ─► the issuer that it names, else each provider that is asked ─► claims ─► principal, user, scopes, agents

Streams that are open with a token are told when it runs out, or when its provider takes it back (`hold`): every `SWEEP`
seconds tokens in use are looked at, and asked about again where a provider decides.
"""

import asyncio
import hashlib
import logging
import math
import re
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from dragoman.auth.principals import Principal, Scope
from dragoman.auth.remote import number
from dragoman.auth.verifying import MAX_TOKEN, issuer_of, refusal
from dragoman.errors import DragomanError, IdentityUnavailable, Unauthenticated
from dragoman.quotas import NO_QUOTAS, Quotas

logger = logging.getLogger(__name__)

SWEEP: Final = 1.0
"""Seconds between two looks at the tokens of open streams."""

_NAME: Final = re.compile(r"[\x21-\x7e]{1,128}")


class Checker(Protocol):
    """Checks tokens of one issuer (`verifying.Signed`, `remote.Asked`)."""

    async def claims(self, token: str) -> Mapping[str, Any]:
        """What the token says, when it counts. Raises Unauthenticated, IdentityUnavailable."""
        ...

    async def open(self) -> None:
        """Gets ready."""
        ...

    async def close(self) -> None:
        """Lets go of connections and tasks."""
        ...


@dataclass(frozen=True, slots=True)
class ClaimRule:
    """What the claims of an issuer's tokens mean. A claim is named by its path: `sub`, `user.id`, `realm_access.roles`; a claim
    whose very name has dots wins over a path."""

    principal_claim: str = "sub"
    principal: str = ""
    """A fixed name instead: all tokens of the issuer are one service's."""
    prefix: str = ""
    """Before the name that the claim gives, so that two issuers never mean the same principal unless they shall."""
    user_claim: str = ""
    """The user for whom the service acts; without it tokens name no user."""
    scopes: frozenset[Scope] = frozenset((Scope.RUN,))
    """What every token allows, where no claim says so."""
    scope_claim: str = ""
    """Names of scopes: a list, or words in one text."""
    scope_names: Mapping[str, Scope] = field(default_factory=lambda: {scope.value: scope for scope in Scope})
    """What the names in the claim mean; others mean nothing."""
    agents: tuple[str, ...] = ("*",)
    agents_claim: str = ""
    """Patterns of agents instead: a list, or words in one text. A token without the claim may use none."""
    acts_for_users: bool = False
    quotas: Quotas = NO_QUOTAS

    def read(self, claims: Mapping[str, Any], credential: str) -> "tuple[Principal, str]":
        """The principal and the user. Raises Unauthenticated when the claims do not name them."""
        name = self.principal or self._name(claims, self.principal_claim)
        principal = Principal(
            name=name if self.principal else f"{self.prefix}{name}",
            scopes=self._scopes(claims),
            agents=tuple(_words(dig(claims, self.agents_claim))) if self.agents_claim else self.agents,
            acts_for_users=self.acts_for_users,
            credential=credential,
            quotas=self.quotas,
        )
        if _NAME.fullmatch(principal.name) is None:
            raise refusal("its principal is too long", claim=self.principal_claim)
        return principal, self._name(claims, self.user_claim) if self.user_claim else ""

    def _name(self, claims: Mapping[str, Any], path: str) -> str:
        value = dig(claims, path)
        text = str(value) if isinstance(value, str | int) and not isinstance(value, bool) else ""
        if _NAME.fullmatch(text) is None:
            raise refusal("a claim that names somebody is missing, or no name", claim=path)
        return text

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[Scope]:
        if not self.scope_claim:
            return self.scopes
        words = _words(dig(claims, self.scope_claim))
        return frozenset(self.scope_names[word] for word in words if word in self.scope_names)


@dataclass(frozen=True, slots=True)
class Issuer:
    """One issuer of tokens. `name` is its `iss`; a provider that is asked about opaque tokens may have none."""

    name: str
    checker: Checker
    rule: ClaimRule
    asked: bool
    """Whether a provider decides, so that a token may be taken back before it runs out."""
    leeway: float = 0.0


@dataclass(slots=True)
class _Held:
    """A token with open streams."""

    token: str = field(repr=False)
    issuer: Issuer
    end: float
    streams: int = 0


class Bearers:
    """The issuers whose tokens are taken. Used on one event loop, between `open` and `close`."""

    def __init__(self, issuers: Sequence[Issuer]) -> None:
        self._issuers = tuple(issuers)
        self._held: dict[str, _Held] = {}
        self._listener: Callable[[Collection[str]], None] | None = None
        self._task: asyncio.Task[None] | None = None

    def listen(self, listener: Callable[[Collection[str]], None]) -> None:
        """Calls `listener` with the credentials that count no more while streams are open with them."""
        self._listener = listener

    async def open(self) -> None:
        """Begins to look after tokens in use."""
        for issuer in self._issuers:
            await issuer.checker.open()
        self._task = asyncio.create_task(self._follow(), name="bearers")

    async def close(self) -> None:
        """Looks after them no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        for issuer in self._issuers:
            await issuer.checker.close()

    async def identify(self, token: str) -> tuple[Principal, str]:
        """Whose token it is, and the user that it names, or "". Raises Unauthenticated, IdentityUnavailable."""
        principal, user, _, _ = await self._check(token)
        return principal, user

    async def hold(self, token: str) -> str:
        """Looks after a token for a stream that is open with it; gives what `release` needs. Raises as `identify`."""
        principal, _, issuer, end = await self._check(token)
        held = self._held.setdefault(principal.credential, _Held(token, issuer, end))
        held.streams += 1
        return principal.credential

    def release(self, credential: str) -> None:
        """The stream has ended."""
        held = self._held[credential]
        held.streams -= 1
        if held.streams == 0:
            del self._held[credential]

    async def _check(self, token: str) -> tuple[Principal, str, Issuer, float]:
        if len(token) > MAX_TOKEN or not token.isascii():
            raise refusal("it is longer than any that is taken, or not ASCII")
        named = issuer_of(token)
        signed = [each for each in self._issuers if not each.asked and each.name == named]
        candidates = signed or [each for each in self._issuers if each.asked]
        if not candidates:
            raise refusal("its issuer is not known here")
        error: DragomanError = Unauthenticated(cause="token")
        for issuer in candidates:
            try:
                claims = await issuer.checker.claims(token)
            except IdentityUnavailable as unavailable:
                error = unavailable  # another provider may know it; if not, nobody can say that it is bad
            except Unauthenticated:
                continue
            else:
                credential = f"token/{hashlib.sha256(token.encode()).hexdigest()[:16]}"
                principal, user = issuer.rule.read(claims, credential)
                return principal, user, issuer, _end(claims, issuer.leeway)
        raise error

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            held = dict(self._held)
            now = time.time()
            ended = {credential for credential, each in held.items() if each.end <= now}
            asked = [(name, each) for name, each in held.items() if each.issuer.asked and name not in ended]
            checked = await asyncio.gather(*(self._counts(each) for _, each in asked))
            ended.update(name for (name, _), counts in zip(asked, checked, strict=True) if not counts)
            if ended and self._listener is not None:
                logger.info("tokens count no more", extra={"tokens": sorted(ended)})
                self._listener(ended)

    async def _counts(self, held: _Held) -> bool:
        """Whether the provider still says yes. While it says nothing, what was open stays open."""
        try:
            await held.issuer.checker.claims(held.token)
        except Unauthenticated:
            return False
        except IdentityUnavailable:
            return True
        return True


def dig(claims: Mapping[str, Any], path: str) -> Any:
    """The value at a path, None where there is none."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for part in path.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return None
        value = value[part]
    return value


def _words(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        return value.split()
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _end(claims: Mapping[str, Any], leeway: float) -> float:
    """When it runs out, in seconds since 1970; never, where a provider decides and does not say."""
    end = number(claims.get("exp"))
    return math.inf if end is None else end + leeway
