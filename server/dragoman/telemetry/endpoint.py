"""`GET /metrics` over HTTP: what Prometheus scrapes, and nothing else.

Whoever can reach the port may read figures, so it binds loopback unless told otherwise, and there is nothing here but
figures. It expects the worst of those who come: a request has a bounded size and a bounded time, an answer has a bounded
time, every connection ends after one answer, and there are never more than a few. The text is made in a thread of its
own: neither runs nor the threads of agents wait for it.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

logger = logging.getLogger(__name__)

MAX_HEAD: Final = 8 * 1024
"""Bytes of a request, headers included."""

MAX_CONNECTIONS: Final = 16
"""Connections at a time; more are turned away."""

PATIENCE: Final = 10.0
"""Seconds that a request, and that the reading of an answer, may take."""

_TEXT: Final = "text/plain; version=0.0.4; charset=utf-8"
_REASONS: Final = {
    200: "OK",
    400: "Bad Request",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    500: "Internal Server Error",
}


class CannotServeMetrics(Exception):
    """The address of the metrics cannot be listened on. The text is a sentence for the operator."""


class MetricsEndpoint:
    """Serves figures. `refresh` is called on the event loop, then `text` in a thread."""

    def __init__(
        self, refresh: Callable[[], None], text: Callable[[], bytes], *, patience: float = PATIENCE
    ) -> None:
        self._refresh = refresh
        self._text = text
        self._patience = patience
        self._open: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metrics")

    async def start(self, host: str, port: int) -> str:
        """Listens; returns the address, `host:port`. Raises CannotServeMetrics."""
        try:
            self._server = await asyncio.start_server(self._connected, host, port, limit=MAX_HEAD)
        except OSError:
            raise CannotServeMetrics(
                f"cannot serve metrics on {host}:{port}: another process has the port, or the address is not of this "
                "machine (DRAGOMAN_METRICS_HOST, DRAGOMAN_METRICS_PORT; 0 takes any free port)"
            ) from None
        bound = self._server.sockets[0].getsockname()[1]
        shown = f"[{host}]" if ":" in host else host
        address = f"{shown}:{bound}"
        logger.info("serving metrics", extra={"address": address})
        return address

    async def close(self) -> None:
        """Listens no more, and ends what is open."""
        if self._server is not None:
            self._server.close()
        for task in self._open:
            task.cancel()
        if self._open:
            await asyncio.wait(self._open)
        self._thread.shutdown(wait=False)

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._open) >= MAX_CONNECTIONS:
            writer.transport.abort()
            return
        task = asyncio.create_task(self._serve(reader, writer), name="metrics")
        self._open.add(task)
        task.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request, one answer. What goes wrong is the other side's: the connection ends."""
        try:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(self._patience):
                    status, body, head_only = await self._answer(reader)
                    writer.write(_response(status, body, head_only=head_only))
                    await writer.drain()
                    writer.write_eof()
                    # Not closed at once: that would take back an answer which the other side has not read yet.
                    while await reader.read(MAX_HEAD):
                        pass
        finally:
            writer.transport.abort()

    async def _answer(self, reader: asyncio.StreamReader) -> tuple[int, bytes, bool]:
        try:
            async with asyncio.timeout(self._patience / 2):
                head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return 431, b"", False
        except asyncio.IncompleteReadError:
            return 400, b"", False
        except TimeoutError:
            return 408, b"", False
        status, head_only = _judge(head)
        if status != 200:
            return status, b"", head_only
        try:
            self._refresh()
            body = await asyncio.get_running_loop().run_in_executor(self._thread, self._text)
        except Exception:
            logger.exception("the metrics cannot be told")
            return 500, b"", head_only
        return 200, body, head_only


def _judge(head: bytes) -> tuple[int, bool]:
    """The status that a request deserves, and whether it wants no body."""
    parts = head.split(b"\r\n", 1)[0].split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
        return 400, False
    method, target, _ = parts
    if target.partition(b"?")[0] != b"/metrics":
        return 404, method == b"HEAD"
    return (200 if method in (b"GET", b"HEAD") else 405), method == b"HEAD"


def _response(status: int, body: bytes, *, head_only: bool) -> bytes:
    lines = [
        f"HTTP/1.1 {status} {_REASONS[status]}",
        f"Content-Type: {_TEXT}",
        f"Content-Length: {len(body)}",
        "Cache-Control: no-store",
        "X-Content-Type-Options: nosniff",
        "Connection: close",
        *(["Allow: GET, HEAD"] if status == 405 else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode() + (b"" if head_only else body)
