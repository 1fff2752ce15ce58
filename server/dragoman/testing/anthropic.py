"""A fake of Anthropic's Messages API, over real HTTP, in the event loop of the test.

    async with FakeAnthropic() as fake:
        fake.script(Turn("Hello there"), HttpError(429, headers={"retry-after": "1"}), Turn("Again"))
        model = Claude(client_params={"base_url": fake.url}, api_key="k")

Each request takes the next scripted turn, or the one that `fake.respond` returns for it. The answer is streamed as
server-sent events or given as one JSON body, as the request asks. It can be slow, stop in the middle, be cut, carry
an error event, or be refused. A request that breaks the API's rules (a tool call without a result, an empty text) is
refused with 400 as the real API does, and so is one for which there is no turn; the script is left as it was.

Every request is recorded with its exact bytes, with the moment at which a client left early, and with the tokens
that were told to the client by the time it ended. `fake.billed` is their sum: what the provider's invoice would
say, to the last token. A figure counts once it was handed to a connection that was open then.
"""

import asyncio
import json
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Route
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from dragoman.records import TokenUsage
from dragoman.testing._anthropic_record import Outcome, Recorded
from dragoman.testing._anthropic_rules import broken_rule
from dragoman.testing._anthropic_script import (
    Block,
    ErrorEvent,
    HttpError,
    Place,
    RedactedThinking,
    Text,
    Thinking,
    ToolUse,
    Turn,
    Usage,
)
from dragoman.testing._anthropic_wire import Frame, billed, body, frames

__all__ = [
    "Block",
    "ErrorEvent",
    "FakeAnthropic",
    "HttpError",
    "Outcome",
    "Place",
    "Recorded",
    "RedactedThinking",
    "Text",
    "Thinking",
    "ToolUse",
    "Turn",
    "Usage",
]

Answer = Turn | HttpError

_AFTER_ALL_DELTAS = 1 << 62  # no less than any number that is scripted


