"""A client proves who it is by a token: one for ever, or always a fresh one; runs outlive the tokens they are followed by."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import grpc
import pytest
from google.rpc import code_pb2
from grpc_status import rpc_status
from hypothesis import given, settings
from hypothesis import strategies as st
from support.statuses import status

from dragoman.client import DeadlineExceeded, Dragoman, DragomanError, RetryPolicy
from dragoman.client._identity import SILENT
from dragoman.v1 import (
    event_pb2,
    message_pb2,
    run_service_pb2,
    session_service_pb2,
)

Event = event_pb2.RunEvent
Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
QUICK = RetryPolicy(initial_backoff=0.001, max_backoff=0.01)
RUN_ID = "01890a5d-ac96-774b-bcce-b302099a8057"
SESSION_ID = "01890a5d-ac96-774b-bcce-b302099a8058"
MEDIA_ID = "ab" * 32
MEDIUM = bytes(range(30))

STARTED = Event(sequence=1, run_started=event_pb2.RunStarted(run_id=RUN_ID, session_id=SESSION_ID))
HEARTBEAT = Event(heartbeat=event_pb2.Heartbeat())
WHOLE = [
    STARTED,
    *(Event(sequence=at, content_delta=event_pb2.ContentDelta(text=f"{at} ")) for at in (2, 3, 4)),
    Event(sequence=5, run_completed=event_pb2.RunCompleted(content="all of it")),
]


REFUSAL = status(code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED", message="not valid")


@dataclass
class Door:
    """A server that asks everybody for a token. A token is good for so many messages of streams, by its name in `lives`;
    for ever when it is not there, and never when it is not known."""

    known: set[str] = field(default_factory=set)
    lives: dict[str, int] = field(default_factory=dict)
    silent: int = 0
    """So many heartbeats come before each event."""
    breaks: list[int] = field(default_factory=list)
    """After so many messages the streams to come break, one each."""
    asked: list[tuple[str, Any]] = field(default_factory=list)
    """Token and request of each call."""
    metadata: dict[str, str | bytes] = field(default_factory=dict)

    async def _enter(self, request: Any, context: Context) -> str:
        self.metadata = dict(context.invocation_metadata() or ())
        kind, _, token = str(self.metadata.get("authorization", "")).partition(" ")
        self.asked.append((token, request))
        if kind != "Bearer" or token not in self.known:
            await context.abort_with_status(rpc_status.to_status(REFUSAL))
        return token

    async def _play(self, messages: Sequence[Any], request: Any, context: Context) -> AsyncIterator[Any]:
        token = await self._enter(request, context)
        limit = self.breaks.pop(0) if self.breaks else len(messages)
        for message in messages[:limit]:
            if not self.lives.get(token, 1):
                await context.abort_with_status(rpc_status.to_status(REFUSAL))
            if token in self.lives:
                self.lives[token] -= 1
            yield message
        if limit < len(messages):
            await context.abort(grpc.StatusCode.UNAVAILABLE, "lost")

    def _after(self, sequence: int) -> list[Event]:
        rest = [event for event in WHOLE if event.sequence > sequence]
        return [each for event in rest for each in (*[HEARTBEAT] * self.silent, event)]

    async def Run(self, request: run_service_pb2.RunRequest, context: Context) -> AsyncIterator[Event]:
        async for event in self._play(self._after(0), request, context):
            yield event

    async def AttachRun(
        self, request: run_service_pb2.AttachRunRequest, context: Context
    ) -> AsyncIterator[Event]:
        async for event in self._play(self._after(request.after_sequence), request, context):
            yield event

    async def GetRun(
        self, request: run_service_pb2.GetRunRequest, context: Context
    ) -> run_service_pb2.GetRunResponse:
        await self._enter(request, context)
        return run_service_pb2.GetRunResponse(run=run_service_pb2.Run(id=request.run_id))

    async def DeleteSession(
        self, request: session_service_pb2.DeleteSessionRequest, context: Context
    ) -> session_service_pb2.DeleteSessionResponse:
        await self._enter(request, context)
        return session_service_pb2.DeleteSessionResponse()

    async def GetMedia(
        self, request: session_service_pb2.GetMediaRequest, context: Context
    ) -> AsyncIterator[session_service_pb2.GetMediaResponse]:
        answer = session_service_pb2.GetMediaResponse
        pieces = [answer(data=MEDIUM[at : at + 4]) for at in range(request.offset, len(MEDIUM), 4)]
        first = answer(media=message_pb2.Media(id=MEDIA_ID))
        async for message in self._play([first, *pieces], request, context):
            yield message

    def handlers(self) -> dict[str, dict[str, Any]]:
        """The methods that there are, by service and name."""
        stream, unary = grpc.unary_stream_rpc_method_handler, grpc.unary_unary_rpc_method_handler
        runs, sessions = run_service_pb2, session_service_pb2

        def served(kind: Any, request: Any, serve: Any) -> Any:
            return kind(serve, request.FromString, lambda message: message.SerializeToString())

        return {
            "dragoman.v1.RunService": {
                "Run": served(stream, runs.RunRequest, self.Run),
                "AttachRun": served(stream, runs.AttachRunRequest, self.AttachRun),
                "GetRun": served(unary, runs.GetRunRequest, self.GetRun),
            },
            "dragoman.v1.SessionService": {
                "DeleteSession": served(unary, sessions.DeleteSessionRequest, self.DeleteSession),
                "GetMedia": served(stream, sessions.GetMediaRequest, self.GetMedia),
            },
        }

    @property
    def tokens(self) -> list[str]:
        """The token of each call."""
        return [token for token, _ in self.asked]

    @property
    def unary(self) -> bool:
        """Whether the last call was no stream."""
        return isinstance(
            self.asked[-1][1], run_service_pb2.GetRunRequest | session_service_pb2.DeleteSessionRequest
        )

    @property
    def attached(self) -> list[int]:
        """After which events the run was attached to."""
        attach = run_service_pb2.AttachRunRequest
        return [request.after_sequence for _, request in self.asked if isinstance(request, attach)]


@asynccontextmanager
async def at(door: Door) -> AsyncIterator[str]:
    """The address where the door is served."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    for name, handlers in door.handlers().items():
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(name, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def through(door: Door, token: Any, retry: RetryPolicy | None = QUICK) -> AsyncIterator[Dragoman]:
    async with at(door) as address, Dragoman(address, token=token, retry=retry) as client:
        yield client


def counting(*, known: Door | None = None) -> Callable[[], str]:
    """Gives t1, t2, ... and tells the door of them."""
    numbers = itertools.count(1)

    def give() -> str:
        token = f"t{next(numbers)}"
        if known is not None:
            known.known.add(token)
        return token

    return give


async def media_of(client: Dragoman) -> bytes:
    return b"".join([piece async for piece in client.get_media(MEDIA_ID)])


CALLS: dict[str, Callable[[Dragoman], Awaitable[Any]]] = {
    "unary": lambda client: client.get_run(RUN_ID),
    "change": lambda client: client.delete_session(SESSION_ID),
    "run": lambda client: client.run("example", "hi").text(),
    "attach": lambda client: client.attach(RUN_ID).text(),
    "media": media_of,
}
every_call = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


@every_call
async def test_a_token_goes_with_each_call_beside_key_and_user(
    call: Callable[[Dragoman], Awaitable[Any]],
) -> None:
    door = Door({"abc.def-g_h"})
    async with at(door) as address:
        client = Dragoman(address, token="abc.def-g_h", api_key="key", user="ann")
        async with client:
            await call(client)
    found = {name: door.metadata[name] for name in ("authorization", "x-api-key", "x-user-id")}
    assert found == {"authorization": "Bearer abc.def-g_h", "x-api-key": "key", "x-user-id": "ann"}


@pytest.mark.parametrize("token", ["", lambda: ""], ids=["text", "callable"])
async def test_without_a_token_no_header_is_sent(token: Any) -> None:
    door = Door()
    async with through(door, token) as client:
        with pytest.raises(DragomanError) as refused:
            await client.get_run(RUN_ID)
    assert refused.value.reason == "UNAUTHENTICATED"
    assert "authorization" not in door.metadata
    assert len(door.asked) == 1


@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
async def test_a_callable_is_asked_before_each_call(asynchronous: bool) -> None:
    door = Door()
    give = counting(known=door)

    async def give_later() -> str:
        await asyncio.sleep(0)
        return give()

    async with through(door, give_later if asynchronous else give) as client:
        for call in CALLS.values():
            await call(client)
    assert door.tokens == ["t1", "t2", "t3", "t4", "t5"]


BAD = {
    "space": "SECRET x",
    "bearer": "Bearer SECRET",
    "line": "SECRET\n",
    "letters": "SECRÉT",
    "nul": "SECRET\0",
}


@pytest.mark.parametrize("token", BAD.values(), ids=list(BAD))
async def test_what_cannot_be_a_token_is_not_sent_and_not_shown(token: str) -> None:
    with pytest.raises(ValueError, match="printable ASCII") as at_once:
        Dragoman(token=token)
    door = Door()
    async with through(door, lambda: token) as client:
        for call in CALLS.values():
            with pytest.raises(ValueError, match="printable ASCII") as later:
                await call(client)
            assert "SECR" not in str(later.value)
    assert "SECR" not in str(at_once.value)
    assert door.asked == []


async def test_what_is_no_text_is_no_token() -> None:
    async with through(Door(), lambda: None) as client:
        with pytest.raises(TypeError, match="NoneType"):
            await client.get_run(RUN_ID)


@every_call
async def test_a_refused_call_is_made_again_by_a_fresh_token(
    call: Callable[[Dragoman], Awaitable[Any]],
) -> None:
    door = Door({"t2"})
    async with through(door, counting()) as client:
        await call(client)
    (_, first), (_, second) = door.asked
    assert door.tokens == ["t1", "t2"]
    assert first == second  # of a run, with the same request id


@every_call
@pytest.mark.parametrize(
    ("token", "retry", "calls"),
    [
        ("stale", QUICK, ["stale"]),
        (lambda: "stale", QUICK, ["stale"]),
        (counting, QUICK, 1 + SILENT),
        (counting, None, 1),
    ],
    ids=["text", "same-again", "never-good", "no-retry"],
)
async def test_a_refusal_is_told_when_nothing_better_is_known(
    call: Callable[[Dragoman], Awaitable[Any]], token: Any, retry: RetryPolicy | None, calls: Any
) -> None:
    door = Door({"another"})
    async with through(door, counting() if token is counting else token, retry) as client:
        with pytest.raises(DragomanError) as refused:
            await call(client)
    assert (refused.value.code, refused.value.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")
    assert refused.value.__cause__ is not None
    if calls == 1 + SILENT and door.unary:
        calls = 2  # it cannot have run out meanwhile
    assert door.tokens == (calls if isinstance(calls, list) else [f"t{at + 1}" for at in range(calls)])


async def test_a_run_outlives_the_tokens_it_is_followed_by() -> None:
    door = Door(lives={"t1": 2, "t2": 1})
    async with through(door, counting(known=door)) as client, client.run("example", "hi") as run:
        assert [event async for event in run] == WHOLE
    assert door.tokens == ["t1", "t2", "t3"]
    assert door.attached == [2, 3]


async def test_a_silent_run_outlives_them_too() -> None:
    door = Door(silent=3, lives={f"t{at}": 2 for at in range(1, 4)} | {"t4": 30})
    # Of each of the first tokens nothing comes but two heartbeats.
    async with through(door, counting(known=door)) as client, client.attach(RUN_ID) as run:
        assert [event async for event in run if event.sequence] == WHOLE
    assert door.tokens == ["t1", "t2", "t3", "t4"]
    assert door.attached == [0, 0, 0, 0]


async def test_a_run_without_a_sign_of_life_outlives_some_of_them() -> None:
    door = Door(lives={"t1": 2} | {f"t{at + 2}": 0 for at in range(SILENT - 1)})
    async with through(door, counting(known=door)) as client, client.run("example", "hi") as run:
        assert [event async for event in run] == WHOLE
    assert door.attached == [2] * SILENT


async def test_a_medium_outlives_its_token() -> None:
    door = Door(lives={"t1": 3})
    async with through(door, counting(known=door)) as client:
        assert await media_of(client) == MEDIUM
    offsets = [request.offset for _, request in door.asked]
    assert offsets == [0, 8]


async def test_a_token_that_was_taken_back_ends_the_following_with_where_it_stood() -> None:
    door = Door({"t1"}, lives={"t1": 3})
    async with through(door, counting()) as client:
        run = client.run("example", "hi")
        with pytest.raises(DragomanError) as refused:
            await run.text()
    assert refused.value.reason == "UNAUTHENTICATED"
    assert (run.run_id, run.last_sequence) == (RUN_ID, 3)
    assert len(door.tokens) == 1 + SILENT


async def test_what_a_callable_raises_the_call_raises() -> None:
    door = Door({"t1"}, lives={"t1": 2})
    given = ["t1"]

    async def give() -> str:
        if given:
            return given.pop()
        raise ConnectionError("no identity provider")

    async with through(door, give) as client:
        run = client.run("example", "hi")
        with pytest.raises(ConnectionError, match="no identity provider"):
            await run.text()
        assert (run.run_id, run.last_sequence) == (RUN_ID, 2)  # to be attached to later
        with pytest.raises(ConnectionError):
            await client.get_run(RUN_ID)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 4)), max_size=5))
