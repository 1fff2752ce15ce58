"""The public keys of issuers: from a URL that keeps them (JWKS, RFC 7517), or from a file.

    a key that is known          serves at once; keys older than `refresh` are fetched anew meanwhile
    a key that is not known      waits for the next fetch, of which there is one in `COOL_DOWN` seconds however many ask
    the URL does not answer      known keys serve on for `max_age`; who brings another is told that this cannot be decided now
    a key that is gone           counts no more from the fetch on that did not find it

A file is looked at every `refresh` seconds when somebody asks; one that cannot be read leaves the keys as they are.
"""

import asyncio
import contextlib
import json
import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from dragoman.auth.asking import Asker, Unanswered
from dragoman.auth.sharing import SharedWork
from dragoman.auth.verifying import ALGORITHMS, PublicKey, VerifyingKey, refusal
from dragoman.errors import IdentityUnavailable

logger = logging.getLogger(__name__)

COOL_DOWN: Final = 2.0
"""Seconds between two fetches for keys that nobody knows."""

MAX_KEYS: Final = 100
"""Keys of one issuer that are looked at; large providers have about ten."""

FILE_REFRESH: Final = 2.0
"""Seconds between two looks at a file."""

_PUBLIC = (rsa.RSAPublicKey, ec.EllipticCurvePublicKey, ed25519.Ed25519PublicKey, ed448.Ed448PublicKey)
_KINDS: Final = {"RSA": "RS256", "EC": "", "OKP": "EdDSA"}


class KeysUnusable(ValueError):
    """There is no usable public key in it. The text is for operators."""


class Keys:
    """The keys as they were read last."""

    def __init__(self, issuer: str) -> None:
        self.issuer = issuer
        self.known: tuple[VerifyingKey, ...] = ()

    def pick(self, key_id: str | None, algorithm: str) -> VerifyingKey | None:
        """The key of that id; without one, the only key for the algorithm."""
        if key_id is not None:
            named = [key for key in self.known if key.id == key_id]
            return next((key for key in named if key.serves(algorithm)), named[0] if named else None)
        fitting = [key for key in self.known if key.serves(algorithm)]
        return fitting[0] if len(fitting) == 1 else None


class FetchedKeys:
    """Keys behind a URL. `refresh`: seconds after which they are fetched anew; `max_age`: for which they serve when that fails."""

    def __init__(self, issuer: str, url: str, asker: Asker, *, refresh: float, max_age: float) -> None:
        self._keys = Keys(issuer)
        self._url = url
        self._asker = asker
        self._refresh = refresh
        self._max_age = max_age
        self._tried = self._fetched = float("-inf")
        self._fetching = SharedWork(self._fetch, "jwks")

    async def find(self, key_id: str | None, algorithm: str) -> VerifyingKey:
        """See VerifyingKeys."""
        came = time.monotonic()
        key = self._keys.pick(key_id, algorithm)
        if key is not None and came - self._fetched < self._max_age:
            if came - self._tried > 2 * self._refresh:
                # Nobody has asked for long: the key may have been taken back meanwhile.
                await self._fetching.share()
                key = self._keys.pick(key_id, algorithm)
            elif came - self._fetched > self._refresh and came - self._tried > COOL_DOWN:
                self._fetching.begin()
            if key is not None:
                return key
        while self._tried < came:
            pause = self._tried + COOL_DOWN - time.monotonic()
            if pause > 0 and not self._fetching.under_way:
                await asyncio.sleep(pause)
                continue
            await self._fetching.share()
        if self._fetched < came:
            raise IdentityUnavailable
        key = self._keys.pick(key_id, algorithm)
        if key is None:
            raise refusal("there is no such key", issuer=self._keys.issuer, key_id=key_id)
        return key

    async def open(self) -> None:
        """Begins to fetch them, so that the first caller need not wait. That it fails is told in the log."""
        self._fetching.begin()

    async def close(self) -> None:
        """Ends what is being fetched, and the connections."""
        await self._fetching.close()
        await self._asker.close()

    async def _fetch(self) -> None:
        began = time.monotonic()
        try:
            answer = await self._asker.ask("GET", self._url)
            self._keys.known = parse_jwks(answer.body if answer.status == 200 else None)
        except (Unanswered, KeysUnusable) as error:
            logger.warning(
                "the keys of an issuer could not be fetched",
                extra={"issuer": self._keys.issuer, "why": str(error)},
            )
        else:
            self._fetched = time.monotonic()
        finally:
            # As of the beginning for those who came before it, and so that a slow answer does not allow the next at once.
            self._tried = max(began, time.monotonic() - COOL_DOWN / 2)


