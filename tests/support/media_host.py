"""A host of media that may be as hostile as a test wants, and a net in which it has a public address.

    async with MediaHost() as host:
        host.routes["/cat.png"] = answer(PNG, "image/png")
        uri = f"http://media.test/cat.png"

Names resolve as `host.names` says; PUBLIC leads to the host, whatever the port. Nothing leaves this machine.
"""

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, Self, TypeAlias

import httpcore2 as httpcore

PUBLIC = "93.184.216.34"
"""An address of the public internet, by its looks."""

Route: TypeAlias = Callable[[asyncio.StreamWriter], Awaitable[None]]


def raw(*pieces: bytes) -> Route:
    """Sends these bytes and closes."""

    async def send(writer: asyncio.StreamWriter) -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    return send


def answer(data: bytes, mime_type: str = "", *, status: str = "200 OK", **headers: str) -> Route:
    """An honest answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(data)}"]
    if mime_type:
        lines.append(f"Content-Type: {mime_type}")
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return raw("\r\n".join([*lines, "", ""]).encode() + data)


def redirect(location: str, status: int = 302) -> Route:
    """Leads elsewhere."""
    return answer(b"", status=f"{status} Elsewhere", Location=location)


def endless(head: bytes, piece: bytes, pause: float = 0.0) -> Route:
    """Sends the head, and then the piece until nobody listens any more."""

    async def send(writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause)

    return send


async def silent(writer: asyncio.StreamWriter) -> None:
    """Says nothing until the other side goes."""
    while not writer.transport.is_closing():
        await asyncio.sleep(0.01)


class MediaHost:
    """Serves `routes` by path, also with a query; what is not there is 404."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._tls = tls
        self.routes: dict[str, Route] = {}
        self.names: dict[str, list[str]] = {"media.test": [PUBLIC]}
        self.heads: list[str] = []
        self.lookups: list[str] = []
        self.connected: list[str] = []
        """To which addresses sockets were asked for."""
        self.greeting = b""
        """Sent to whoever connects, before anything is asked."""
        self._tasks: set[asyncio.Task[Any]] = set()
        self._server: asyncio.Server | None = None

    @property
    def port(self) -> int:
        """Where it listens on 127.0.0.1."""
        assert self._server is not None
        return int(self._server.sockets[0].getsockname()[1])

    @property
    def paths(self) -> list[str]:
        """What was asked for, in order."""
        return [head.split(" ")[1] for head in self.heads]

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """The addresses of a name; the system's resolver for what is not in `names`, but for this machine only."""
        self.lookups.append(host)
        if host in self.names:
            return list(self.names[host])
        found = await asyncio.get_running_loop().getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST
        )
        return [str(address[0]) for *_, address in found]

    def sockets(self) -> httpcore.AsyncNetworkBackend:
        """Opens sockets, in this net."""
        return _Net(self)

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        writer.write(self.greeting)
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                self.heads.append(head)
                path = head.split(" ")[1].partition("?")[0]
                await self.routes.get(path, answer(b"secret words of the host", status="404 Gone"))(writer)
        finally:
            writer.close()


class _Net(httpcore.AsyncNetworkBackend):
    def __init__(self, host: MediaHost) -> None:
        self._host = host
        self._real = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *args: Any, **options: Any) -> Any:
        self._host.connected.append(host)
        if host == PUBLIC:
            host, port = "127.0.0.1", self._host.port
        if host != "127.0.0.1":
            raise httpcore.ConnectError
        return await self._real.connect_tcp(host, port, *args, **options)
