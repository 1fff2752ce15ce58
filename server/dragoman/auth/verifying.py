"""Signed tokens (JWT, RFC 7519), checked here: signature, algorithm, issuer, audience, times.

What the token says of itself is believed of nothing but the id of its key: algorithms are those of the configuration, all of
them asymmetric, and a key serves only algorithms of its own type. `exp` is required. Why a token is refused is in the log
alone, with its issuer and the id of its key, never with the token.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa

from dragoman.errors import Unauthenticated

logger = logging.getLogger(__name__)

MAX_TOKEN: Final = 8192
"""Characters of the longest token that is looked at. Larger ones would not fit beside other metadata of a call."""

ALGORITHMS: Final = (
    *("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    *("ES256", "ES384", "ES512", "EdDSA"),
)
"""All that can be configured. None of them has a shared secret: a public key can never be taken for one."""

MIN_RSA_BITS: Final = 2048

_TYPES: Final = (None, "jwt", "at+jwt", "application/jwt", "application/at+jwt")
"""Kinds of tokens, as `typ` names them: a logout token or a request object is no proof of a caller."""

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | ed448.Ed448PublicKey

_CURVES: Final = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}


@dataclass(frozen=True, slots=True)
class VerifyingKey:
    """A public key of an issuer. `algorithm`: the only one that it is for; empty: any of its type."""

    id: str
    key: PublicKey
    algorithm: str = ""

    def serves(self, algorithm: str) -> bool:
        """Whether signatures by that algorithm may be checked with it."""
        if self.algorithm not in ("", algorithm):
            return False
        if isinstance(self.key, rsa.RSAPublicKey):
            return algorithm[:2] in ("RS", "PS") and self.key.key_size >= MIN_RSA_BITS
        if isinstance(self.key, ec.EllipticCurvePublicKey):
            return _CURVES.get(algorithm) == self.key.curve.name
        return algorithm == "EdDSA"


class VerifyingKeys(Protocol):
    """Where the keys of an issuer are known."""

    async def find(self, key_id: str | None, algorithm: str) -> VerifyingKey:
        """The key of that id; without an id, the only one for the algorithm. Raises Unauthenticated, IdentityUnavailable."""
        ...

    async def open(self) -> None:
        """Gets ready."""
        ...

    async def close(self) -> None:
        """Lets go of connections and tasks."""
        ...


class Signed:
    """Checks the tokens of one issuer. `leeway`: seconds that clocks may differ."""

    def __init__(
        self,
        keys: VerifyingKeys,
        *,
        issuer: str,
        audiences: Sequence[str],
        algorithms: Sequence[str],
        leeway: float,
    ) -> None:
        self._keys = keys
        self._issuer = issuer
        self._audiences = tuple(audiences)
        self._algorithms = tuple(algorithms)
        self._leeway = leeway

    async def claims(self, token: str) -> Mapping[str, Any]:
        """What the token says, when it counts. Raises Unauthenticated, IdentityUnavailable."""
        key_id, algorithm = self._header(token)
        key = await self._keys.find(key_id, algorithm)
        if not key.serves(algorithm):
            raise refusal("its key is not for its algorithm", issuer=self._issuer, key_id=key_id)
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key.key,
                algorithms=[algorithm],
                issuer=self._issuer,
                audience=self._audiences,
                leeway=self._leeway,
                options={"require": ["exp", "iss", "aud"]},
            )
        except jwt.PyJWTError as error:
            raise refusal(type(error).__name__, issuer=self._issuer, key_id=key_id) from None
        except (
            ValueError,
            TypeError,
            OverflowError,
            RecursionError,
        ):  # figures that are none, JSON without end
            raise refusal("it cannot be read", issuer=self._issuer, key_id=key_id) from None
        return claims

    async def open(self) -> None:
        """Gets ready."""
        await self._keys.open()

    async def close(self) -> None:
        """Lets go of what its keys hold."""
        await self._keys.close()

    def _header(self, token: str) -> tuple[str | None, str]:
        """The id of its key and its algorithm. Raises Unauthenticated."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise refusal("it has no header that can be read", issuer=self._issuer) from None
        algorithm, key_id, kind = header.get("alg"), header.get("kid"), header.get("typ")
        if algorithm not in self._algorithms:
            raise refusal("its algorithm is not allowed", issuer=self._issuer)
        if "crit" in header:
            raise refusal("it needs extensions that are not known here", issuer=self._issuer)
        if (kind.lower() if isinstance(kind, str) else kind) not in _TYPES:
            raise refusal("it is a token of another kind", issuer=self._issuer)
        return key_id, str(algorithm)


def refusal(why: str, **more: object) -> Unauthenticated:
    """Logs why a token does not count, and gives what the caller is told: nothing of that."""
    logger.info("a token was refused", extra={"why": why, **more})
    return Unauthenticated(cause="token")


def issuer_of(token: str) -> str | None:
    """The issuer that a token names, unverified: good for finding who is to check it. None for what is no JWT."""
    if token.count(".") != 2:
        return None
    try:
        claims = jwt.decode(token, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
        return None
    issuer = claims.get("iss")
    return issuer if isinstance(issuer, str) else None