class FileKeys:
    """Keys in a PEM or JWKS file, which may be replaced."""

    def __init__(self, issuer: str, path: Path) -> None:
        """Raises KeysUnusable when there are none in it now."""
        self._keys = Keys(issuer)
        self._path = path
        self._looked = time.monotonic()
        self._seen: tuple[int, int, int] | None = None
        self._looking = asyncio.Lock()
        try:
            self._read()
        except OSError as error:
            raise KeysUnusable(f"{path}: {error.strerror}") from error

    async def find(self, key_id: str | None, algorithm: str) -> VerifyingKey:
        """See VerifyingKeys. An id is not asked for where a file has a single key without one."""
        await self._look()
        key = self._keys.pick(key_id, algorithm)
        if key is None and not any(each.id for each in self._keys.known):
            key = self._keys.pick(None, algorithm)
        if key is None:
            raise refusal("there is no such key", issuer=self._keys.issuer, key_id=key_id)
        return key

    async def open(self) -> None:
        """They were read already."""

    async def close(self) -> None:
        """Nothing is held."""

    async def _look(self) -> None:
        async with self._looking:
            if time.monotonic() - self._looked < FILE_REFRESH:
                return
            self._looked = time.monotonic()
            try:
                await asyncio.to_thread(self._read)
            except (OSError, KeysUnusable) as error:
                logger.warning(
                    "the keys of an issuer could not be read; those read before count on",
                    extra={"issuer": self._keys.issuer, "path": str(self._path), "why": str(error)},
                )

    def _read(self) -> None:
        """Reads the file, unless it is the one that was read. Raises OSError, KeysUnusable."""
        found = self._path.stat()
        seen = (found.st_mtime_ns, found.st_size, found.st_ino)
        if seen != self._seen:
            self._keys.known = parse_file(self._path.read_bytes(), str(self._path))
            self._seen = seen


def parse_file(data: bytes, name: str) -> tuple[VerifyingKey, ...]:
    """The keys in a file: a JWKS, or PEM of a public key or a certificate. Raises KeysUnusable."""
    if data.lstrip().startswith(b"{"):
        try:
            return parse_jwks(json.loads(data))
        except (ValueError, RecursionError) as error:
            raise KeysUnusable(f"{name}: not a JWKS: {error}") from error
    key: object
    try:
        if b"BEGIN CERTIFICATE" in data:
            key = x509.load_pem_x509_certificate(data).public_key()
        else:
            key = load_pem_public_key(data)
    except ValueError as error:
        raise KeysUnusable(f"{name}: neither a JWKS, nor PEM of a public key or a certificate") from error
    if not isinstance(key, _PUBLIC):
        raise KeysUnusable(f"{name}: a key of a type that signs no tokens")
    return (VerifyingKey("", key),)


def parse_jwks(body: Any) -> tuple[VerifyingKey, ...]:
    """The keys of a JWKS that verify signatures; others in it are passed over. Raises KeysUnusable when none is left."""
    entries = body.get("keys") if isinstance(body, dict) else None
    if not isinstance(entries, list):
        raise KeysUnusable("not a JWKS")
    found = [key for entry in entries[:MAX_KEYS] if (key := _parse_key(entry)) is not None]
    if not found:
        raise KeysUnusable("a JWKS without a key that verifies signatures")
    return tuple(found)


def _parse_key(entry: Any) -> VerifyingKey | None:
    if not isinstance(entry, Mapping) or entry.get("kty") not in _KINDS or "d" in entry:
        return None
    if entry.get("use", "sig") != "sig" or "verify" not in entry.get("key_ops", ["verify"]):
        return None
    algorithm, key_id = entry.get("alg", ""), entry.get("kid", "")
    if (algorithm and algorithm not in ALGORITHMS) or not isinstance(key_id, str):
        return None
    key: PublicKey | None = None
    with contextlib.suppress(jwt.PyJWTError, ValueError, TypeError):
        loaded = jwt.PyJWK(dict(entry)).key
        key = loaded if isinstance(loaded, _PUBLIC) else None
    return None if key is None else VerifyingKey(key_id, key, algorithm)
