"""Who calls, and what it may do.

    credentials of a call ─► Authenticator ─► Principal ─► access rules (transport)
                                 ▲  ▲
                 KeyRing ────────┘  │   API keys, as the store has them a moment ago
                 Bearers ───────────┘   tokens: keys of issuers (jwks), providers that are asked (remote)

A principal is a service. It may act for users when its credentials say so; together, principal and user own what they make
(`records.Owner`). Nothing here knows gRPC or a database: `app.py` brings the keys' source and the transport the headers.
"""

from dragoman.auth.asking import Asker
from dragoman.auth.authenticator import Authenticator, Credentials
from dragoman.auth.bearers import Bearers, ClaimRule, Issuer
from dragoman.auth.certificates import Certificate, CertificateRule, read_certificate
from dragoman.auth.jwks import FetchedKeys, FileKeys, KeysUnusable
from dragoman.auth.keyring import KeyRing, KeySource
from dragoman.auth.keys import NewKey, make_key
from dragoman.auth.principals import LOCAL, Principal, Scope
from dragoman.auth.remote import Asked, Endpoint, Introspection
from dragoman.auth.verifying import Signed

__all__ = [
    "LOCAL",
    "Asked",
    "Asker",
    "Authenticator",
    "Bearers",
    "Certificate",
    "CertificateRule",
    "ClaimRule",
    "Credentials",
    "Endpoint",
    "FetchedKeys",
    "FileKeys",
    "Introspection",
    "Issuer",
    "KeyRing",
    "KeySource",
    "KeysUnusable",
    "NewKey",
    "Principal",
    "Scope",
    "Signed",
    "make_key",
    "read_certificate",
]
