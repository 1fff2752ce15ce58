"""From the credentials of a call to the principal that makes it."""

import asyncio
import logging
import math
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from dragoman.auth import keys
from dragoman.auth.bearers import Bearers
from dragoman.auth.certificates import Certificate, CertificateRule
from dragoman.auth.keyring import KeyRing
from dragoman.auth.principals import LOCAL, Principal, Scope
from dragoman.errors import InvalidInput, PermissionDenied, Unauthenticated, Violation
from dragoman.records import ApiKey, Owner, utcnow

logger = logging.getLogger(__name__)

USER_HEADER: Final = "x-user-id"

_EXPIRED: Final = "the certificate of the connection has expired: connect with a new one"

_USER: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a call brings along; empty what it does not."""

    api_key: str = field(default="", repr=False)
    user: str = ""
    certificate: Certificate | None = None
    """That of its connection, which TLS has verified when the connection was made."""
    bearer: str = field(default="", repr=False)
    """The token of `authorization: Bearer`."""


class Authenticator:
    """Tells who calls. `ring`: the API keys; `certificates`: whose certificates are; `bearers`: whose tokens. Without any of them
    nobody is asked, and everybody is the local principal.

    Any one proof will do. Who brings several must be the same by all, and may do what all of them allow.
    """

    def __init__(
        self,
        ring: KeyRing | None = None,
        certificates: Sequence[CertificateRule] = (),
        bearers: Bearers | None = None,
    ) -> None:
        self._ring = ring
        self._certificates = certificates
        self._bearers = bearers

    @property
    def knows_certificates(self) -> bool:
        """Whether the certificate of a connection matters."""
        return bool(self._certificates)

    async def authenticate(self, credentials: Credentials) -> tuple[Principal, Owner]:
        """The caller, and the owner of what it makes. Raises Unauthenticated, PermissionDenied, InvalidInput,
        StorageUnavailable, IdentityUnavailable."""
        if self._ring is None and self._bearers is None and not self._certificates:
            return LOCAL, Owner(LOCAL.name, _user(LOCAL, credentials.user))
        named = ""
        proofs: list[Principal] = []
        # A proof that is brought counts against its bearer when it is wrong, whatever else is brought.
        if self._ring is not None and credentials.api_key:
            proofs.append(await self._by_key(self._ring, credentials.api_key))
        if self._bearers is not None and credentials.bearer:
            principal, named = await self._bearers.identify(credentials.bearer)
            proofs.append(principal)
        if (by_certificate := self._by_certificate(credentials.certificate)) is not None:
            proofs.append(by_certificate)
        if not proofs:
            raise Unauthenticated(self._needed(), cause="none")
        caller = _together(proofs)
        return caller, Owner(caller.name, _user(caller, credentials.user, named))

    @asynccontextmanager
    async def held(self, credentials: Credentials) -> AsyncIterator[None]:
        """While a stream is open with them: whoever listens is told when a token among them counts no more, and what is done
        within is cancelled when the certificate ends.

        Raises Unauthenticated, IdentityUnavailable.
        """
        async with _until_end(credentials.certificate), self._held_token(credentials):
            yield

    @asynccontextmanager
    async def _held_token(self, credentials: Credentials) -> AsyncIterator[None]:
        if self._bearers is None or not credentials.bearer:
            yield
            return
        held = await self._bearers.hold(credentials.bearer)
        try:
            yield
        finally:
            self._bearers.release(held)

    def _needed(self) -> str:
        ways = []
        if self._ring is not None:
            ways.append("an API key in x-api-key")
        if self._bearers is not None:
            ways.append("a token in authorization")
        if self._certificates:
            if not ways:
                return "credentials are needed: the certificate is nobody's who is known here"
            ways.append("a certificate that is known here")
        return f"credentials are needed: {' or '.join(ways)}"

    def _by_certificate(self, certificate: Certificate | None) -> Principal | None:
        if not self._certificates or certificate is None:
            return None
        if _seconds_left(certificate) <= 0:
            raise Unauthenticated(_EXPIRED)
        for rule in self._certificates:
            if rule.fits(certificate):
                return rule.principal
        if self._ring is None and self._bearers is None:
            extra = {"why": "nobody's certificate", "identities": certificate.names}
            logger.info("a call was refused", extra=extra)
        return None

    async def _by_key(self, ring: KeyRing, text: str) -> Principal:
        parts = keys.split(text)
        if parts is None:
            logger.info("a call was refused", extra={"why": "it is not an API key"})
            raise Unauthenticated(cause="key")
        key_id, secret = parts
        key = await ring.find(key_id)
        if key is None or not keys.proves(key, secret):
            why = "no key of this id counts" if key is None else "the secret is not the key's"
            logger.info("a call was refused", extra={"why": why, "key": key_id})
            raise Unauthenticated(cause="key")
        return _principal(key)


def _principal(key: ApiKey) -> Principal:
    return Principal(
        name=key.principal,
        # A scope of a newer release, which this one does not know, allows nothing here.
        scopes=frozenset(scope for scope in Scope if scope in key.scopes),
        agents=key.agents,
        acts_for_users=key.acts_for_users,
        credential=f"key/{key.id}",
        quotas=key.quotas,
    )


def _seconds_left(certificate: Certificate) -> float:
    if certificate.expire_time is None:
        return math.inf
    return (certificate.expire_time - utcnow()).total_seconds()


@asynccontextmanager
async def _until_end(certificate: Certificate | None) -> AsyncIterator[None]:
    left = math.inf if certificate is None else _seconds_left(certificate)
    if left == math.inf:
        yield
        return
    try:
        async with asyncio.timeout(left) as end:
            yield
    except TimeoutError:
        if end.expired():
            raise Unauthenticated(_EXPIRED) from None
        raise


def _together(proofs: Sequence[Principal]) -> Principal:
    """One caller of all of them. Raises Unauthenticated when they are not one."""
    first, *rest = proofs
    if any(each.name != first.name for each in rest):
        extra = {"why": "proofs of several principals", "credentials": [each.credential for each in proofs]}
        logger.info("a call was refused", extra=extra)
        raise Unauthenticated(cause="several")
    if not rest:
        return first
    return replace(first, also=tuple(rest), acts_for_users=all(each.acts_for_users for each in proofs))


def _user(principal: Principal, user: str, named: str = "") -> str:
    """The user for whom it acts. `named`: the one whom its token names; no other may be named then."""
    if named:
        if user not in ("", named):
            raise PermissionDenied("the right to act for users other than its token's")
        return named
    if not user:
        return ""
    if not principal.acts_for_users:
        raise PermissionDenied("the right to act for users")
    if _USER.fullmatch(user) is None:
        text = "must be 1 to 128 printable ASCII characters, without spaces at its ends"
        raise InvalidInput([Violation(USER_HEADER, text)])
    return user
