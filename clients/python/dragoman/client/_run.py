"""One run, followed: the events of a `Run` call, and how it ended.

The call is made when the stream is entered or first read. It is cancelled as soon as the caller leaves: at the end of
`async with`, or, for a plain `async for event in client.run(...)`, when the loop is left and the stream is no longer
referred to. Leaving does not end the run: it belongs to the server (`Dragoman.cancel_run` ends it).
"""

from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeAlias

import grpc

from dragoman.client._errors import DragomanError, from_outcome, from_rpc
from dragoman.client._events import RunResult, result_of
from dragoman.v1 import event_pb2, run_service_pb2

_Call: TypeAlias = "grpc.aio.UnaryStreamCall[run_service_pb2.RunRequest, event_pb2.RunEvent]"


class RunStream:
    """The events of one run: an asynchronous context manager and an asynchronous iterator, used once.

    Iteration yields `RunEvent`s up to and including the one that ends the run; it raises DragomanError when the call
    fails: before the run exists, or because the stream was lost.
    """

    def __init__(self, start: Callable[[], _Call]) -> None:
        self._call: _Call | None = None
        self._start = start
        self._closed = False
        self._result: RunResult | None = None
        self.run_id = ""
        """The run's id; empty until `run_started` has come."""
        self.session_id = ""
        """The session's id, the new one when none was named; empty until `run_started` has come."""

    @property
    def ended(self) -> bool:
        """Whether the event that ends the run has come."""
        return self._result is not None

    @property
    def result(self) -> RunResult:
        """How the run ended: the message in its last event. Raises RuntimeError before that has come."""
        if self._result is None:
            raise RuntimeError("the run has not ended: read its events first")
        return self._result

    async def text(self) -> str:
        """Reads to the end and returns the final text. Raises RunFailed when the run did not complete."""
        async for _ in self:
            pass
        outcome = self.result
        if isinstance(outcome, event_pb2.RunCompleted):
            return outcome.content
        raise from_outcome(outcome)

    def close(self) -> None:
        """Stops following at once. The run goes on. Harmless when it was done before."""
        self._closed = True
        if self._call is not None:
            self._call.cancel()

    def __del__(self) -> None:
        # A plain `async for` that is left drops the stream. gRPC's own call would linger until garbage is collected.
        if self._call is not None and not self._call.done():
            self._call.cancel()

    async def __aenter__(self) -> Self:
        self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> event_pb2.RunEvent:
        if self._closed:
            raise StopAsyncIteration
        try:
            event = await self._begin().read()
        except grpc.aio.AioRpcError as error:
            self.close()
            raise from_rpc(error) from error
        except BaseException:  # cancelled: whoever waited here has left
            self.close()
            raise
        if not isinstance(event, event_pb2.RunEvent):  # grpc.aio.EOF
            return self._finish()
        self._note(event)
        return event

    def _begin(self) -> _Call:
        if self._call is None:
            self._call = self._start()
        return self._call

    def _finish(self) -> event_pb2.RunEvent:
        self.close()
        if self._result is None:
            raise DragomanError(
                grpc.StatusCode.DATA_LOSS, "the stream ended before the run did; GetRun tells how it stands"
            )
        raise StopAsyncIteration

    def _note(self, event: event_pb2.RunEvent) -> None:
        if event.HasField("run_started") and not event.HasField("member"):
            self.run_id = event.run_started.run_id
            self.session_id = event.run_started.session_id
        ended = result_of(event)
        if ended is not None:
            self._result = ended
