"""What a client's certificate says of it. That it is the client's, and of a known authority, its handshake has proved.

Names count by their kind: a URI is no DNS name, whatever it looks like, and addresses, mail addresses and the common name count
for nothing. A certificate with a SPIFFE id has that one URI and no other, as SPIFFE's standard has it; two would let its
bearer choose who it is. Whatever cannot be read, or is out of its time, is refused.

TLS looks at the time once, when a connection is made; here it is looked at with each call, and streams end with it.
"""

import logging
import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Final

from cryptography import x509

from dragoman.auth.principals import Principal
from dragoman.errors import Unauthenticated
from dragoman.patterns import matches_parts

logger = logging.getLogger(__name__)

CACHED: Final = 1024
"""Certificates that are kept as they were read."""

_PLAIN: Final = re.compile(r"[\x21-\x7e]*")
_SPIFFE: Final = "spiffe://"
_SPIFFE_ID: Final = re.compile(r"spiffe://[a-z0-9._-]{1,255}(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._-]+)*")
_SPIFFE_LENGTH: Final = 2048


@dataclass(frozen=True, slots=True)
class Certificate:
    """A client's certificate."""

    uris: tuple[str, ...] = ()
    """The URIs of its subjectAltName, in its order."""
    dns_names: tuple[str, ...] = ()
    """Likewise the DNS names, in small letters."""
    expire_time: datetime | None = None
    """Until when it holds."""

    @property
    def names(self) -> tuple[str, ...]:
        """All by which it may be known."""
        return self.uris + self.dns_names


@dataclass(frozen=True, slots=True)
class CertificateRule:
    """Whose certificates of an identity are. `principal.credential` is empty."""

    identity: str
    """A pattern (`patterns`): of URIs when it has `://`, else of DNS names, whose case does not count."""
    principal: Principal

    def fits(self, certificate: Certificate) -> bool:
        """Whether one of the names in a certificate is meant."""
        if "://" in self.identity:
            return any(matches_parts(uri, self.identity, "/") for uri in certificate.uris)
        return any(matches_parts(name, self.identity.lower(), ".") for name in certificate.dns_names)


@lru_cache(CACHED)
def read_certificate(pem: bytes) -> Certificate:
    """Reads one. Raises Unauthenticated."""
    try:
        certificate = x509.load_pem_x509_certificate(pem)
        expire_time = certificate.not_valid_after_utc
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return Certificate(expire_time=expire_time)
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        raise _refused("it cannot be read") from None
    uris = tuple(names.get_values_for_type(x509.UniformResourceIdentifier))
    if any(uri.lower().startswith(_SPIFFE) for uri in uris):
        if len(uris) > 1:
            raise _refused("a SPIFFE id beside other URIs")
        if len(uris[0]) > _SPIFFE_LENGTH or _SPIFFE_ID.fullmatch(uris[0]) is None:
            raise _refused("what is no SPIFFE id, and looks like one")
    dns_names = names.get_values_for_type(x509.DNSName)
    if any(_PLAIN.fullmatch(name) is None for name in (*uris, *dns_names)):
        raise _refused("a name with other characters than printable ASCII")
    # Who may serve as any name of a domain is none of them.
    return Certificate(uris, tuple(name.lower() for name in dns_names if "*" not in name), expire_time)


def _refused(why: str) -> Unauthenticated:
    logger.info("a certificate was refused", extra={"why": why})
    return Unauthenticated(f"the certificate cannot be used: {why}")
