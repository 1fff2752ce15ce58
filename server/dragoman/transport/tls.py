"""TLS: the server's certificate, whom it lets prove itself by one, and how both are replaced while it serves.

Before each handshake the files are looked at; when one has changed they are read again, and connections from then on see
the new certificate, while those that are open go on. Files that do not fit together (a deployment is in the middle of
writing them), or a certificate that is out of its time, are left alone, and logged once, until they do.
"""

import contextlib
import logging
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeAlias

import grpc
from cryptography import x509

logger = logging.getLogger(__name__)

GRACE = 0.25
"""Seconds for which no other handshake may have begun when the certificate is replaced.

gRPC asks us under a lock, and after that makes the handshaker outside of it (`add_handshakers` in ssl_security_connector.cc;
grpc/grpc#36693, open as of 1.85.1). A new certificate frees what another thread is about to make its handshaker of, which
ends the process, and does so within seconds when many connect. While one of us is asked nobody else is: who waits lets those
go on who were asked before.
"""

_Stamp: TypeAlias = tuple[tuple[int, ...], ...]


class TlsUnusable(Exception):
    """The files of the certificate cannot be used. The text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """PEM files: a certificate with its chain, its key, and the authorities of clients that must bring one."""

    certificate: Path
    key: Path
    client_authorities: Path | None = None


class TlsReloader:
    """Makes server credentials that follow the files. Raises TlsUnusable when they cannot be used at first.

    `expires` is told until when each certificate that is taken into use holds, in whatever thread that is.
    """

    def __init__(self, files: TlsFiles, expires: Callable[[datetime], None] = lambda _: None) -> None:
        self._files = files
        self._expires = expires
        self._lock = threading.Lock()  # handshakes ask in threads of gRPC
        self._seen = self._stamp()
        self._asked = float("-inf")
        self._refused: object = None
        self._initial = self._read(self._seen)

    def credentials(self) -> grpc.ServerCredentials:
        """For `add_secure_port`. With `client_authorities`, who brings no certificate of theirs gets no connection."""
        made: grpc.ServerCredentials = grpc.dynamic_ssl_server_credentials(
            self._initial,
            self._changed,
            require_client_authentication=self._files.client_authorities is not None,
        )
        return made

    def _changed(self) -> Any:
        """The new configuration; None when nothing has changed. Raises nothing: the old one goes on then."""
        with self._lock:
            try:
                configuration = self._look()
                if configuration is not None:
                    time.sleep(max(self._asked + GRACE - time.monotonic(), 0.0))
                return configuration
            finally:
                self._asked = time.monotonic()

    def _look(self) -> Any:
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return None
            configuration = self._read(stamp, in_time=True)
        except TlsUnusable as error:
            if self._refused != (refused := str(error)):
                logger.warning(
                    "a new certificate cannot be used: the old one goes on", extra={"why": refused}
                )
                self._refused = refused
            return None
        self._seen, self._refused = stamp, None
        logger.info("the certificate was replaced", extra={"file": str(self._files.certificate)})
        return configuration

    def _paths(self) -> list[Path]:
        files = self._files
        return [path for path in (files.certificate, files.key, files.client_authorities) if path is not None]

    def _stamp(self) -> _Stamp:
        """What changes when a file is written or replaced, by another file or by another link."""
        try:
            found = [path.stat() for path in self._paths()]
        except OSError as error:
            raise TlsUnusable(f"{error.filename}: {error.strerror}") from error
        return tuple((each.st_ino, each.st_mtime_ns, each.st_ctime_ns, each.st_size) for each in found)

    def _read(self, stamp: _Stamp, *, in_time: bool = False) -> Any:
        """`stamp`: of the files as they are meant to be read. `in_time`: whether to refuse a certificate that does not hold now,
        which is worse than the old one; at the start there is none."""
        files = self._files
        try:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            # An encrypted key is refused rather than asked a password for, on a terminal that a server has not got.
            context.load_cert_chain(files.certificate, files.key, password=b"")
            key, chain = files.key.read_bytes(), files.certificate.read_bytes()
            roots = files.client_authorities.read_bytes() if files.client_authorities is not None else None
        except (OSError, ValueError) as error:  # an SSLError is one; it quotes no content
            raise TlsUnusable(
                f"{files.certificate} and {files.key} cannot be used: {_words(error)}"
            ) from error
        if roots is not None:
            _check_authorities(context, files.client_authorities)
        # What was checked is what was read, unless somebody wrote meanwhile.
        if self._stamp() != stamp:
            raise TlsUnusable(f"{files.certificate} and {files.key} are being written")
        # What OpenSSL takes and this parser does not is served all the same.
        with contextlib.suppress(ValueError):
            certificate = x509.load_pem_x509_certificate(chain)
            begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
            if in_time and not begin <= datetime.now(UTC) < end:
                raise TlsUnusable(f"{files.certificate} holds from {begin:%F %T} to {end:%F %T} UTC only")
            self._expires(end)
        return grpc.ssl_server_certificate_configuration([(key, chain)], root_certificates=roots)


def _check_authorities(context: ssl.SSLContext, file: Path | None) -> None:
    try:
        context.load_verify_locations(file)
    except (OSError, ValueError) as error:
        raise TlsUnusable(f"{file} cannot be used: {_words(error)}") from error


def _words(error: Exception) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "no certificate and key that fit together").lower().replace("_", " ")
    return error.strerror or "they cannot be read" if isinstance(error, OSError) else "they are no PEM"
