"""`GET /metrics` is for scrapers; whoever else comes gets nothing, holds nothing up and leaves nothing behind."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from support.telemetry import http

from dragoman.telemetry.endpoint import MAX_CONNECTIONS, CannotServeMetrics, MetricsEndpoint

GET = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@asynccontextmanager
async def endpoint(body: bytes = b"figures 1\n", patience: float = 60.0) -> AsyncIterator[str]:
    served = MetricsEndpoint(lambda: None, lambda: body, patience=patience)
    address = await served.start("127.0.0.1", 0)
    try:
        yield address
    finally:
        await served.close()


ANSWERS: list[tuple[str, bytes, int]] = [
    ("scrape", GET, 200),
    ("http-1.0", b"GET /metrics HTTP/1.0\r\n\r\n", 200),
    ("query", b"GET /metrics?name=x HTTP/1.1\r\n\r\n", 200),
    ("head", b"HEAD /metrics HTTP/1.1\r\n\r\n", 200),
    ("elsewhere", b"GET / HTTP/1.1\r\n\r\n", 404),
    ("climbing", b"GET /metrics/../../etc/passwd HTTP/1.1\r\n\r\n", 404),
    ("absolute", b"GET http://elsewhere/metrics HTTP/1.1\r\n\r\n", 404),
    ("post", b"POST /metrics HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc", 405),
    ("no-http", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400),
    ("http-2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    ("empty-lines", b"\r\n\r\n", 400),
    ("two-requests", GET * 2, 200),
    ("long-header", b"GET /metrics HTTP/1.1\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", 431),
]


@pytest.mark.parametrize(
    ("request_", "status"), [case[1:] for case in ANSWERS], ids=[case[0] for case in ANSWERS]
)
async def test_one_answer_and_the_connection_ends(request_: bytes, status: int) -> None:
    async with endpoint() as address:
        answer = await http(address, request_)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[:2] == [b"HTTP/1.1", str(status).encode()]
    assert b"Connection: close" in head
    wants_body = status == 200 and not request_.startswith(b"HEAD")
    assert body == (b"figures 1\n" if wants_body else b"")


async def test_who_ends_the_request_half_way_is_told_so() -> None:
    async with endpoint() as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /metr")
        writer.write_eof()
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()


async def test_who_says_nothing_is_shown_out() -> None:
    async with endpoint(patience=0.2) as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET")
        assert (await reader.read()).startswith(b"HTTP/1.1 408 ")
        writer.close()


async def test_who_does_not_read_is_cut_off() -> None:
    async with endpoint(b"x" * 50_000_000, patience=0.5) as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port), limit=1024)
        writer.write(GET)
        # The task ends by itself: closing the endpoint below would hide one that does not.
        while any(task.get_name() == "metrics" for task in asyncio.all_tasks()) or not reader._buffer:  # type: ignore[attr-defined]
            await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_a_crowd_is_turned_away_and_others_are_served_after_it() -> None:
    async with endpoint() as address:
        host, _, port = address.rpartition(":")
        crowd = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_CONNECTIONS)]
        while sum(task.get_name() == "metrics" for task in asyncio.all_tasks()) < MAX_CONNECTIONS:
            await asyncio.sleep(0.001)
        with contextlib.suppress(ConnectionError):
            assert await http(address, GET) == b""
        for _, writer in crowd:
            writer.transport.abort()
        while any(task.get_name() == "metrics" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
        assert (await http(address, GET)).endswith(b"figures 1\n")


async def test_a_defect_is_no_answer_and_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    def fail() -> bytes:
        raise RuntimeError("secret")

    served = MetricsEndpoint(lambda: None, fail)
    address = await served.start("127.0.0.1", 0)
    answer = await http(address, GET)
    await served.close()
    assert answer.startswith(b"HTTP/1.1 500 ")
    assert b"secret" not in answer
    assert "the metrics cannot be told" in caplog.text


async def test_a_taken_port_is_told() -> None:
    async with endpoint() as address:
        other = MetricsEndpoint(lambda: None, bytes)
        with pytest.raises(CannotServeMetrics, match=address.rpartition(":")[2]):
            await other.start("127.0.0.1", int(address.rpartition(":")[2]))
        await other.close()


async def test_closing_ends_what_is_open() -> None:
    async with endpoint() as address:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        while not any(task.get_name() == "metrics" for task in asyncio.all_tasks()):
            await asyncio.sleep(0.001)
    with contextlib.suppress(ConnectionError):
        assert await reader.read() == b""
    writer.close()
