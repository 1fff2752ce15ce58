"""Fetching from a host that lies, drips, floods, leads astray, or is not where it says it is."""

import asyncio
import gzip
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass

import httpcore2 as httpcore
import pytest
import trustme
from support.media_host import PUBLIC, MediaHost, Route, answer, endless, raw, redirect, silent

from dragoman.engine.ports import FetchedMedium
from dragoman.errors import InvalidInput, InvalidMedia, MediaTooLarge
from dragoman.fetch import Hosts, HttpFetcher

LIMIT = 200_000
DATA = b"\x89PNG" + bytes(range(256)) * 100
OK = b"HTTP/1.1 200 OK\r\n"
PATIENT = 60.0
"""Seconds that no test waits: what must end, ends for another reason."""


@pytest.fixture
async def host(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MediaHost]:
    async with MediaHost() as host:
        sockets = host.sockets()
        monkeypatch.setattr(httpcore, "AnyIOBackend", lambda: sockets)
        yield host


@dataclass
class Tried:
    """What became of a fetch."""

    medium: FetchedMedium | None = None
    error: InvalidInput | None = None


async def fetch(
    host: MediaHost,
    uri: str,
    *,
    allowed: tuple[str, ...] = ("*",),
    private: tuple[str, ...] = (),
    timeout: float = PATIENT,
    connect_timeout: float = PATIENT,
    ssl_context: ssl.SSLContext | None = None,
) -> Tried:
    fetcher = HttpFetcher(
        Hosts(allowed, private),
        max_bytes=LIMIT,
        connect_timeout=connect_timeout,
        timeout=timeout,
        resolver=host.resolve,
        ssl_context=ssl_context,
    )
    try:
        tried = Tried(medium=await fetcher.fetch(uri, "media[1].uri"))
    except InvalidInput as error:
        tried = Tried(error=error)
    finally:
        await fetcher.close()
    if tried.error is not None:
        assert [violation.field for violation in tried.error.violations] == ["media[1].uri"]
        assert "secret" not in str(tried.error)
    return tried


async def test_an_honest_host(host: MediaHost) -> None:
    host.routes["/cat.png"] = answer(DATA, "image/png; q=1", Set_Cookie="a=secret")
    tried = await fetch(host, "http://media.test/cat.png?size=2#top")
    assert tried.medium == FetchedMedium(DATA, "image/png; q=1")
    assert host.connected == [PUBLIC]
    (head,) = host.heads
    assert head.splitlines()[:2] == ["GET /cat.png?size=2 HTTP/1.1", "Host: media.test"]
    assert "accept-encoding: identity" in head.lower()
    assert not {"cookie", "authorization"} & {line.partition(":")[0].lower() for line in head.splitlines()}


