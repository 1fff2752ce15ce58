"""Who calls, and what it may do.

    credentials of a call ─► Authenticator ─► Principal ─► access rules (transport)
                                 ▲
                 KeyRing ────────┘   API keys, as the store has them a moment ago

A principal is a service. It may act for users when its credentials say so; together, principal and user own what they make
(`records.Owner`). Nothing here knows gRPC or a database: `app.py` brings the keys' source and the transport the headers.
"""

from dragoman.auth.authenticator import Authenticator, Credentials
from dragoman.auth.keyring import KeyRing, KeySource
from dragoman.auth.keys import NewKey, make_key
from dragoman.auth.principals import LOCAL, CertificateRule, Principal, Scope

__all__ = [
    "LOCAL",
    "Authenticator",
    "CertificateRule",
    "Credentials",
    "KeyRing",
    "KeySource",
    "NewKey",
    "Principal",
    "Scope",
    "make_key",
]
