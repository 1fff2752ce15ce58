"""HTTP/2 by hand: a client that can do what gRPC's own would never do."""

import asyncio
import ssl
import struct
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Self

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import ProtocolError

LIST_AGENTS = "/dragoman.v1.AgentService/ListAgents"
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, CONTINUATION = 0, 1, 3, 4, 6, 9

Header = tuple[str, str]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    return struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream) + payload


def message(data: bytes, *, compressed: bool = False, length: int | None = None) -> bytes:
    """A message of gRPC with its prefix, which may lie."""
    return struct.pack(">BI", compressed, len(data) if length is None else length) + data


class Wire:
    """A connection. Frames can be sent past `h2`, which then knows nothing of them."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        config = H2Configuration(
            client_side=True,
            header_encoding=None,
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
        )
        self.h2 = H2Connection(config)
        self.answers: dict[int, dict[str, str]] = {}
        """Headers and trailers by stream."""
        self.ended: set[int] = set()
        self.closed = False
        """The server has gone, or says that it will."""

    @classmethod
    async def connect(cls, port: int, tls: ssl.SSLContext | None = None) -> Self:
        """Without a word."""
        host = "localhost" if tls else None
        return cls(*await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname=host))

    async def __aenter__(self) -> Self:
        self.h2.initiate_connection()
        await self.flush()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.writer.transport.abort()

    async def flush(self) -> None:
        """Sends what is due. Raises ConnectionError."""
        await self.send(self.h2.data_to_send())

    async def send(self, data: bytes) -> None:
        """Sends any bytes. Raises ConnectionError."""
        self.writer.write(data)
        await self.writer.drain()

    def headers(self, path: str = LIST_AGENTS, extra: Iterable[Header] = ()) -> list[Header]:
        """Those of a call."""
        return [
            (":method", "POST"),
            (":scheme", "http"),
            (":path", path),
            (":authority", "localhost"),
            ("content-type", "application/grpc"),
            ("te", "trailers"),
            *extra,
        ]

    def open(self, headers: list[Header], *, end: bool = False) -> int:
        """Begins a stream; `flush` sends it."""
        stream: int = self.h2.get_next_available_stream_id()
        self.h2.send_headers(stream, headers, end_stream=end)
        return stream

    async def ask(self, headers: list[Header], body: bytes = message(b"")) -> dict[str, str]:
        """A whole call; what is answered. Empty when the server has closed the connection instead."""
        try:
            stream = self.open(headers)
            self.h2.send_data(stream, body, end_stream=True)
            await self.flush()
            await self.until(lambda: stream in self.ended)
        except ConnectionError:
            self.closed = True
        return self.answers.get(stream, {})

    async def until(self, condition: Callable[[], bool]) -> None:
        """Reads until it holds, or the server has gone."""
        while not condition() and not self.closed:
            try:
                data = await self.reader.read(65536)
                if not data:
                    self.closed = True
                for event in self.h2.receive_data(data):
                    self._take(event)
                await self.flush()
            except (ConnectionError, ProtocolError):
                # After GOAWAY, `h2` wants to hear of nothing more.
                self.closed = True

    async def gone(self) -> None:
        """Reads until the server has closed the connection."""
        try:
            while await self.reader.read(65536):
                pass
        except ConnectionError:
            pass
        self.closed = True

    def _take(self, event: Any) -> None:
        match event:
            case ResponseReceived() | TrailersReceived():
                known = self.answers.setdefault(event.stream_id, {})
                known.update({name.decode(): value.decode("latin-1") for name, value in event.headers})
            case StreamEnded() | StreamReset():
                self.ended.add(event.stream_id)
            case DataReceived():
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            case ConnectionTerminated():
                self.closed = True
