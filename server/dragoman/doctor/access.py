"""Who may call: what is risky about it, and whether certificates, API keys and issuers of tokens are in order."""

import asyncio
import ssl
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from dragoman.config import Settings
from dragoman.doctor.findings import Finding, failed, good, warning
from dragoman.doctor.machine import reaches
from dragoman.errors import StorageUnavailable

SOON = timedelta(days=14)
"""A certificate that expires earlier is told of."""


def risks(settings: Settings) -> Iterator[Finding]:
    """Combinations of settings that are allowed and seldom meant."""
    if settings.auth:
        yield good(f"callers prove who they are: {', '.join(settings.auth)}")
    elif settings.is_local:
        yield good("callers prove nothing, and the server listens on this machine only")
    else:
        yield warning(
            f"callers prove nothing, and {settings.host} can be reached by others (insecure)",
            "set auth, or see that the network lets only those in who may run the agents",
        )
    if not settings.is_local and settings.tls_cert is None:
        yield warning(
            f"what is said to {settings.host} is not encrypted, credentials included",
            "set tls_cert and tls_key, unless the mesh encrypts (mTLS of a sidecar)",
        )
    if settings.workers > 1 and settings.database_url.startswith("sqlite"):
        yield warning(
            f"{settings.workers} workers write to one SQLite file, one at a time",
            "use MySQL or MariaDB for several processes",
        )
    if settings.database_url in ("sqlite://", "sqlite:///:memory:"):
        yield warning("the database lives in memory: all is lost when the server stops", "set database_url")
    if "*" in settings.media_hosts:
        yield warning("callers may have media fetched from any public host", "name the hosts in media_hosts")
    if settings.log_level == "DEBUG":
        yield warning("log lines of DEBUG may quote what was said", "set log_level to INFO")


def tls(settings: Settings) -> Iterator[Finding]:
    """Whether the files are there, fit together, and hold for a while."""
    from dragoman.transport.tls import TlsFiles, TlsReloader, TlsUnusable

    certificate, key, authorities = settings.tls_cert, settings.tls_key, settings.tls_client_ca
    if certificate is None or key is None:
        return
    try:
        TlsReloader(TlsFiles(certificate, key, authorities))
    except TlsUnusable as error:
        yield failed(
            str(error), "see tls_cert, tls_key and tls_client_ca: PEM, of one certificate, key unencrypted"
        )
        return
    yield from _dates(certificate, "the server's certificate")
    if authorities is not None:
        yield from _dates(authorities, "an authority of clients")
    if stat.S_IMODE(key.stat().st_mode) & stat.S_IROTH:
        yield warning(f"everybody on this machine can read {key}", f"chmod o-r {key}")


def _dates(file: Path, what: str) -> Iterator[Finding]:
    """Whether all certificates in the file hold now, and in two weeks."""
    now = datetime.now(UTC)
    try:
        found = x509.load_pem_x509_certificates(file.read_bytes())
    except (OSError, ValueError):
        yield failed(f"{file} holds no certificates in PEM", "see that it begins with BEGIN CERTIFICATE")
        return
    first = min(found, key=lambda each: each.not_valid_after_utc)
    until = f"{first.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    if any(each.not_valid_before_utc > now for each in found):
        yield failed(
            f"{what} in {file} does not hold yet", "see the clock of this machine, and of whoever signed it"
        )
    elif first.not_valid_after_utc <= now:
        yield failed(
            f"{what} in {file} has expired at {until}", "put a new one there: a running server takes it up"
        )
    elif first.not_valid_after_utc <= now + SOON:
        yield warning(
            f"{what} in {file} expires at {until}", "put a new one there: a running server takes it up"
        )
    else:
        yield good(f"{what} in {file} holds until {until}")


def api_keys(settings: Settings) -> Iterator[Finding]:
    """Whether there is one by which anybody could call."""
    from dragoman.auth.keys import valid
    from dragoman.storage import DatabaseUnusable, open_store, schema_state

    if "keys" not in settings.auth:
        return
    try:
        if not schema_state(settings.database_url).up_to_date:
            yield warning("there are no API keys yet: the database is empty or old", "run `dragoman migrate`")
            return
        store = open_store(settings.database_url, connections=1, patience=1.0)
    except (ValueError, DatabaseUnusable, RuntimeError):
        yield failed("API keys cannot be looked up without the database", "mend the database first")
        return

    async def usable() -> int:
        try:
            now = datetime.now(UTC)
            return sum(valid(each, now) for each in await store.keys.all())
        finally:
            await store.close()

    try:
        count = asyncio.run(usable())
    except StorageUnavailable:
        yield failed("API keys cannot be looked up without the database", "mend the database first")
        return
    if count or settings.auth != ("keys",):
        yield good(f"{count} API key{'s' * (count != 1)} can be used")
    else:
        yield warning(
            "there is no API key that can be used: nobody can call", "run `dragoman keys create PRINCIPAL`"
        )


def tokens(settings: Settings) -> Iterator[Finding]:
    """Whether keys of issuers can be read, and their services be reached."""
    from dragoman.auth import FileKeys, KeysUnusable

    if "tokens" not in settings.auth:
        return
    for issuer in settings.tokens:
        name = issuer.issuer or issuer.url or "an issuer"
        if issuer.keys_file is not None:
            try:
                FileKeys(issuer.issuer, issuer.keys_file)
            except KeysUnusable as error:
                yield failed(f"{name}: {error}", "see keys_file: a JWKS, or PEM")
            else:
                yield good(f"{name}: the keys in {issuer.keys_file} can be used")
        if issuer.ca_file is not None and not _is_authority(issuer.ca_file):
            yield failed(f"{name}: {issuer.ca_file} holds no authorities in PEM", "see ca_file")
        if issuer.client_secret_file is not None and not issuer.client_secret_file.is_file():
            yield failed(f"{name}: there is no file {issuer.client_secret_file}", "see client_secret_file")
        if issuer.url is not None:
            parts = urlsplit(issuer.url)
            port = parts.port or (443 if parts.scheme == "https" else 80)
            if reaches(parts.hostname or "", port):
                yield good(f"{name}: {parts.hostname}:{port} can be reached")
            else:
                yield failed(
                    f"{name}: {parts.hostname}:{port} cannot be reached: its tokens are refused",
                    "see the URL in [[tokens]], and the network's rules",
                )


def _is_authority(file: Path) -> bool:
    try:
        ssl.create_default_context(cafile=str(file))
    except (OSError, ValueError):
        return False
    return True
