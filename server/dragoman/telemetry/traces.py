"""Spans of calls, runs, members, model calls, tools and transactions, sent to an OpenTelemetry collector (OTLP, gRPC).

    the caller's span
     ├─ call            `dragoman.v1.RunService/Run`, from its begin to its status
     │   └─ transaction
     └─ run             `invoke_agent <name>`: outlives the call, which it links to
         ├─ model call  `chat <model>`
         ├─ tool        `execute_tool <name>`
         ├─ member run  `invoke_agent <name>`, with model calls and tools of its own
         └─ transaction

A call that brings a `traceparent` goes on in its caller's trace and keeps its sampling; one that is malformed is as good as
none. A run that goes on after a pause is a span of the call that continued it: all spans of a run have the attribute
`dragoman.run.id`. A call that attaches to a run links to the run's span, where that is (or was lately) of this process.

No content: no prompts, answers, arguments or results. The provider of spans is ours alone, and not the process's: what
agents or libraries trace through the global one never comes here. Nor do they see our spans: the current one is kept in a
variable of ours, because clients of model providers send what they find in OpenTelemetry's own to the provider.

Spans wait in a queue with an end, and a thread sends them. When the collector is away they are dropped.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from datetime import timedelta
from typing import Final
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, SpanLimits, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Link, Span, SpanContext, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from dragoman import observing
from dragoman.observing import Metadata
from dragoman.records import CallStatus, ModelCall, Run
from dragoman.v1 import event_pb2

logger = logging.getLogger(__name__)

QUEUE: Final = 8192
"""Spans that wait for the collector; more are dropped."""

BATCH: Final = 512
DELAY: Final = 1.0
"""Spans, and seconds, after which those that wait are sent."""

SEND_TIMEOUT: Final = 5.0
"""Seconds that the collector has to take a batch, repetitions included."""

LAST_SEND: Final = 2.0
"""Seconds that it has for what is left when the server stops."""

REMEMBERED: Final = 4096
"""Runs whose span is remembered, for calls that attach to them."""

OPEN: Final = 1000
"""Spans of tools and members of one run that are open at a time; more get none."""

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_CARRIED: Final = frozenset({"traceparent", "tracestate"})
_CALLER: ContextVar[Context | None] = ContextVar("dragoman_caller_span", default=None)
"""The caller's span, when it has told of one."""

_NOWHERE: Final = Context()
_CURRENT: ContextVar[Context] = ContextVar("dragoman_span", default=_NOWHERE)
"""The span under which spans of the current task are made."""

_ERRORS_OF_OURS: Final = frozenset(
    {"INTERNAL", "UNKNOWN", "UNAVAILABLE", "DATA_LOSS", "DEADLINE_EXCEEDED", "UNIMPLEMENTED"}
)
"""Codes that make an error of a server's span; others are the caller's doing."""


class Exporter(SpanExporter):
    """Hands batches to the collector, and counts. Closed once, and silent from then on."""

    def __init__(self, collector: SpanExporter, count: Callable[[str, int], None]) -> None:
        self._collector = collector
        self._count = count
        self._closed = False

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """In the processor's thread."""
        result = SpanExportResult.FAILURE if self._closed else self._collector.export(spans)
        self._count("sent" if result is SpanExportResult.SUCCESS else "dropped", len(spans))
        return result

    def shutdown(self) -> None:
        """Breaks off what is being sent."""
        if not self._closed:
            self._closed = True
            self._collector.shutdown()


