"""What followers of runs saw, and what must be true of it."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import grpc
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from support.e2e import Stubs, reason_of
from support.provider import Part

from dragoman.v1 import event_pb2, run_service_pb2

ENDS = frozenset({"run_completed", "run_failed", "run_cancelled"})


def kind(event: event_pb2.RunEvent) -> str:
    """Which event it is."""
    return event.WhichOneof("event") or ""


def text_of(events: Sequence[event_pb2.RunEvent]) -> str:
    """What the run said."""
    return "".join(event.content_delta.text for event in events)


def is_abandoned(event: event_pb2.RunEvent) -> bool:
    """Whether it is the end of a run whose process was killed."""
    return event.run_cancelled.reason == event_pb2.CANCEL_REASON_ABANDONED


def assert_whole(events: Sequence[event_pb2.RunEvent], after: int = 0) -> None:
    """All events of a run after a sequence, to its one end: in order, none missing, none twice.

    The end of an abandoned run alone stands after a gap.
    """
    sequences = [event.sequence for event in events]
    assert events, "there are no events"
    contiguous = list(range(after + 1, after + len(events) + 1))
    if is_abandoned(events[-1]):
        assert sequences[:-1] == contiguous[:-1]
        assert sequences[-1] > contiguous[-1]
    else:
        assert sequences == contiguous
    assert [kind(event) in ENDS for event in events] == [False] * (len(events) - 1) + [True]


def assert_same(seen: Sequence[Message], stored: Sequence[Message]) -> None:
    """Two followers saw the same, event for event."""
    assert [event.SerializeToString() for event in seen] == [event.SerializeToString() for event in stored]


@asynccontextmanager
async def direct(address: str, *options: tuple[str, int]) -> AsyncIterator[Stubs]:
    """Stubs on a connection of their own, with options of the channel."""
    own = ("grpc.use_local_subchannel_pool", 1)
    async with grpc.aio.insecure_channel(address, options=[own, *options]) as channel:
        yield Stubs(channel)


class Follower:
    """Reads a stream in a task of its own. `seen` grows; `error` is what ended it badly."""

    def __init__(self, stream: AsyncIterable[event_pb2.RunEvent]) -> None:
        self.seen: list[event_pb2.RunEvent] = []
        self.error: Exception | None = None
        self._task = asyncio.create_task(self._read(stream))

    async def until(self, condition: Callable[[list[event_pb2.RunEvent]], bool]) -> None:
        """Waits until what was seen satisfies the condition. Fails when the stream ends before."""
        while not condition(self.seen):
            assert not self._task.done(), f"it ended before: {self.error!r}, {len(self.seen)} events"
            await asyncio.sleep(0.01)

    async def end(self) -> list[event_pb2.RunEvent]:
        """All events, when the stream has ended well. Raises what it raised."""
        if (error := await self.done()) is not None:
            raise error
        return self.seen

    async def done(self) -> Exception | None:
        """Waits for the end of the stream, and returns the error with which it ended."""
        await asyncio.wait({self._task})
        return self.error

    async def broken(self) -> Exception:
        """The error with which the stream ended."""
        error = await self.done()
        assert error is not None, "the stream ended well"
        return error

    async def _read(self, stream: AsyncIterable[event_pb2.RunEvent]) -> None:
        try:
            async for event in stream:
                if kind(event) != "heartbeat":
                    self.seen.append(event)
        except Exception as error:  # noqa: BLE001 - told to whoever waits
            self.error = error


def started(seen: list[event_pb2.RunEvent]) -> bool:
    """That the run has begun, or waits for its turn."""
    return bool(seen)


def run_id_of(seen: Sequence[event_pb2.RunEvent]) -> str:
    """The run's id, from its first event."""
    return seen[0].run_queued.run_id or seen[0].run_started.run_id


def session_id_of(seen: Sequence[event_pb2.RunEvent]) -> str:
    """The session's id, likewise."""
    return seen[0].run_queued.session_id or seen[0].run_started.session_id


def deltas(count: int) -> Callable[[list[event_pb2.RunEvent]], bool]:
    """That so many pieces of text were seen."""
    return lambda seen: sum(kind(event) == "content_delta" for event in seen) >= count


def run(stub: Stubs, part: Part, **fields: Any) -> Follower:
    """Starts a run and follows it."""
    return ask(stub, part.agent, part.message, **fields)


def ask(stub: Stubs, agent: str, message: str, **fields: Any) -> Follower:
    """Likewise, with any message."""
    detail = run_service_pb2.EVENT_DETAIL_ALL
    request = run_service_pb2.RunRequest(agent_name=agent, message=message, detail=detail, **fields)
    return Follower(stub.runs.Run(request))


def attach(stub: Stubs, run_id: str, after: int = 0) -> Follower:
    """Follows a run that there is."""
    detail = run_service_pb2.EVENT_DETAIL_ALL
    request = run_service_pb2.AttachRunRequest(run_id=run_id, after_sequence=after, detail=detail)
    return Follower(stub.runs.AttachRun(request))


async def get(stub: Stubs, run_id: str) -> run_service_pb2.Run:
    """How a run stands."""
    return (await stub.runs.GetRun(run_service_pb2.GetRunRequest(run_id=run_id))).run


def reason_of_failure(failed: event_pb2.RunFailed) -> str:
    """Why a run failed: the reason in its error."""
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in failed.error.details)
    return str(info.reason)


def refusal_of(error: Exception) -> str:
    """Why a call failed: the reason in its status; for calls that failed otherwise, what went wrong."""
    if not isinstance(error, grpc.aio.AioRpcError):
        raise error
    details = any(key == "grpc-status-details-bin" for key, _ in error.trailing_metadata() or ())
    return str(reason_of(error)["ErrorInfo"].reason) if details else f"{error.code().name}: {error.details()}"