async def test_proxies_of_the_environment_count_for_nothing(
    host: MediaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://proxy.test:3128")
    host.routes["/"] = answer(DATA)
    assert (await fetch(host, "http://media.test/")).medium == FetchedMedium(DATA, "")
    assert host.lookups == ["media.test"]


async def test_neither_cookies_nor_connections_are_kept_between_hops(host: MediaHost) -> None:
    host.routes["/a"] = answer(b"", status="302 Found", Location="/b", Set_Cookie="a=b")
    host.routes["/b"] = answer(DATA)
    assert (await fetch(host, "http://media.test/a")).medium is not None
    assert host.paths == ["/a", "/b"]
    assert host.connected == [PUBLIC, PUBLIC]
    assert "cookie" not in host.heads[1].lower()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_a_redirect_to_an_allowed_host_is_followed(host: MediaHost, status: int) -> None:
    host.names["other.test"] = [PUBLIC]
    host.routes["/a"] = redirect("http://other.test/b", status)
    host.routes["/b"] = answer(DATA)
    tried = await fetch(host, "http://media.test/a", allowed=("media.test", "other.test"))
    assert tried.medium is not None
    assert host.heads[1].splitlines()[1] == "Host: other.test"


LED_ASTRAY = {
    "loopback": "http://127.0.0.1/",
    "another loopback": "http://127.8.8.8/",
    "metadata of a cloud": "http://169.254.169.254/latest/meta-data/",
    "loopback of IPv6": "http://[::1]/",
    "loopback mapped into IPv6": "http://[::ffff:127.0.0.1]/",
    "metadata mapped into IPv6": "http://[::ffff:a9fe:a9fe]/",
    "this host": "http://0.0.0.0/",
    "a number": "http://2130706433/",
    "octal": "http://0177.0.0.1/",
    "hexadecimal": "http://0x7f000001/",
    "short": "http://127.1/",
    "a name of a private address": "http://inside.test/",
    "a name of several addresses, one of them private": "http://mixed.test/",
    "a name of a private address of IPv6": "http://inside6.test/",
    "another port": "http://media.test:6379/",
    "a user": "http://a:b@media.test/",
    "another scheme": "gopher://media.test/",
    "a file": "file:///etc/passwd",
    "nothing that is a URL": "http://[",
    "broken bytes": "http://\xff\xfe/",
}


@pytest.mark.parametrize("where", LED_ASTRAY)
@pytest.mark.parametrize("hops", [1, 3])
async def test_no_redirect_leads_where_no_url_may_lead(host: MediaHost, where: str, hops: int) -> None:
    host.names |= {
        "inside.test": ["10.0.0.7"],
        "inside6.test": ["fd00::7"],
        "mixed.test": [PUBLIC, "192.168.0.1"],
    }
    for hop in range(1, hops):
        host.routes[f"/{hop}"] = redirect(f"/{hop + 1}")
    location = LED_ASTRAY[where].encode("latin-1")
    head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    host.routes[f"/{hops}"] = raw(head)
    tried = await fetch(host, "http://media.test/1")
    assert type(tried.error) is InvalidMedia
    assert "redirects to a URL that " in str(tried.error)
    assert host.connected == [PUBLIC] * hops


@pytest.mark.parametrize(
    "uri",
    [
        "http://127.0.0.1/",
        "http://[::1]/",
        "http://169.254.169.254/",
        "http://inside.test/",
        "http://0.0.0.0/",
    ],
)
async def test_no_url_leads_to_a_private_address(host: MediaHost, uri: str) -> None:
    host.names["inside.test"] = ["127.0.0.1"]
    tried = await fetch(host, uri)
    assert "is of a host whose address is not public" in str(tried.error)
    assert host.connected == []


async def test_a_redirect_to_a_host_that_is_not_allowed_is_not_looked_up(host: MediaHost) -> None:
    host.routes["/"] = redirect("http://other.test/")
    tried = await fetch(host, "http://media.test/", allowed=("media.test",))
    assert "redirects to a URL that is not of a host and port" in str(tried.error)
    assert host.lookups == ["media.test"]


async def test_a_name_that_is_bound_anew_after_it_was_checked(
    host: MediaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for once per connection, and the answer that was checked is connected to."""
    answers = [[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]]

    async def rebinding(name: str, port: int) -> Sequence[str]:
        host.lookups.append(name)
        return answers[len(host.lookups) - 1]

    monkeypatch.setattr(host, "resolve", rebinding)
    host.routes["/"] = answer(DATA)
    assert (await fetch(host, "http://media.test/")).medium is not None
    assert (host.lookups, host.connected) == (["media.test"], [PUBLIC])
    tried = await fetch(host, "http://media.test/")
    assert "address is not public" in str(tried.error)
    assert host.connected == [PUBLIC]


async def test_a_name_that_is_bound_anew_between_two_hops(host: MediaHost) -> None:
    async def rebind(writer: asyncio.StreamWriter) -> None:
        host.names["media.test"] = ["127.0.0.1"]
        await redirect("/again")(writer)

    host.routes["/"] = rebind
    tried = await fetch(host, "http://media.test/")
    assert "redirects to a URL that is of a host whose address is not public" in str(tried.error)
    assert (len(host.lookups), host.connected) == (2, [PUBLIC])


async def test_a_private_host_that_the_operator_names(host: MediaHost) -> None:
    host.names["minio.internal"] = ["127.0.0.1"]
    host.routes["/"] = answer(DATA)
    named = (f"minio.internal:{host.port}",)
    uri = f"http://minio.internal:{host.port}/"
    assert (await fetch(host, uri, allowed=(), private=named)).medium is not None
    other = f"http://127.0.0.1:{host.port}/"
    assert (await fetch(host, other, allowed=(), private=named)).error is not None
    assert host.connected == ["127.0.0.1"]


async def test_the_next_address_of_a_host_is_tried(host: MediaHost) -> None:
    host.names["media.test"] = ["2606:4700::1", "8.8.8.8", PUBLIC]
    host.routes["/"] = answer(DATA)
    assert (await fetch(host, "http://media.test/")).medium is not None
    assert host.connected == ["2606:4700::1", "8.8.8.8", PUBLIC]


BOMB = gzip.compress(bytes(50_000_000), 9)

HOSTILE: dict[str, tuple[Callable[[], Route], type[InvalidInput], str]] = {
    "a body without an end": (lambda: endless(OK + b"\r\n", b"x" * 65536), MediaTooLarge, "more than 200000"),
    "chunks without an end": (
        lambda: endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        MediaTooLarge,
        "more than 200000",
    ),
    "a length over the limit": (
        lambda: raw(OK + b"Content-Length: 200001\r\n\r\n"),
        MediaTooLarge,
        "more than 200000",
    ),
    "a length beyond all numbers": (
        lambda: raw(OK + b"Content-Length: " + b"9" * 19 + b"\r\n\r\n"),
        MediaTooLarge,
        "more than 200000",
    ),
    "two lengths": (
        lambda: raw(OK + b"Content-Length: 5\r\nContent-Length: 50\r\n\r\nhello"),
        InvalidMedia,
        "does not speak HTTP",
    ),
    "a body shorter than its length": (
        lambda: raw(OK + b"Content-Length: 100\r\n\r\nhello"),
        InvalidMedia,
        "broke off",
    ),
    "a bomb": (
        lambda: answer(BOMB, "image/png", Content_Encoding="gzip"),
        InvalidMedia,
        "sends it compressed",
    ),
    "a bomb as a transfer": (
        lambda: raw(OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + BOMB),
        InvalidMedia,
        "does not speak HTTP",
    ),
    "headers without an end": (lambda: endless(OK, b"X-A: " + b"a" * 8192 + b"\r\n"), InvalidMedia, "HTTP"),
    "no HTTP": (lambda: raw(b"SSH-2.0-secret\r\n"), InvalidMedia, "does not speak HTTP"),
    "nothing": (lambda: raw(), InvalidMedia, "broke off"),
    "not found": (lambda: answer(b"secret", status="404 secret"), InvalidMedia, "status 404"),
    "a part": (lambda: answer(b"secret", status="206 Partial"), InvalidMedia, "status 206"),
    "a failure": (lambda: answer(b"secret", status="500 secret"), InvalidMedia, "status 500"),
    "not modified": (lambda: answer(b"", status="304 Not Modified"), InvalidMedia, "status 304"),
}


@pytest.mark.parametrize("what", HOSTILE)
async def test_a_hostile_host(host: MediaHost, what: str) -> None:
    route, kind, words = HOSTILE[what]
    host.routes["/"] = route()
    tried = await fetch(host, "http://media.test/")
    assert type(tried.error) is kind
    assert words in str(tried.error)


@pytest.mark.parametrize(
    "route",
    [
        endless(OK + b"Content-Length: 100000\r\n\r\n", b"x", 0.01),
        endless(OK, b"X: y\r\n", 0.01),
        endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
        silent,
    ],
    ids=["body", "headers", "interim answers", "silence"],
)
async def test_a_host_that_takes_its_time_is_left(host: MediaHost, route: Route) -> None:
    host.routes["/"] = route
    tried = await fetch(host, "http://media.test/", timeout=0.5)
    assert type(tried.error) is InvalidMedia
    assert "could not be fetched in time" in str(tried.error)


async def test_a_resolver_that_takes_its_time_is_left(
    host: MediaHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(name: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    monkeypatch.setattr(host, "resolve", never)
    tried = await fetch(host, "http://media.test/", connect_timeout=0.2)
    assert "could not be fetched in time" in str(tried.error)


async def test_a_name_that_is_unknown_and_a_host_that_is_away(host: MediaHost) -> None:
    unknown = await fetch(host, "http://unknown.test/")
    assert "its host cannot be reached" in str(unknown.error)
    host.names["away.test"] = ["8.8.8.8"]
    away = await fetch(host, "http://away.test/")
    assert "its host cannot be reached" in str(away.error)


async def test_a_host_that_does_not_speak_tls(host: MediaHost) -> None:
    host.greeting = b"220 secret ESMTP\r\n"
    tried = await fetch(host, "https://media.test/")
    assert "its host cannot be reached" in str(tried.error)


@pytest.mark.parametrize(("timeout", "connect_timeout"), [(0.3, PATIENT), (PATIENT, 0.3)])
async def test_a_handshake_that_does_not_end(host: MediaHost, timeout: float, connect_timeout: float) -> None:
    tried = await fetch(host, "https://media.test/", timeout=timeout, connect_timeout=connect_timeout)
    assert "could not be fetched in time" in str(tried.error)


@pytest.mark.parametrize(("name", "trusted"), [("media.test", True), ("other.test", False)])
async def test_the_certificate_is_of_the_name_whatever_the_address(
    monkeypatch: pytest.MonkeyPatch, name: str, trusted: bool
) -> None:
    authority, tls = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("media.test").configure_cert(tls)
    asked: list[str | None] = []
    tls.sni_callback = lambda _, server_name, __: asked.append(server_name)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    async with MediaHost(tls) as host:
        sockets = host.sockets()
        monkeypatch.setattr(httpcore, "AnyIOBackend", lambda: sockets)
        host.names["other.test"] = [PUBLIC]
        host.routes["/"] = answer(DATA)
        tried = await fetch(host, f"https://{name}/", ssl_context=context)
    assert (tried.medium is not None) == trusted
    assert asked == [name]
    assert len(host.heads) == int(trusted)


async def test_thirty_redirects_are_not_followed(host: MediaHost) -> None:
    for hop in range(30):
        host.routes[f"/{hop}"] = redirect(f"/{hop + 1}")
    host.routes["/30"] = answer(DATA)
    tried = await fetch(host, "http://media.test/0")
    assert "redirects more than 5 times" in str(tried.error)
    assert len(host.heads) == 6


async def test_five_redirects_are_followed(host: MediaHost) -> None:
    for hop in range(5):
        host.routes[f"/{hop}"] = redirect(f"/{hop + 1}")
    host.routes["/5"] = answer(DATA)
    assert (await fetch(host, "http://media.test/0")).medium is not None


async def test_a_medium_of_exactly_the_limit_is_taken(host: MediaHost) -> None:
    host.routes["/"] = raw(OK + b"\r\n" + b"x" * LIMIT)
    tried = await fetch(host, "http://media.test/")
    assert tried.medium is not None
    assert len(tried.medium.data) == LIMIT


async def test_to_cancel_a_fetch_closes_its_connection(host: MediaHost) -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def route(writer: asyncio.StreamWriter) -> None:
        begun.set()
        try:
            await endless(OK + b"\r\n", b"x", 0.01)(writer)
        finally:
            ended.set()

    host.routes["/"] = route
    fetching = asyncio.create_task(fetch(host, "http://media.test/"))
    await begun.wait()
    fetching.cancel()
    with pytest.raises(asyncio.CancelledError):
        await fetching
    await ended.wait()


def test_a_url_that_will_not_be_tried_is_told_without_asking_anybody() -> None:
    fetcher = HttpFetcher(Hosts(["media.test"], []), max_bytes=1, connect_timeout=1, timeout=1)
    assert fetcher.refusal("http://media.test/") == ""
    assert "not of a host" in fetcher.refusal("http://other.test/")
    assert "user" in fetcher.refusal("http://a@media.test/")
