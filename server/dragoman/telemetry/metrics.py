"""The figures of one server, as Prometheus reads them. docs/telemetry.md lists them all.

Each server has a registry of its own. Labels come from code and configuration: methods, agents, models, tools, the reasons
of the error table. Never from callers: no users, sessions, principals. What an author could make up on the fly (names of
models and tools, types of events) is cut off at `DISTINCT` names; the rest goes together as `other`.

Per streamed message nothing is done here: a call counts in a plain number, which is collected when somebody looks.
"""

import time
from collections.abc import Callable
from datetime import datetime
from typing import Final, TypeVar

import prometheus_client as prometheus
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from dragoman.records import CallStatus, ModelCall, TokenUsage

T = TypeVar("T", Counter, Gauge)

DISTINCT: Final = 200
"""Names of one kind that become values of a label."""

OTHER: Final = "other"

SHORT: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Buckets, in seconds, of what takes milliseconds."""

LONG: Final = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 60.0, 120.0, 300.0, 900.0, 3600.0)
"""Of what a model has its part in."""

CALL: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
"""Of calls, which may be either."""

TOKENS: Final[dict[str, Callable[[TokenUsage], int]]] = {
    "input": lambda usage: usage.input_tokens,
    "output": lambda usage: usage.output_tokens,
    "cache_read": lambda usage: usage.cache_read_tokens,
    "cache_write": lambda usage: usage.cache_write_tokens,
    "reasoning": lambda usage: usage.reasoning_tokens,
}
"""Kinds of tokens. Those of `reasoning` are part of `output`; the others add up to the total."""

SWEPT: Final = ("abandoned", "expired", "cancelled")
LOSSES: Final = ("RUN_NOT_RESUMABLE", "STORAGE_UNAVAILABLE", "INTERNAL")
"""Why runs are ended that no process conducts, and why ends cannot be stored."""

# A time of creation beside each counter and histogram doubles what is scraped, and nobody reads it.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]  # the library leaves it without annotations


class Metrics:
    """All figures. Written on the server's event loop, but for what is said to be different."""

    def __init__(self, version: str) -> None:
        self.registry = CollectorRegistry()
        self._names: dict[str, set[str]] = {}
        self._calls: set[CallFigures] = set()
        self._queued: dict[RunFigures, float] = {}
        self._about_calls()
        self._about_runs()
        self._about_models()
        self._about_the_process(version)

    def _about_calls(self) -> None:
        self.rpc_started = self._counter("rpc_started", "Calls that have begun.", "method")
        self.rpc_handled = self._counter(
            "rpc_handled", "Calls that have ended, by gRPC code.", "method", "code"
        )
        self.rpc_refused = self._counter(
            "rpc_refused", "Calls that ended with a typed error, by its reason.", "method", "reason"
        )
        self.rpc_seconds = self._histogram(
            "rpc_duration_seconds", "From a call's begin to its end.", CALL, "method"
        )
        self.streams = self._gauge("rpc_open_streams", "Streams that are open.", "method")
        self.messages = self._counter("rpc_stream_messages_sent", "Messages written to streams.", "method")
        self.auth_refused = self._counter(
            "auth_refusals", "Calls that were refused for who made them, by why.", "why"
        )
        self.quota_refused = self._counter(
            "quota_refusals", "Calls that were refused by a limit, by which.", "limit"
        )

    def _about_runs(self) -> None:
        self.runs_active = self._gauge("runs_active", "Runs under way or waiting in this process.")
        self.runs_queued = self._gauge("runs_queued", "Those of them that wait for their session's turn.")
        self.queue_age = self._gauge("run_queue_age_seconds", "For how long the oldest of those has waited.")
        self.runs_started = self._counter(
            "runs_started", "Runs claimed here; `continued` after a pause.", "agent", "how"
        )
        self.runs_ended = self._counter(
            "runs_ended", "Runs that are over here, how and why.", "agent", "outcome", "reason"
        )
        self.run_seconds = self._histogram(
            "run_duration_seconds", "From a run's turn to its end or pause.", LONG, "agent"
        )
        self.first_event = self._histogram(
            "run_first_event_seconds",
            "From a run's claim to the first text, reasoning or tool call of it.",
            LONG,
            "agent",
        )
        self.runs_attached = self._counter(
            "runs_attached", "Followers of runs that another call began; where the run is.", "where"
        )
        self.runs_swept = self._counter(
            "runs_swept", "Runs ended here that no process conducted: abandoned, expired, cancelled.", "why"
        )
        for why in SWEPT:
            self.runs_swept.labels(why)  # of a series that begins at 1 nobody sees that it has grown
        self.member_runs = self._counter(
            "member_runs", "Runs of teams' members that have ended.", "agent", "outcome"
        )
        self.tool_calls = self._counter(
            "tool_calls", "Tool calls that have ended.", "agent", "tool", "outcome"
        )
        self.tool_seconds = self._histogram(
            "tool_call_duration_seconds", "How long tools took.", LONG, "agent"
        )
        self.unmapped = self._counter(
            "unmapped_events", "Events of Agno's that this version does not know.", "type"
        )

    def _about_models(self) -> None:
        self.model_calls = self._counter(
            "model_calls", "Calls of models that have ended.", "agent", "provider", "model", "status"
        )
        self.model_failures = self._counter(
            "model_call_failures", "Those that failed, by kind.", "provider", "model", "kind"
        )
        self.model_retries = self._counter(
            "model_call_retries",
            "Requests that a provider refused and its client made again.",
            "provider",
            "model",
        )
        self.model_seconds = self._histogram(
            "model_call_duration_seconds",
            "From a request to the end of its answer.",
            LONG,
            "provider",
            "model",
        )
        self.first_token = self._histogram(
            "model_call_first_token_seconds",
            "From a request to the begin of its answer.",
            LONG,
            "provider",
            "model",
        )
        self.tokens = self._counter(
            "tokens", "Tokens as billed; `reasoning` is part of `output`.", "agent", "model", "kind"
        )
        self.cost = self._counter("cost", "What calls cost, in the currency.", "agent", "model", "currency")
        self.unpriced = self._counter("unpriced_calls", "Calls without a known price.", "agent", "model")

    def _about_the_process(self, version: str) -> None:
        self.storage_seconds = self._histogram(
            "storage_duration_seconds", "Transactions, with waiting and repetitions.", SHORT, "operation"
        )
        self.storage_failures = self._counter(
            "storage_failures",
            "Transactions that the database did not do, by the driver's code.",
            "operation",
            "code",
        )
        self.storage_retries = self._counter("storage_retries", "Repetitions of transactions.", "operation")
        self.loop_lag = self._histogram(
            "event_loop_lag_seconds",
            "By how much later than asked the event loop woke, once a second.",
            SHORT,
        )
        self.certificate = self._gauge(
            "tls_certificate_expiry_timestamp_seconds", "When the server's certificate ends; 0 without TLS."
        )
        self.spans = self._counter("spans_exported", "Spans handed to the collector, or not.", "result")
        build = self._gauge("build_info", "1, with the version.", "version")
        build.labels(version).set(1)
        # It looks at nothing but /proc of its own process.
        prometheus.ProcessCollector(registry=self.registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"dragoman_{name}", about, labels, registry=self.registry)

    def _gauge(self, name: str, about: str, *labels: str) -> Gauge:
        return Gauge(f"dragoman_{name}", about, labels, registry=self.registry)

    def _histogram(self, name: str, about: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(f"dragoman_{name}", about, labels, buckets=buckets, registry=self.registry)

    def name(self, kind: str, value: str) -> str:
        """`value` as the value of a label, as long as there are not too many of its kind."""
        known = self._names.setdefault(kind, set())
        if value not in known:
            if len(known) >= DISTINCT:
                return OTHER
            known.add(value)
        return value

    def refresh(self) -> None:
        """Brings what is only counted along the way up to this moment. On the event loop, before somebody looks."""
        for call in self._calls:
            call.collect()
        oldest = next(iter(self._queued.values()), None)
        self.runs_queued.set(len(self._queued))
        self.queue_age.set(0 if oldest is None else time.monotonic() - oldest)

    def text(self) -> bytes:
        """All figures in Prometheus' text format. From any thread."""
        return prometheus.generate_latest(self.registry)

    def run(self, agent: str, *, continued: bool, queued: bool) -> "RunFigures":
        """A run begins."""
        return RunFigures(self, self.name("agent", agent), continued=continued, queued=queued)

    def expires(self, at: datetime) -> None:
        """Until when the certificate holds. From any thread."""
        self.certificate.set(at.timestamp())


class CallFigures:
    """The figures of one call."""

    __slots__ = ("_began", "_collected", "_method", "_metrics", "_streams", "messages")

    def __init__(self, metrics: Metrics, method: str, *, streams: bool) -> None:
        self._metrics = metrics
        self._method = method.removeprefix("/")
        self._streams = streams
        self._began = time.perf_counter()
        self._collected = 0
        self.messages = 0
        metrics._calls.add(self)  # noqa: SLF001 - its own
        metrics.rpc_started.labels(self._method).inc()
        if streams:
            metrics.streams.labels(self._method).inc()

    def collect(self) -> None:
        """Hands over the messages that were counted."""
        if fresh := self.messages - self._collected:
            self._metrics.messages.labels(self._method).inc(fresh)
            self._collected = self.messages

    def handled(self, code: str, reason: str, detail: str = "") -> None:
        """It has ended."""
        metrics = self._metrics
        self.collect()
        metrics._calls.discard(self)  # noqa: SLF001 - its own
        metrics.rpc_handled.labels(self._method, code).inc()
        metrics.rpc_seconds.labels(self._method).observe(time.perf_counter() - self._began)
        if self._streams:
            metrics.streams.labels(self._method).dec()
        if not reason:
            return
        metrics.rpc_refused.labels(self._method, reason).inc()
        if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            metrics.auth_refused.labels(detail or reason.lower()).inc()
        elif code == "RESOURCE_EXHAUSTED":
            metrics.quota_refused.labels(detail or reason.lower()).inc()


class RunFigures:
    """The figures of one run."""

    __slots__ = ("_agent", "_began", "_claimed", "_metrics", "_spoke", "_tools")

    def __init__(self, metrics: Metrics, agent: str, *, continued: bool, queued: bool) -> None:
        self._metrics = metrics
        self._agent = agent
        self._claimed = time.monotonic()
        self._began: float | None = None
        self._spoke = False
        self._tools: dict[str, float] = {}
        metrics.runs_started.labels(agent, "continued" if continued else "new").inc()
        metrics.runs_active.inc()
        for reason in LOSSES:
            metrics.runs_ended.labels(agent, "lost", reason)  # likewise there from the begin
        if queued:
            metrics._queued[self] = self._claimed  # noqa: SLF001 - its own

    def began(self) -> None:
        """It has its turn."""
        self._began = time.monotonic()
        self._metrics._queued.pop(self, None)  # noqa: SLF001 - its own

    def spoke(self) -> None:
        """It has said or done something. The first time counts."""
        if not self._spoke:
            self._spoke = True
            self._metrics.first_event.labels(self._agent).observe(time.monotonic() - self._claimed)

    def tool_started(self, call_id: str) -> None:
        """A tool call has begun."""
        self._tools[call_id] = time.monotonic()

    def tool_ended(self, call_id: str, tool: str, outcome: str) -> None:
        """A tool call has ended."""
        metrics = self._metrics
        metrics.tool_calls.labels(self._agent, metrics.name("tool", tool), outcome).inc()
        if (began := self._tools.pop(call_id, None)) is not None:
            metrics.tool_seconds.labels(self._agent).observe(time.monotonic() - began)

    def member_ended(self, outcome: str) -> None:
        """A member's run has ended, or waits."""
        self._metrics.member_runs.labels(self._agent, outcome).inc()

    def unmapped(self, kind: str) -> None:
        """An event that is not known."""
        self._metrics.unmapped.labels(self._metrics.name("event", kind)).inc()

    def called(self, call: ModelCall) -> None:
        """A call of a model has ended. To be told once."""
        metrics, agent = self._metrics, self._agent
        provider, model = metrics.name("provider", call.provider), metrics.name("model", call.model)
        metrics.model_calls.labels(agent, provider, model, call.status.value).inc()
        metrics.model_seconds.labels(provider, model).observe(call.duration.total_seconds())
        if call.time_to_first_token is not None:
            metrics.first_token.labels(provider, model).observe(call.time_to_first_token.total_seconds())
        if call.status is CallStatus.FAILED:
            metrics.model_failures.labels(provider, model, call.failure or "UNKNOWN").inc()
        if call.attempt > 1:
            metrics.model_retries.labels(provider, model).inc(call.attempt - 1)
        for kind, count in TOKENS.items():
            if tokens := count(call.usage):
                metrics.tokens.labels(agent, model, kind).inc(tokens)
        # Also when there is nothing to add: of a series that begins with its first call nobody sees that it has grown.
        metrics.unpriced.labels(agent, model).inc(1 if call.cost is None else 0)
        if call.cost is not None:
            metrics.cost.labels(agent, model, call.cost.currency).inc(float(call.cost.amount))

    def ended(self, outcome: str, reason: str) -> None:
        """It is over here."""
        metrics = self._metrics
        metrics._queued.pop(self, None)  # noqa: SLF001 - its own
        metrics.runs_active.dec()
        metrics.runs_ended.labels(self._agent, outcome, reason).inc()
        if self._began is not None:
            metrics.run_seconds.labels(self._agent).observe(time.monotonic() - self._began)
