"""From the credentials of a call to the principal that makes it."""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from dragoman.auth import keys
from dragoman.auth.keyring import KeyRing
from dragoman.auth.principals import LOCAL, CertificateRule, Principal, Scope
from dragoman.errors import InvalidInput, PermissionDenied, Unauthenticated, Violation
from dragoman.records import ApiKey, Owner

logger = logging.getLogger(__name__)

USER_HEADER: Final = "x-user-id"

_USER: Final = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a call brings along; empty what it does not."""

    api_key: str = field(default="", repr=False)
    user: str = ""
    identities: tuple[str, ...] = ()
    """The names in the certificate of its connection, which TLS has verified."""


class Authenticator:
    """Tells who calls. `ring`: the API keys; `certificates`: whose certificates are. Without either nobody is asked, and
    everybody is the local principal."""

    def __init__(self, ring: KeyRing | None = None, certificates: Sequence[CertificateRule] = ()) -> None:
        self._ring = ring
        self._certificates = certificates

    @property
    def knows_certificates(self) -> bool:
        """Whether the certificate of a connection matters."""
        return bool(self._certificates)

    async def authenticate(self, credentials: Credentials) -> tuple[Principal, Owner]:
        """The caller, and the owner of what it makes. Raises Unauthenticated, PermissionDenied, InvalidInput,
        StorageUnavailable."""
        principal = await self._principal(credentials)
        return principal, Owner(principal.name, _user(principal, credentials.user))

    async def _principal(self, credentials: Credentials) -> Principal:
        if self._ring is None and not self._certificates:
            return LOCAL
        by_key = by_certificate = None
        if self._ring is not None and (credentials.api_key or not self._certificates):
            by_key = await self._by_key(self._ring, credentials.api_key)
        if self._certificates:
            by_certificate = self._by_certificate(credentials.identities)
        if by_key is None or by_certificate is None:
            found = by_key or by_certificate
            if found is None:
                raise Unauthenticated("credentials are needed")
            return found
        if by_key.name != by_certificate.name:
            logger.info(
                "a call was refused",
                extra={"why": "key and certificate are of two principals", "key": by_key.credential},
            )
            raise Unauthenticated
        # What the key may do: it is the narrower proof, made for this purpose.
        return by_key

    def _by_certificate(self, identities: tuple[str, ...]) -> Principal | None:
        for rule in self._certificates:
            if rule.fits(identities):
                return rule.principal
        if self._ring is None:
            logger.info("a call was refused", extra={"why": "nobody's certificate", "identities": identities})
            raise Unauthenticated("credentials are needed: the certificate is nobody's who is known here")
        return None

    async def _by_key(self, ring: KeyRing, text: str) -> Principal:
        if not text:
            raise Unauthenticated("credentials are needed: an API key in x-api-key")
        parts = keys.split(text)
        if parts is None:
            logger.info("a call was refused", extra={"why": "it is not an API key"})
            raise Unauthenticated
        key_id, secret = parts
        key = await ring.find(key_id)
        if key is None or not keys.proves(key, secret):
            why = "no key of this id counts" if key is None else "the secret is not the key's"
            logger.info("a call was refused", extra={"why": why, "key": key_id})
            raise Unauthenticated
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


def _user(principal: Principal, user: str) -> str:
    if not user:
        return ""
    if not principal.acts_for_users:
        raise PermissionDenied("the right to act for users")
    if _USER.fullmatch(user) is None:
        text = "must be 1 to 128 printable ASCII characters, without spaces at its ends"
        raise InvalidInput([Violation(USER_HEADER, text)])
    return user
