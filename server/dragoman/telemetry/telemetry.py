"""`Telemetry`: the observer that makes figures and spans of what the rooms tell it. One for each server."""

import asyncio
import contextlib
import time
from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from opentelemetry.trace import Span, Status, StatusCode

from dragoman import ids
from dragoman.observing import Metadata
from dragoman.records import ModelCall, Run, RunStatus
from dragoman.telemetry import traces
from dragoman.telemetry.endpoint import MetricsEndpoint
from dragoman.telemetry.metrics import CallFigures, Metrics, RunFigures
from dragoman.telemetry.traces import RunSpans, Traces
from dragoman.v1 import event_pb2

LAG_INTERVAL = 1.0
"""Seconds between two looks at how late the event loop is."""

_MEMBER_BEGINS = frozenset({"member_run_started", "member_run_continued"})
_MEMBER_ENDS = {
    "member_run_completed": "completed",
    "member_run_failed": "failed",
    "member_run_cancelled": "cancelled",
    "member_run_paused": "paused",
}
_SPEAKS = frozenset({"content_delta", "reasoning_delta", "tool_call_started", "structured_content"})


class Telemetry:
    """Satisfies `observing.Observer`. Made on the event loop of its server; `close` ends what it has started."""

    def __init__(
        self,
        version: str,
        *,
        otlp_endpoint: str | None = None,
        otlp_headers: Mapping[str, str] | None = None,
        sample_ratio: float = 1.0,
        service_name: str = "dragoman",
    ) -> None:
        """`otlp_endpoint`: where spans go; None: there are none."""
        self.metrics = Metrics(version)
        exporter = None
        if otlp_endpoint is not None:
            exporter = traces.collector(otlp_endpoint, otlp_headers or {}, self._count_spans)
        self.traces = Traces(
            exporter, ratio=sample_ratio, service=service_name, version=version, instance=str(ids.new_id())
        )
        self._endpoint: MetricsEndpoint | None = None
        self._lag = asyncio.create_task(self._watch_lag(), name="event-loop-lag")

    async def serve(self, host: str, port: int) -> str:
        """Serves the figures over HTTP; returns the address. Raises CannotServeMetrics."""
        endpoint = MetricsEndpoint(self.metrics.refresh, self.metrics.text)
        address = await endpoint.start(host, port)
        self._endpoint = endpoint
        return address

    async def close(self) -> None:
        """Serves no more, and sends the last spans. After all that is observed has ended."""
        self._lag.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._lag
        if self._endpoint is not None:
            await self._endpoint.close()
        await self.traces.close()

    # What the rooms tell

    def call(self, method: str, metadata: Metadata, *, streams: bool) -> "CallObserved":
        """A call begins."""
        span = self.traces.call(method, metadata)
        return CallObserved(self.metrics, method, span, streams=streams)

    def attached(self, run_id: UUID, *, here: bool) -> None:
        """The current call follows a run that was begun by another one."""
        self.metrics.runs_attached.labels("here" if here else "elsewhere").inc()
        self.traces.attached(run_id)

    def run(self, run: Run, *, continued: bool) -> "RunObserved":
        """A run was claimed."""
        queued = run.status is RunStatus.QUEUED
        figures = self.metrics.run(run.agent_name, continued=continued, queued=queued)
        return RunObserved(figures, self.traces.run(run))

    def swept(self, why: str) -> None:
        """A run was ended that no task conducted."""
        self.metrics.runs_swept.labels(why).inc()

    def transaction(self, operation: str, system: str) -> "TransactionObserved":
        """A transaction begins."""
        return TransactionObserved(self.metrics, operation, self.traces.transaction(operation, system))

    def certificate(self, expires: datetime) -> None:
        """The server's certificate."""
        self.metrics.expires(expires)

    def _count_spans(self, result: str, count: int) -> None:
        self.metrics.spans.labels(result).inc(count)

    async def _watch_lag(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + LAG_INTERVAL
            await asyncio.sleep(LAG_INTERVAL)
            self.metrics.loop_lag.observe(max(0.0, loop.time() - due))


class CallObserved(CallFigures):
    """One call. A `CallFigures` itself, so that to count a message is to add to a number."""

    __slots__ = ("_span",)

    def __init__(self, metrics: Metrics, method: str, span: Span | None, *, streams: bool) -> None:
        super().__init__(metrics, method, streams=streams)
        self._span = span

    def handled(self, code: str, reason: str, detail: str = "") -> None:
        """It has ended."""
        super().handled(code, reason, detail)
        if self._span is not None:
            traces.end_call(self._span, code, reason)


class TransactionObserved:
    """One transaction."""

    __slots__ = ("_began", "_metrics", "_operation", "_retries", "_span")

    def __init__(self, metrics: Metrics, operation: str, span: Span | None) -> None:
        self._metrics = metrics
        self._operation = operation
        self._span = span
        self._retries = 0
        self._began = time.perf_counter()

    def retried(self) -> None:
        """It is tried again."""
        self._retries += 1
        self._metrics.storage_retries.labels(self._operation).inc()

    def done(self, failure: str = "") -> None:
        """It has ended."""
        self._metrics.storage_seconds.labels(self._operation).observe(time.perf_counter() - self._began)
        if failure:
            code = self._metrics.name("storage", failure)
            self._metrics.storage_failures.labels(self._operation, code).inc()
        if self._span is not None:
            if self._retries:
                self._span.set_attribute("dragoman.storage.retries", self._retries)
            if failure:
                self._span.set_attribute("error.type", failure)
                self._span.set_status(Status(StatusCode.ERROR))
            self._span.end()


class RunObserved:
    """One run."""

    __slots__ = ("_called", "_ended", "_figures", "_spans")

    def __init__(self, figures: RunFigures, spans: RunSpans | None) -> None:
        self._figures = figures
        self._spans = spans
        self._called: set[UUID] = set()
        self._ended = False

    def enter(self) -> None:
        """The current task works for the run."""
        if self._spans is not None:
            self._spans.enter()

    def began(self) -> None:
        """It has its turn."""
        self._figures.began()

    def saw(self, kind: str, event: event_pb2.RunEvent) -> None:
        """An event of the agent's."""
        if kind in _SPEAKS:
            self._figures.spoke()
        if kind == "tool_call_started":
            call = event.tool_call_started.tool_call
            self._figures.tool_started(call.id)
            if self._spans is not None:
                self._spans.tool_started(event.member.run_id, call.id, call.name)
        elif kind == "tool_call_completed":
            done = event.tool_call_completed
            self._tool_ended(done.tool_call_id, done.tool_name, "completed")
        elif kind == "tool_call_failed":
            failed = event.tool_call_failed
            self._tool_ended(failed.tool_call_id, failed.tool_name, "failed")
        elif kind in _MEMBER_BEGINS:
            if self._spans is not None:
                begun = event.member_run_started
                self._spans.member_started(event.member, begun.model, begun.provider)
        elif kind in _MEMBER_ENDS:
            self._figures.member_ended(_MEMBER_ENDS[kind])
            if self._spans is not None:
                self._spans.member_ended(event.member.run_id, _MEMBER_ENDS[kind])
        elif kind == "unmapped":
            self._figures.unmapped(event.unmapped.type)

    def _tool_ended(self, call_id: str, tool: str, outcome: str) -> None:
        self._figures.tool_ended(call_id, tool, outcome)
        if self._spans is not None:
            self._spans.tool_ended(call_id, outcome)

    def called(self, call: ModelCall) -> None:
        """A call of a model has ended."""
        if call.id in self._called:
            return
        self._called.add(call.id)
        self._figures.called(call)
        if self._spans is not None:
            self._spans.called(call)

    def ended(self, outcome: str, reason: str) -> None:
        """It is over here."""
        if self._ended:
            return
        self._ended = True
        self._figures.ended(outcome, reason)
        if self._spans is not None:
            self._spans.ended(outcome, reason)
