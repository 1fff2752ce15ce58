"""Which URLs may be fetched: those of hosts that the operator allows.

    images.example.com          this host, on the usual ports (80, 443)
    *.example.com               any host below example.com, not example.com itself
    files.example.com:8443      this host on this port alone
    *                           any host

A URL is read once, strictly, and what was read is what is asked for: nothing downstream reads it again. Names are ASCII;
a host of another script is written as its owner's DNS has it (`xn--...`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import Final
from urllib.parse import urljoin, urlsplit

MAX_URI: Final = 2048
"""Characters of a URL."""

_PORTS: Final = {"http": 80, "https": 443}
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_AUTHORITY: Final = re.compile(r"(?P<host>\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+)(?::(?P<port>[0-9]{1,5}))?")
_NAME: Final = re.compile(
    r"(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
)
_NUMBER: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")


class Refused(Exception):
    """The URL is not fetched. Its text is a sentence for the caller, which goes on from the field's path."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a URL asks for."""

    scheme: str
    host: str
    """In lower case; an IPv6 address without brackets."""
    port: int
    path: str
    """With the query, without the fragment; never empty."""

    @property
    def authority(self) -> str:
        """What is sent as `Host`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    @property
    def uri(self) -> str:
        """The URL again."""
        return f"{self.scheme}://{self.authority}{self.path}"


def read(uri: str) -> Target:
    """What a URL asks for. Raises Refused for what is no http(s) URL, and for what hides where it leads."""
    if len(uri) > MAX_URI:
        raise Refused(f"must have at most {MAX_URI} characters, has {len(uri)}")
    if not _PRINTABLE.fullmatch(uri) or "\\" in uri:
        raise Refused("must be a URL of printable ASCII characters without spaces or backslashes")
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise Refused("is not a URL") from None
    if parts.scheme not in _PORTS:
        raise Refused("must be an http or https URL")
    if "@" in parts.netloc:
        raise Refused("must not contain a user or a password")
    found = _AUTHORITY.fullmatch(parts.netloc)
    if found is None:
        raise Refused("must name a host, for example https://images.example.com/cat.png")
    port = int(found["port"]) if found["port"] else _PORTS[parts.scheme]
    if not 0 < port < 65536:
        raise Refused("must name a port between 1 and 65535, or none")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Target(parts.scheme, _host(found["host"]), port, path)


def follow(target: Target, location: str) -> Target:
    """Where a redirect leads. Raises Refused."""
    try:
        uri = urljoin(target.uri, location.strip())
    except ValueError:
        raise Refused("is not a URL") from None
    led = read(uri)
    if target.scheme == "https" and led.scheme == "http":
        raise Refused("must not lead from https to http")
    return led


def _host(text: str) -> str:
    host = text.lower().removesuffix(".")
    if host.startswith("["):
        try:
            return str(IPv6Address(host[1:-1]))
        except AddressValueError:
            raise Refused("must name a host: the address in brackets is none of IPv6") from None
    if len(host) > 253 or not _NAME.fullmatch(host):
        raise Refused("must name a host, for example images.example.com")
    if _NUMBER.fullmatch(host.rpartition(".")[2]):
        # 2130706433, 0x7f.1 and 0177.0.0.1 are 127.0.0.1 to some resolvers.
        try:
            return str(IPv4Address(host))
        except AddressValueError:
            raise Refused("must write an IPv4 address as four decimal numbers") from None
    return host


class Hosts:
    """The hosts that an operator allows: `patterns`, and `private` ones, which may be of any address."""

    def __init__(self, patterns: Iterable[str], private: Iterable[str]) -> None:
        self._public = tuple(_pattern(text) for text in patterns)
        self._private = tuple(_pattern(text) for text in private)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._public or self._private)

    def check(self, target: Target) -> None:
        """Raises Refused for a host, or a port of it, that is not allowed."""
        if not self:
            raise Refused("this server fetches no media; send the bytes in data")
        if not (self.is_private(target.host, target.port) or _fits(self._public, target.host, target.port)):
            raise Refused("is not of a host and port that this server fetches media from")

    def is_private(self, host: str, port: int) -> bool:
        """Whether it may be of any address: the operator has named it."""
        return _fits(self._private, host, port)


def _pattern(text: str) -> tuple[str, int | None]:
    """A pattern as (host, port). The settings have checked how it is written."""
    lower = text.lower()
    if lower.startswith("["):
        host, _, rest = lower.partition("]")
        return str(IPv6Address(host[1:])), int(rest[1:]) if rest else None
    host, _, port = lower.partition(":")
    return host, int(port) if port else None


def _fits(patterns: Iterable[tuple[str, int | None]], host: str, port: int) -> bool:
    return any(
        (port in _PORTS.values() if only is None else port == only)
        and (name in ("*", host) or (name.startswith("*.") and host.endswith(name[1:])))
        for name, only in patterns
    )