class Traces:
    """The spans of one server. Without an `exporter` it makes none, and only reads what callers tell of theirs."""

    def __init__(
        self, exporter: Exporter | None, *, ratio: float, service: str, version: str, instance: str
    ) -> None:
        self._exporter = exporter
        self._processor: BatchSpanProcessor | None = None
        self._tracer: trace.Tracer | None = None
        self._runs: OrderedDict[UUID, SpanContext] = OrderedDict()
        if exporter is None:
            return
        resource = Resource.create(
            {"service.name": service, "service.version": version, "service.instance.id": instance}
        )
        provider = TracerProvider(
            sampler=ParentBased(TraceIdRatioBased(ratio)),
            resource=resource,
            shutdown_on_exit=False,
            span_limits=SpanLimits(max_attributes=64, max_links=16, max_span_attribute_length=512),
        )
        self._processor = BatchSpanProcessor(
            exporter,
            max_queue_size=QUEUE,
            schedule_delay_millis=DELAY * 1000,
            max_export_batch_size=BATCH,
            export_timeout_millis=SEND_TIMEOUT * 1000,
        )
        provider.add_span_processor(self._processor)
        self._tracer = provider.get_tracer("dragoman", version)

    async def close(self) -> None:
        """Sends what is left, if the collector takes it soon, and ends the thread."""
        if self._processor is None or self._exporter is None:
            return
        with ThreadPoolExecutor(2, thread_name_prefix="last-spans") as threads:
            loop = asyncio.get_running_loop()
            sending = loop.run_in_executor(threads, self._processor.force_flush)
            _, late = await asyncio.wait({sending}, timeout=LAST_SEND)
            if late:
                logger.warning(
                    "the collector of traces does not take the last spans", extra={"seconds": LAST_SEND}
                )
            # It breaks off what is being sent: the processor's thread and ours have nothing to wait for.
            await loop.run_in_executor(threads, self._exporter.shutdown)
            await sending
            await loop.run_in_executor(threads, self._processor.shutdown)

    def call(self, method: str, metadata: Metadata) -> Span | None:
        """The span of a call, as the current one from here on; None when there is none."""
        carrier = {key: value for key, value in metadata if key in _CARRIED and isinstance(value, str)}
        caller = _PROPAGATOR.extract(carrier, _NOWHERE) if carrier else _NOWHERE
        if told := trace.get_current_span(caller).get_span_context().is_valid:
            _CALLER.set(caller)
        if self._tracer is None:
            if told:
                _enter(caller)
            return None
        name = method.removeprefix("/")
        attributes = {"rpc.system.name": "grpc", "rpc.method": name}
        span = self._tracer.start_span(name, caller, kind=SpanKind.SERVER, attributes=attributes)
        _enter(trace.set_span_in_context(span, caller))
        return span

    def attached(self, run_id: UUID) -> None:
        """Links the current call to a run."""
        span = _current()
        if span.is_recording():
            span.set_attribute("dragoman.run.id", str(run_id))
            if (found := self._runs.get(run_id)) is not None:
                span.add_link(found)

    def run(self, run: Run) -> "RunSpans | None":
        """The spans of a run; None when there are none."""
        if self._tracer is None:
            return None
        current = _current()
        if current.is_recording():  # its caller may have left while the run was claimed
            current.set_attribute("dragoman.run.id", str(run.id))
        caller, links = _CALLER.get(), []
        if caller is not None and current.get_span_context().is_valid:
            links = [Link(current.get_span_context())]
        attributes = {
            "gen_ai.operation.name": "invoke_agent",
            "gen_ai.agent.name": run.agent_name,
            "gen_ai.conversation.id": str(run.session_id),
            "gen_ai.provider.name": run.provider.lower(),
            "gen_ai.request.model": run.model,
            "dragoman.run.id": str(run.id),
        }
        span = self._tracer.start_span(
            f"invoke_agent {run.agent_name}",
            caller or _CURRENT.get(),
            kind=SpanKind.INTERNAL,
            attributes=attributes,
            links=links,
        )
        self._runs[run.id] = span.get_span_context()
        self._runs.move_to_end(run.id)
        if len(self._runs) > REMEMBERED:
            self._runs.popitem(last=False)
        return RunSpans(self._tracer, span, str(run.id))

    def transaction(self, operation: str, system: str) -> Span | None:
        """The span of a transaction; None outside of a call or run that has one."""
        if self._tracer is None or not _current().is_recording():
            return None
        attributes = {"db.system.name": system, "db.operation.name": operation}
        return self._tracer.start_span(operation, _CURRENT.get(), kind=SpanKind.CLIENT, attributes=attributes)


def collector(endpoint: str, headers: Mapping[str, str], count: Callable[[str, int], None]) -> Exporter:
    """Sends to an OTLP collector, `http://host:4317` or `https://...`. `count(result, spans)` from its thread."""
    exporter = OTLPSpanExporter(endpoint=endpoint, headers=dict(headers), timeout=SEND_TIMEOUT)
    return Exporter(exporter, count)


def _current() -> Span:
    return trace.get_current_span(_CURRENT.get())


def _enter(context: Context) -> None:
    """Makes the context's span the current one, of what follows in this task and what it starts; log lines tell of it."""
    _CURRENT.set(context)
    span = trace.get_current_span(context).get_span_context()
    observing.bind(trace_id=trace.format_trace_id(span.trace_id), span_id=trace.format_span_id(span.span_id))


def end_call(span: Span, code: str, reason: str) -> None:
    """Ends the span of a call with its status."""
    span.set_attribute("rpc.response.status_code", code)
    if code != "OK":
        span.set_attribute("error.type", reason or code)
    if code in _ERRORS_OF_OURS:
        span.set_status(Status(StatusCode.ERROR))
    span.end()


