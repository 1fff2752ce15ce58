"""Fetches the media that callers name by URL, and takes every server on the way for a hostile one.

    the URL          http or https, no user, a host and port that the operator allows; read once, strictly
    the connection   to an address that was checked, on the hop itself: no private, loopback or link-local one
    redirects        a few, each of which is checked like the first URL
    the answer       200, not encoded, at most so many bytes, counted as they come
    time             for a connection, and for all hops together, however slowly the bytes drip

No cookies, no credentials, no proxies of the environment; a connection is used once. What a server says is never repeated to
the caller: it is told in this room's own words what became of its URL. The log has the host, never the whole URL, which
may hold a signature.
"""

import asyncio
import logging
import ssl
from contextlib import aclosing
from typing import Final

import httpcore2 as httpcore

from dragoman.engine.ports import FetchedMedium
from dragoman.errors import InvalidMedia, MediaTooLarge, Violation
from dragoman.fetch.connect import CheckedBackend, Resolver, resolve
from dragoman.fetch.targets import Hosts, Refused, Target, follow, read

logger = logging.getLogger(__name__)

MAX_REDIRECTS: Final = 5
"""Hops after the first URL."""

MAX_FETCHES: Final = 32
"""URLs that a process fetches at a time; more wait."""

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_PLAIN: Final = (b"", b"identity")


class _TooLarge(Exception):
    """More bytes than are taken."""


class HttpFetcher:
    """Fetches media. Made on one event loop, and closed there."""

    def __init__(
        self,
        hosts: Hosts,
        *,
        max_bytes: int,
        connect_timeout: float,
        timeout: float,
        resolver: Resolver = resolve,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """`max_bytes`: of one medium. `connect_timeout`, `timeout`: seconds, of one connection (TLS included) and of all."""
        self._hosts = hosts
        self._max_bytes = max_bytes
        self._timeout = timeout
        # For each phase; that all of them together do not last too long is not httpcore's business.
        self._timeouts = {
            "connect": connect_timeout,
            "read": timeout,
            "write": timeout,
            "pool": None,
        }
        self._slots = asyncio.Semaphore(MAX_FETCHES)
        self._pool = httpcore.AsyncConnectionPool(
            # Once: left to httpcore, the authorities would be read for every connection, on the event loop.
            ssl_context=ssl_context or (httpcore.default_ssl_context() if hosts else None),
            max_connections=MAX_FETCHES,
            max_keepalive_connections=0,
            network_backend=CheckedBackend(hosts.is_private, resolver),
        )

    async def close(self) -> None:
        """Closes what is open."""
        await self._pool.aclose()

    def refusal(self, uri: str) -> str:
        """Why the URL would not be fetched, as a sentence; empty when it would be tried. Asks nobody."""
        try:
            self._hosts.check(read(uri))
        except Refused as refused:
            return str(refused)
        return ""

    async def fetch(self, uri: str, path: str) -> FetchedMedium:
        """The bytes. Raises InvalidMedia or MediaTooLarge, with a violation at `path`."""
        try:
            async with self._slots, asyncio.timeout(self._timeout):
                return await self._fetch(uri)
        except Refused as refused:
            flaw = str(refused)
        except _TooLarge:
            text = f"has more than {self._max_bytes} bytes, which is the limit"
            raise MediaTooLarge([Violation(path, text)], max_bytes=str(self._max_bytes)) from None
        except (TimeoutError, httpcore.TimeoutException):
            flaw = "could not be fetched in time"
        except (httpcore.ConnectError, ssl.SSLError, OSError):
            flaw = "could not be fetched: its host cannot be reached"
        except (httpcore.NetworkError, httpcore.ProtocolError):
            flaw = "could not be fetched: its host broke off, or does not speak HTTP"
        logger.info("a medium was not fetched", extra={"flaw": flaw, "field": path})
        raise InvalidMedia([Violation(path, flaw)])

    async def _fetch(self, uri: str) -> FetchedMedium:
        target = read(uri)
        self._hosts.check(target)
        found = await self._get(target)
        for _ in range(MAX_REDIRECTS):
            if isinstance(found, FetchedMedium):
                return found
            try:
                target = follow(target, found)
                self._hosts.check(target)
                found = await self._get(target)
            except Refused as refused:
                raise Refused(f"redirects to a URL that {refused}") from None
        if isinstance(found, FetchedMedium):
            return found
        raise Refused(f"redirects more than {MAX_REDIRECTS} times")

    async def _get(self, target: Target) -> FetchedMedium | str:
        """The medium, or where it is instead."""
        url = httpcore.URL(
            scheme=target.scheme.encode(),
            host=target.host.encode(),
            port=target.port,
            target=target.path.encode(),
        )
        headers = [
            (b"Host", target.authority.encode()),
            (b"User-Agent", b"dragoman"),
            (b"Accept", b"*/*"),
            (b"Accept-Encoding", b"identity"),
            (b"Connection", b"close"),
        ]
        extensions = {"timeout": self._timeouts}
        async with self._pool.stream("GET", url, headers=headers, extensions=extensions) as response:
            if response.status in _REDIRECTS:
                return _header(response, b"location").decode("latin-1")
            if response.status != 200:
                raise Refused(f"could not be fetched: its host answered with status {response.status}")
            if _header(response, b"content-encoding").strip().lower() not in _PLAIN:
                raise Refused("could not be fetched: its host sends it compressed, unasked")
            data = await self._body(response)
        return FetchedMedium(data, _header(response, b"content-type").decode("latin-1"))

    async def _body(self, response: httpcore.Response) -> bytes:
        length = _header(response, b"content-length")
        if length.isdigit() and int(length) > self._max_bytes:
            raise _TooLarge
        data = bytearray()
        async with aclosing(response.aiter_stream()) as pieces:
            async for piece in pieces:
                if len(data) + len(piece) > self._max_bytes:
                    raise _TooLarge
                data += piece
        return bytes(data)


def _header(response: httpcore.Response, name: bytes) -> bytes:
    """The first header of the name; empty when there is none."""
    return next((value for key, value in response.headers if key.lower() == name), b"")
