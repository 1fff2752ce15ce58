"""One run, followed: its events, each once and in order, and how it ended.

The call is made when the stream is entered or first read. When it breaks (a server was killed or is stopping, a
connection was cut) the stream goes on by itself: once an event has come, by attaching to the run after that event;
before, by making the same request again, which its request id makes harmless. What comes twice is dropped.
`RetryPolicy` says how long that is tried; then StreamLost tells where the run can be taken up. A stream that ends because
its token has run out goes on by a fresh one, where the client was given a callable.

The call is cancelled as soon as the caller leaves: at the end of `async with`, or, for a plain
`async for event in client.run(...)`, when the loop is left and the stream is no longer referred to. Leaving does not
end the run, unless it was started with `on_disconnect="cancel"`: it belongs to the server (`cancel` ends it).
"""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeAlias

import grpc

from dragoman.client._errors import DragomanError, from_outcome, from_rpc, lost
from dragoman.client._events import RunResult, outcome_of, result_of
from dragoman.client._identity import Metadata
from dragoman.client._link import Link, Stream, Stubs, stream_ended
from dragoman.client._retry import Attempts, is_break, is_over_limit
from dragoman.v1 import event_pb2, run_service_pb2

_Request: TypeAlias = (
    run_service_pb2.RunRequest | run_service_pb2.ContinueRunRequest | run_service_pb2.AttachRunRequest
)
_Call: TypeAlias = "grpc.aio.UnaryStreamCall[Any, event_pb2.RunEvent]"


