"""API keys: `dgm_<id>_<secret>`.

The id (16 letters and digits, 80 bits) finds the key; the secret (43 characters, 256 bits) proves it. Of the secret only an
HMAC-SHA256 under a salt of the key's own is kept: a secret of so many bits needs no slow hash, and a copy of the database
is of no use to a thief. The comparison takes the same time however much of a secret is right.
"""

import base64
import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from dragoman.auth.principals import Scope
from dragoman.quotas import NO_QUOTAS, Quotas
from dragoman.records import ApiKey

PREFIX: Final = "dgm"
"""So that scanners of logs and repositories know a key when they see one."""

_KEY: Final = re.compile(r"dgm_([a-z2-7]{16})_([A-Za-z0-9_-]{43})")


@dataclass(frozen=True, slots=True)
class NewKey:
    """A key that was just made. `text` is all of it, and is shown once."""

    key: ApiKey
    text: str = field(repr=False)


def make_key(
    principal: str,
    *,
    title: str = "",
    scopes: Iterable[Scope] = (Scope.RUN,),
    agents: Iterable[str] = ("*",),
    acts_for_users: bool = False,
    now: datetime,
    expire_time: datetime | None = None,
    quotas: Quotas = NO_QUOTAS,
) -> NewKey:
    """A new key; it is not kept yet."""
    key_id = base64.b32encode(secrets.token_bytes(10)).decode().lower()
    secret = secrets.token_urlsafe(32)
    salt = secrets.token_bytes(32)
    key = ApiKey(
        id=key_id,
        principal=principal,
        title=title,
        salt=salt,
        digest=digest(salt, secret),
        scopes=tuple(scopes),
        agents=tuple(agents),
        acts_for_users=acts_for_users,
        create_time=now,
        expire_time=expire_time,
        quotas=quotas,
    )
    return NewKey(key, f"{PREFIX}_{key_id}_{secret}")


def split(text: str) -> tuple[str, str] | None:
    """Id and secret; None for what is no key."""
    found = _KEY.fullmatch(text)
    return None if found is None else (found[1], found[2])


def digest(salt: bytes, secret: str) -> bytes:
    """What is kept of a secret."""
    return hmac.digest(salt, secret.encode(), hashlib.sha256)


def proves(key: ApiKey, secret: str) -> bool:
    """Whether the secret is the key's."""
    return hmac.compare_digest(key.digest, digest(key.salt, secret))


def valid(key: ApiKey, now: datetime) -> bool:
    """Whether it counts: neither revoked nor expired."""
    return key.revoke_time is None and (key.expire_time is None or now < key.expire_time)