def test_runs_outlive_tokens_and_connections_in_any_order(ends: list[tuple[bool, int]]) -> None:
    """Each call ends after so many messages, because its token has run out or its connection broke."""
    door = Door(lives={f"t{at}": count for at, (expires, count) in enumerate(ends, 1) if expires})
    door.breaks = [99 if expires else count for expires, count in ends]

    async def follow() -> list[Event]:
        async with through(door, counting(known=door)) as client:
            return [event async for event in client.run("example", "hi")]

    assert asyncio.run(follow()) == WHOLE


class Slow:
    """Gives the token when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.left = 0
        self.waits, self.answer = asyncio.Event(), asyncio.Event()

    async def __call__(self) -> str:
        self.asked += 1
        self.waits.set()
        try:
            await self.answer.wait()
        except asyncio.CancelledError:
            self.left += 1
            raise
        return "good"


async def test_calls_at_the_same_time_ask_once_and_who_leaves_takes_nothing_along() -> None:
    door, slow = Door({"good"}), Slow()
    async with through(door, slow) as client:
        first = asyncio.create_task(client.get_run(RUN_ID))
        await slow.waits.wait()
        more = [asyncio.create_task(client.get_run(RUN_ID)) for _ in range(20)]
        runs = [asyncio.create_task(client.run("example", "hi").text()) for _ in range(5)]
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait({first})
        assert (slow.asked, door.asked) == (1, [])
        slow.answer.set()
        await asyncio.gather(*more, *runs)
        assert first.cancelled()
        assert len(door.asked) == 25
        assert slow.asked == 1
        await client.get_run(RUN_ID)
        assert slow.asked == 2  # none was under way


async def test_the_time_out_of_a_call_holds_for_its_token() -> None:
    door, slow = Door({"good"}), Slow()
    async with at(door) as address, Dragoman(address, token=slow, timeout=0.05) as client:
        with pytest.raises(DeadlineExceeded, match="token"):
            await client.get_run(RUN_ID)
        with pytest.raises(DeadlineExceeded, match="token"):
            await client.run("example", "hi", timeout=0.05).text()
        assert (slow.asked, door.asked) == (1, [])
    assert slow.left == 1  # closed with the client


async def test_a_time_out_of_the_callable_is_its_own() -> None:
    async def give() -> str:
        raise TimeoutError("of the identity provider")

    async with through(Door(), give) as client:
        with pytest.raises(TimeoutError, match="of the identity provider"):
            await client.get_run(RUN_ID)


async def test_a_stream_that_is_left_while_it_waits_for_its_token_is_not_opened() -> None:
    door, slow = Door({"good"}), Slow()
    async with through(door, slow) as client:
        run = client.run("example", "hi")
        reading = asyncio.create_task(anext(run, None))
        await slow.waits.wait()
        run.close()
        slow.answer.set()
        assert await reading is None
        await client.get_run(RUN_ID)  # it is the first that the server sees
    assert [type(request) for _, request in door.asked] == [run_service_pb2.GetRunRequest]


async def test_closing_the_client_asks_no_more() -> None:
    door, slow = Door({"good"}), Slow()
    async with at(door) as address:
        async with Dragoman(address, token=slow) as client:
            waiting = asyncio.create_task(client.get_run(RUN_ID))
            await slow.waits.wait()
        await asyncio.wait({waiting})
        assert waiting.cancelled()
        assert (slow.left, door.asked) == (1, [])