class RunStream:
    """The events of one run: an asynchronous context manager and an asynchronous iterator, used once.

    Iteration yields `RunEvent`s up to and including the one that ends or pauses the run. It raises DragomanError when
    the server refuses the call, EventsTrimmed when events between are no longer kept, and StreamLost when the stream
    broke and could not be taken up again.
    """

    def __init__(self, link: Link, request: _Request, *, timeout: float | None = None) -> None:
        self._link = link
        self._request = request
        self._timeout = timeout
        self._deadline: float | None = None
        self._attempts: Attempts | None = None
        self._proof = link.proof()
        self._stubs: Stubs | None = None
        self._call: _Call | None = None
        self._closed = False
        self._result: RunResult | None = None
        self._came = False
        self.run_id = "" if isinstance(request, run_service_pb2.RunRequest) else request.run_id
        """The run's id; for a new run empty until its first event has come."""
        self.session_id = ""
        """The session's id, the new one when none was named; empty until `run_started` or `run_queued` has come."""
        self.request_id = "" if isinstance(request, run_service_pb2.AttachRunRequest) else request.request_id
        """The id of the request that starts or continues the run; empty for one that is only followed."""
        self.last_sequence = (
            request.after_sequence if isinstance(request, run_service_pb2.AttachRunRequest) else 0
        )
        """The sequence of the last event that has come: what to attach after."""

    @property
    def ended(self) -> bool:
        """Whether the event that ends or pauses the run has come."""
        return self._result is not None

    @property
    def paused(self) -> event_pb2.RunPaused | None:
        """What the run waits for, when it was paused: to be resolved with `Dragoman.continue_run`."""
        return self._result if isinstance(self._result, event_pb2.RunPaused) else None

    @property
    def result(self) -> RunResult:
        """How the run ended: the message in its last event. Raises RuntimeError before that has come."""
        if self._result is None:
            raise RuntimeError("the run has not ended: read its events first")
        return self._result

    async def text(self) -> str:
        """Reads to the end and returns the final text.

        Raises RunFailed when the run did not complete; its subclass RunIsPaused when it waits for somebody.
        """
        async for _ in self:
            pass
        outcome = self.result
        if isinstance(outcome, event_pb2.RunCompleted):
            return outcome.content
        raise from_outcome(outcome, self.run_id)

    async def cancel(self, *, note: str = "") -> run_service_pb2.Run:
        """Ends the run and returns it ended; the stream then yields its last event.

        Raises RuntimeError while the run's id is not known, and what `Dragoman.cancel_run` does.
        """
        if not self.run_id:
            raise RuntimeError("the run's id is not known yet: read its first event")
        request = run_service_pb2.CancelRunRequest(run_id=self.run_id, note=note)
        return (await self._link.call(lambda stubs: stubs.runs.CancelRun, request)).run

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
        await self._begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> event_pb2.RunEvent:
        try:
            while (call := await self._begin()) is not None and not self._closed:
                event, error = await self._read(call)
                if event is None:
                    await self._mend(error)
                elif self._is_new(event):
                    self._note(event)
                    return event
        except BaseException:  # refused, given up, or cancelled: whoever waited here has left
            self.close()
            raise
        raise StopAsyncIteration

    async def _read(self, call: _Call) -> tuple[event_pb2.RunEvent | None, DragomanError | None]:
        """The next event; else the error by which the call ended; neither when it ended well."""
        try:
            event = await call.read()
        except grpc.aio.AioRpcError as failure:
            return None, from_rpc(failure)
        if not isinstance(event, event_pb2.RunEvent):  # grpc.aio.EOF
            return None, None
        self._proof.accepted()
        return event, None

    async def _begin(self) -> "_Call | None":
        """The call, made if there is none; None when the stream was closed before it could be."""
        if self._call is not None or self._closed:
            return self._call
        clock = asyncio.get_running_loop().time
        if self._attempts is None:
            retry = self._link.retry
            self._deadline = None if self._timeout is None else clock() + self._timeout
            self._attempts = Attempts(retry, retry.start_patience if retry else 0.0, self._deadline)
        metadata = await self._proof.metadata(self._deadline)
        if not self._closed:  # nobody has left meanwhile
            self._open(metadata, None if self._deadline is None else max(self._deadline - clock(), 0.0))
        return self._call

    def _open(self, metadata: Metadata, timeout: float | None) -> None:
        method, request = self._next_request()
        self._stubs, self._call = self._link.follow(method, request, timeout, metadata)

    def _next_request(self) -> "tuple[Stream[Any, event_pb2.RunEvent], _Request]":
        """The first request again until an event has come; after that, the run from there on."""
        if self._came and self.run_id:
            attach = run_service_pb2.AttachRunRequest(
                run_id=self.run_id, after_sequence=self.last_sequence, detail=self._request.detail
            )
            return _attach, attach
        return _METHODS[type(self._request)], self._request

    async def _mend(self, error: DragomanError | None) -> None:
        """After the end of a call: closes the stream when the run has ended, else makes the next call, or raises."""
        if self._result is not None or (error is None and await self._has_ended()):
            self.close()
            return
        ended = error is None
        if error is None:
            error = stream_ended()
        if self._proof.renewable(error):
            self._call = None
            return
        over_limit = is_over_limit(error)
        if not (over_limit or ended or is_break(error)):
            raise error
        if self._attempts is None or self._stubs is None:
            raise error
        if self._link.retry is not None and not over_limit:
            self._link.renew(self._stubs)
        self._call = None
        if not await self._attempts.again(error):
            if over_limit and not self._came:
                raise error  # nothing was lost: there is no run
            raise lost(
                error, run_id=self.run_id, last_sequence=self.last_sequence, request_id=self.request_id
            ) from error

    async def _has_ended(self) -> bool:
        """Whether a stream without its last event is right: it was asked for what comes after that one."""
        if not self.run_id:
            return False
        request = run_service_pb2.GetRunRequest(run_id=self.run_id)
        try:
            run = (await self._link.call(lambda stubs: stubs.runs.GetRun, request)).run
        except DragomanError as error:
            if is_break(error):
                return False
            raise
        outcome = outcome_of(run)
        if outcome is None or run.last_sequence > self.last_sequence:
            return False
        self._result = outcome
        self.session_id = self.session_id or run.session_id
        return True

    def _is_new(self, event: event_pb2.RunEvent) -> bool:
        return event.sequence == 0 or event.sequence > self.last_sequence

    def _note(self, event: event_pb2.RunEvent) -> None:
        if self._attempts is not None and self._link.retry is not None:
            self._attempts.progress(self._link.retry.patience)
        self.last_sequence = max(self.last_sequence, event.sequence)
        self._came = self._came or event.sequence > 0
        if event.HasField("member"):
            return
        match event.WhichOneof("event"):
            case "run_started":
                self.run_id, self.session_id = event.run_started.run_id, event.run_started.session_id
            case "run_queued":
                self.run_id, self.session_id = event.run_queued.run_id, event.run_queued.session_id
            case "run_continued":
                self._result = None  # a pause that was, in a run that is followed from before it
            case _:
                self._result = result_of(event) or self._result


def _run(stubs: Stubs) -> "grpc.aio.UnaryStreamMultiCallable[Any, event_pb2.RunEvent]":
    return stubs.runs.Run


def _continue(stubs: Stubs) -> "grpc.aio.UnaryStreamMultiCallable[Any, event_pb2.RunEvent]":
    return stubs.runs.ContinueRun


def _attach(stubs: Stubs) -> "grpc.aio.UnaryStreamMultiCallable[Any, event_pb2.RunEvent]":
    return stubs.runs.AttachRun


_METHODS: dict[type[_Request], Callable[[Stubs], Any]] = {
    run_service_pb2.RunRequest: _run,
    run_service_pb2.ContinueRunRequest: _continue,
    run_service_pb2.AttachRunRequest: _attach,
}
