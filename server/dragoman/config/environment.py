"""What commands and demos read of the environment beside settings."""

import os
from pathlib import Path

from dragoman import zones
from dragoman.config.sources import API_KEY_VARIABLE, CLIENT_TLS_VARIABLES, TOKEN_VARIABLE, USER_VARIABLE


def local_time_zone() -> str:
    """The IANA name of the zone of whoever is at this machine: of TZ, else of the system; UTC when it has none."""
    named = os.environ.get("TZ", "").lstrip(":")
    system = str(Path("/etc/localtime").resolve()).rpartition("/zoneinfo/")[2]
    for name in (named, system):
        try:
            return zones.zone(name.removeprefix("posix/")).key
        except ValueError:
            continue
    return "UTC"


def has_model_key() -> bool:
    """Whether the environment holds a key for Claude: demos then use it instead of the offline model."""
    return bool(os.environ.get("ANTHROPIC_API_KEY"))


def client_credentials() -> tuple[str, str, str]:
    """The API key, the token, and the user for whom to act, of commands that are clients; empty when there is none."""
    key, token, user = (
        os.environ.get(name, "") for name in (API_KEY_VARIABLE, TOKEN_VARIABLE, USER_VARIABLE)
    )
    return key, token, user


def client_tls() -> tuple[str | None, str | None, str | None]:
    """Files by which commands that are clients connect: authorities, certificate, key; all None for plaintext."""
    authorities, certificate, key = (os.environ.get(name) or None for name in CLIENT_TLS_VARIABLES)
    return authorities, certificate, key


def silence_agno() -> None:
    """Turns Agno's telemetry off for this process; it reads the variable at import, so call this before."""
    os.environ["AGNO_TELEMETRY"] = "false"