class FakeAnthropic:
    """The fake, listening on a free port of 127.0.0.1 while its `async with` block runs."""

    def __init__(self) -> None:
        self.requests: list[Recorded] = []
        """All requests, in the order of their arrival."""
        self.respond: Callable[[Recorded], Answer] | None = None
        """Answers every request for which no turn is scripted."""
        self.url = ""
        """The base URL for the client, without a path."""
        self._turns: deque[Answer] = deque()
        self._arrived = asyncio.Condition()
        self._stopping = asyncio.Event()
        self._server: asyncio.Server | None = None
        self._state = ServerState()

    def script(self, *turns: Answer) -> None:
        """Append `turns`: one per request, in the order of arrival."""
        self._turns.extend(turns)

    def unscript(self) -> None:
        """Drop the turns that have not been asked for: requests that come later are answered by `respond`."""
        self._turns.clear()

    @property
    def pending(self) -> int:
        """How many scripted turns have not been asked for."""
        return len(self._turns)

    @property
    def billed(self) -> TokenUsage:
        """The sum of what all requests were billed."""
        return sum((request.billed for request in self.requests), TokenUsage())

    async def request(self, number: int) -> Recorded:
        """The request of that number (from 1), waited for."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= number)
        return self.requests[number - 1]

    async def __aenter__(self) -> Self:
        route = Route("/v1/messages", _Endpoint(self._serve), methods=["POST"])
        config = uvicorn.Config(
            Starlette(routes=[route]),
            http="h11",
            lifespan="off",
            log_config=None,
            access_log=False,
            date_header=False,
            ws="none",
        )
        config.load()
        self._server = await asyncio.get_running_loop().create_server(
            lambda: _Protocol(config, self._state, {}), "127.0.0.1", 0
        )
        port = self._server.sockets[0].getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is None:
            return
        self._server.close()
        self._stopping.set()
        if tasks := list(self._state.tasks):
            await asyncio.wait(tasks)
        for connection in list(self._state.connections):
            connection.shutdown()
        await self._server.wait_closed()

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, from its body to its recorded end."""
        raw = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            raw += message["body"]
            if not message["more_body"]:
                break
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        record = Recorded(raw=bytes(raw), headers=headers, start_time=time.monotonic())
        self.requests.append(record)
        number = len(self.requests)
        async with self._arrived:
            self._arrived.notify_all()
        reply = _Reply(record, send, scope["state"]["transport"], number)
        await self._watch(record, reply, asyncio.create_task(_closed(receive)))

    async def _watch(self, record: Recorded, reply: "_Reply", left: "asyncio.Task[None]") -> None:
        """Let the answer be sent until it ends, the client leaves, or the fake is closed: whichever is first."""
        stopped = asyncio.create_task(self._stopping.wait())
        tasks: list[asyncio.Task[Any]] = [left, stopped]
        try:
            answer = asyncio.create_task(reply.send(self._answer_to(record)))
            tasks.append(answer)
            await asyncio.wait((answer, left, stopped), return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                answer.result()
            else:
                record.end(Outcome.LEFT if left.done() else Outcome.STOPPED)
                await _cancelled(answer)
            if record.outcome in (Outcome.BROKEN, Outcome.STOPPED):
                reply.cut()
                await left  # only when the connection is gone may the handler return without an answer's end
        finally:
            await _cancelled(*tasks)
            record.end(Outcome.REFUSED)  # `respond` raised: the client gets a bare 500

    def _answer_to(self, record: Recorded) -> Answer:
        rule = broken_rule(record.json)
        if rule is not None:
            return HttpError(400, message=rule)
        if self._turns:
            return self._turns.popleft()
        if self.respond is not None:
            return self.respond(record)
        return HttpError(400, message="the fake has no turn left for this request")


class _Reply:
    """Sends one answer and keeps the record of what was told."""

    def __init__(self, record: Recorded, send: Send, transport: asyncio.Transport, number: int) -> None:
        self._record = record
        self._send = send
        self._transport = transport
        self._message_id = f"msg_{number:06}"
        self._request_id = f"req_{number:06}"

    async def send(self, answer: Answer) -> None:
        """Send it as the request asked, and note in the record how it ended."""
        if isinstance(answer, HttpError):
            await self._refuse(answer)
            return
        if answer.drop_before_first_byte:
            self._record.end(Outcome.BROKEN)
            return
        if answer.hang_before_first_byte:
            await self._hang(answer)
        if self._record.stream:
            await self._stream(answer)
        else:
            await self._whole(answer)

    def cut(self) -> None:
        """Close the connection; what was sent arrives, but no proper end of the response."""
        self._transport.close()

    async def _stream(self, turn: Turn) -> None:
        await self._head(
            200, {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache"}
        )
        for frame in frames(turn, self._message_id, self._record.model):
            if (place := self._place(frame)) is not None and await self._failed(turn, place):
                return
            await asyncio.sleep(turn.delay if frame.event == "content_block_delta" else 0)
            last = frame.event == "message_stop"
            if await self._write(frame.encode(), more=not last):
                self._count(frame)
        self._record.end(Outcome.ANSWERED)

    async def _failed(self, turn: Turn, place: Place) -> bool:
        """Let what is scripted for `place` happen. True when that was the end of the answer."""
        if _reached(turn.hang_after, place) and not self._record.hanging.is_set():
            await self._hang(turn)
        if _reached(turn.drop_after, place):
            self._record.end(Outcome.BROKEN)
        elif turn.error_after is not None and _reached(turn.error_after.after, place):
            error = {"type": turn.error_after.type, "message": turn.error_after.message}
            await self._write(Frame({"type": "error", "error": error}).encode(), more=False)
            self._record.end(Outcome.BROKEN)
        return self._record.outcome is not None

    def _place(self, frame: Frame) -> Place | None:
        """Where in the stream we stand just before `frame`, if scripted failures can strike there."""
        if frame.event == "content_block_delta":
            return self._record.deltas
        if frame.event == "message_stop":
            return "usage"
        if frame.event == "message_delta" and frame.data["delta"]["stop_reason"] is not None:
            return _AFTER_ALL_DELTAS
        return None

    def _count(self, frame: Frame) -> None:
        if frame.usage is not None:
            self._record.billed = frame.usage
        if frame.event == "content_block_delta":
            self._record.deltas += 1

    async def _whole(self, turn: Turn) -> None:
        if turn.error_after is not None:
            error = turn.error_after
            await self._refuse(HttpError(error.status, error.type, error.message))
            return
        answer = body(turn, self._message_id, self._record.model)
        data = json.dumps(answer, ensure_ascii=False).encode()
        half = len(data) // 2
        await self._head(200, {"content-type": "application/json", "content-length": str(len(data))})
        await asyncio.sleep(turn.delay)
        await self._write(data[:half], more=True)
        if turn.hang_after is not None:
            await self._hang(turn)
        if turn.drop_after is not None:
            self._record.end(Outcome.BROKEN)
            return
        if await self._write(data[half:], more=False):
            self._record.billed = billed(turn.usage, turn.usage.output_tokens, thinking=True)
        self._record.end(Outcome.ANSWERED)

    async def _refuse(self, error: HttpError) -> None:
        content = {"type": "error", "error": {"type": error.kind(), "message": error.message}}
        data = json.dumps(content | {"request_id": self._request_id}, ensure_ascii=False).encode()
        await self._head(
            error.status,
            {"content-type": "application/json", "content-length": str(len(data)), **error.headers},
        )
        await self._write(data, more=False)
        self._record.end(Outcome.REFUSED)

    async def _hang(self, turn: Turn) -> None:
        self._record.hanging.set()
        await (turn.resume or asyncio.Event()).wait()

    async def _head(self, status: int, headers: dict[str, str]) -> None:
        pairs = [(name.encode(), value.encode()) for name, value in headers.items()]
        pairs.append((b"request-id", self._request_id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": pairs})

    async def _write(self, data: bytes, *, more: bool) -> bool:
        """Send a part of the body. False when the connection was closed, and so nobody was told anything."""
        connected = not self._transport.is_closing()
        await self._send({"type": "http.response.body", "body": data, "more_body": more})
        if more:
            return not self._transport.is_closing()
        return connected  # after its last part a response may close the connection itself


class _Protocol(H11Protocol):
    """uvicorn's HTTP/1.1, which also hands the handler its connection: to cut it, and to know that it is open."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # uvicorn narrows it so too
        super().connection_made(transport)
        self.app_state = {**self.app_state, "transport": transport}


class _Endpoint:
    """An ASGI application that starlette does not wrap into request and response objects."""

    def __init__(self, serve: Callable[[Scope, Receive, Send], Awaitable[None]]) -> None:
        self._serve = serve

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._serve(scope, receive, send)


def _reached(scripted: Place | None, place: Place) -> bool:
    if scripted is None:
        return False
    if isinstance(scripted, int):
        return isinstance(place, str) or place >= scripted
    return scripted == place


async def _closed(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancelled(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