class RunSpans:
    """The span of a run, and those below it."""

    def __init__(self, tracer: trace.Tracer, span: Span, run_id: str) -> None:
        self._tracer = tracer
        self._span = span
        self._run_id = run_id
        # By the member's run id; empty for the run itself.
        self._contexts: dict[str, Context] = {"": trace.set_span_in_context(span, _NOWHERE)}
        self._members: dict[str, Span] = {}
        self._tools: dict[str, Span] = {}

    def enter(self) -> None:
        """Makes the run's span the current one of this task."""
        _enter(self._contexts[""])

    def member_started(self, member: event_pb2.Member, model: str, provider: str) -> None:
        """A member's run begins, or goes on."""
        if not self._span.is_recording() or len(self._members) >= OPEN:
            return
        span = self._start(
            f"invoke_agent {member.agent_name}",
            self._contexts.get(member.parent_run_id, self._contexts[""]),
            {
                "gen_ai.operation.name": "invoke_agent",
                "gen_ai.agent.name": member.agent_name,
                "gen_ai.request.model": model,
                "gen_ai.provider.name": provider.lower(),
                "dragoman.member_run.id": member.run_id,
            },
        )
        self._members[member.run_id] = span
        self._contexts[member.run_id] = trace.set_span_in_context(span, _NOWHERE)

    def member_ended(self, member_run_id: str, outcome: str) -> None:
        """A member's run has ended, or waits."""
        if (span := self._members.pop(member_run_id, None)) is not None:
            _finish(span, outcome, "_OTHER")

    def tool_started(self, member_run_id: str, call_id: str, tool: str) -> None:
        """A tool call begins."""
        if not self._span.is_recording() or len(self._tools) >= OPEN:
            return
        self._tools[call_id] = self._start(
            f"execute_tool {tool}",
            self._contexts.get(member_run_id, self._contexts[""]),
            {
                "gen_ai.operation.name": "execute_tool",
                "gen_ai.tool.name": tool,
                "gen_ai.tool.call.id": call_id,
                "gen_ai.tool.type": "function",
            },
        )

    def tool_ended(self, call_id: str, outcome: str) -> None:
        """A tool call has ended."""
        if (span := self._tools.pop(call_id, None)) is not None:
            _finish(span, outcome, "tool_error")

    def called(self, call: ModelCall) -> None:
        """A call of a model has ended: its span is made now, with the times that it took."""
        if not self._span.is_recording():
            return
        parent = self._contexts.get(str(call.run_id)) or self._contexts.get(str(call.parent_run_id))
        begin = int(call.start_time.timestamp() * 1_000_000_000)
        span = self._tracer.start_span(
            f"chat {call.model}",
            parent or self._contexts[""],
            kind=SpanKind.CLIENT,
            attributes={**_of_call(call), "dragoman.run.id": self._run_id},
            start_time=begin,
        )
        if call.status is CallStatus.FAILED:
            span.set_attribute("error.type", call.failure or "_OTHER")
            span.set_status(Status(StatusCode.ERROR))
        elif call.status is CallStatus.INTERRUPTED:
            span.set_attribute("error.type", "cancelled")
        span.end(begin + call.duration // timedelta(microseconds=1) * 1000)

    def ended(self, outcome: str, reason: str) -> None:
        """The run is over, and with it all that still worked for it."""
        for span in (*self._tools.values(), *reversed(self._members.values())):
            _finish(span, "cancelled", "")
        self._tools.clear()
        self._members.clear()
        self._span.set_attribute("dragoman.run.reason", reason)
        _finish(self._span, outcome, reason)

    def _start(self, name: str, parent: Context, attributes: dict[str, str]) -> Span:
        return self._tracer.start_span(
            name,
            parent,
            kind=SpanKind.INTERNAL,
            attributes={**attributes, "dragoman.run.id": self._run_id},
            start_time=time.time_ns(),
        )


def _finish(span: Span, outcome: str, error: str) -> None:
    span.set_attribute("dragoman.outcome", outcome)
    if outcome in ("failed", "lost"):
        span.set_attribute("error.type", error)
        span.set_status(Status(StatusCode.ERROR))
    span.end()


def _of_call(call: ModelCall) -> dict[str, str | int | float | list[str]]:
    usage = call.usage
    found: dict[str, str | int | float | list[str]] = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": call.provider.lower(),
        "gen_ai.request.model": call.model,
        "gen_ai.agent.name": call.agent_name,
        # The conventions count what was read from and written to a cache among the input; the ledger does not.
        "gen_ai.usage.input_tokens": usage.input_tokens + usage.cache_read_tokens + usage.cache_write_tokens,
        "gen_ai.usage.output_tokens": usage.output_tokens,
        "gen_ai.usage.cache_read.input_tokens": usage.cache_read_tokens,
        "gen_ai.usage.cache_creation.input_tokens": usage.cache_write_tokens,
        "dragoman.model_call.id": str(call.id),
        "dragoman.model_call.kind": call.kind,
        "dragoman.model_call.attempts": call.attempt,
    }
    if call.stop_reason:
        found["gen_ai.response.finish_reasons"] = [call.stop_reason]
    if call.time_to_first_token is not None:
        found["gen_ai.response.time_to_first_chunk"] = call.time_to_first_token.total_seconds()
    if call.cost is not None:
        found["dragoman.cost.amount"] = str(call.cost.amount)
        found["dragoman.cost.currency"] = call.cost.currency
    return found
