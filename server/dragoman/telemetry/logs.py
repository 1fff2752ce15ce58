"""Structured logs: one line per happening, JSON for machines or coloured text for people.

Rooms log through the standard `logging` with `extra=` fields; structlog only formats. Content (prompts, answers, tool
results) and secrets are never passed to a logger by the server itself. Three things would bring them in all the same, and
are seen to here:

    local variables      a traceback shows where and what was raised, never the variables on the way
    a provider's words   what a model provider says of a request that it refuses may quote it: the kind and the HTTP status of
                         the failure are kept; the words (`error_text`) appear at level DEBUG only
    a library's words    Agno quotes tool calls and what tools raise: of its warnings and errors, where they were said
                         and what was raised where is kept; the words themselves appear at level DEBUG only

Lines that are written within a call or a run say of which (request id, run id, principal), and of which trace. Whatever looks
like a secret is masked on every line all the same (`redaction`): a library may say more than it should.

Chatter of libraries below WARNING is dropped at every level: an agent in debug mode makes Agno log whole prompts.
"""

import copy
import logging
import sys
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Literal

import structlog

from dragoman import observing
from dragoman.telemetry.redaction import redact, redact_text


def _in_context(
    _logger: object, _method: str, event: structlog.typing.EventDict, /
) -> structlog.typing.EventDict:
    """Says of which call, run and trace the line is. What the line itself says wins."""
    for key, value in observing.bound().items():
        event.setdefault(key, value)
    return event


def _without_secrets(
    _logger: object, _method: str, event: structlog.typing.EventDict, /
) -> structlog.typing.EventDict:
    raised = event.pop("exc_info", None)
    plain: structlog.typing.EventDict = redact(event)
    if raised is not None:
        plain["exc_info"] = raised  # becomes text only when the line is made
    return plain


def _text_without_secrets(_logger: object, _method: str, line: Any, /) -> str:
    """Once more when the line is made: tracebacks are only written into it then."""
    return redact_text(str(line))


_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    _in_context,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)

_AGNO = ("agno", "agno-team", "agno-workflow")
"""Agno's loggers. It sets their levels itself, again and again, as agents run."""

_QUIET = (*_AGNO, "anthropic", "httpx", "httpx2", "httpcore", "alembic", "sqlalchemy", "asyncio", "grpc")
"""Libraries that are heard from WARNING on only: some of them write content at lower levels."""

_COMPLAINERS = ("opentelemetry",)

COMPLAINT_INTERVAL = 60.0
"""Seconds between two equal complaints of those."""

_UNQUOTED = "(shown at level DEBUG)"
_WORDLESS = "a library reported a problem (its words are shown at level DEBUG)"


def configure_logging(level: str, form: Literal["auto", "json", "text"], worker: int | None = None) -> None:
    """Sends all logs to standard error. `auto`: text on a terminal, JSON elsewhere. `worker`: put on every line."""
    shared: tuple[structlog.typing.Processor, ...] = (
        _SHARED if worker is None else (*_SHARED, _Worker(worker))
    )
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    last: tuple[structlog.typing.Processor, ...]
    if text:
        last = (
            _without_secrets,
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
            ),
            _text_without_secrets,
        )
    else:
        stacks = structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
        last = (
            structlog.processors.ExceptionRenderer(stacks),
            _without_secrets,
            structlog.processors.JSONRenderer(default=str),
        )
    handler = _Discreet(words=level == "DEBUG")
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=(structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last),
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
    for name in _AGNO:
        # A logger that has a level keeps what it is given here when Agno is imported later.
        library = logging.getLogger(name)
        library.handlers = []
        library.propagate = True


class _Worker:
    """Says on every line which of several processes has written it."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(
        self, logger: object, method: str, event: structlog.typing.EventDict, /
    ) -> structlog.typing.EventDict:
        event.setdefault("worker", self._number)
        return event


class _Discreet(logging.StreamHandler):  # type: ignore[type-arg]  # generic for type checkers only
    """Writes to standard error what may be written there. `words`: whether Agno's own may."""

    def __init__(self, *, words: bool) -> None:
        super().__init__(sys.stderr)
        self._words = words
        self._complaints = _Complaints()

    def emit(self, record: logging.LogRecord) -> None:
        """Writes the record, drops it, or writes what is left of it."""
        if record.levelno < logging.WARNING and _is_of(record, _QUIET):
            return
        if _is_of(record, _COMPLAINERS) and not self._complaints.heard(record):
            return
        if not self._words:
            if _is_of(record, _AGNO):
                record = _wordless(record)
            elif "error_text" in record.__dict__:
                record = copy.copy(record)
                record.__dict__["error_text"] = _UNQUOTED
        super().emit(record)


class _Complaints:
    """A collector that is away is no news: of each of its libraries' complaints one in a while is enough."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._last: dict[tuple[str, int], float] = {}

    def heard(self, record: logging.LogRecord) -> bool:
        """Whether it is written."""
        place, now = (record.name, record.lineno), self._now()
        if now - self._last.get(place, float("-inf")) < COMPLAINT_INTERVAL:
            return False
        self._last[place] = now
        return True


def _is_of(record: logging.LogRecord, names: tuple[str, ...]) -> bool:
    return record.name.partition(".")[0] in names


def _wordless(record: logging.LogRecord) -> logging.LogRecord:
    """The record without its message: who said it where, and what exception was being handled."""
    kind, _, trace = record.exc_info or sys.exc_info()
    plain = copy.copy(record)
    plain.msg, plain.args = _WORDLESS, None
    plain.exc_info = plain.exc_text = plain.stack_info = None
    plain.__dict__["reported_at"] = _speaker(sys._getframe())  # noqa: SLF001 - as `logging` itself finds its callers
    if kind is not None:
        plain.__dict__["exception_class"] = kind.__qualname__
        plain.__dict__["raised_at"] = _origin(trace)
    return plain


def _speaker(frame: FrameType | None) -> str:
    """The place that called Agno's functions for logging."""
    ours = ("logging", "agno.utils.log", __name__)
    while frame is not None and str(frame.f_globals.get("__name__", "")).startswith(ours):
        frame = frame.f_back
    return "" if frame is None else _place(frame, frame.f_lineno)


def _origin(trace: TracebackType | None) -> str:
    """The innermost place of a traceback."""
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else _place(trace.tb_frame, trace.tb_lineno)


def _place(frame: FrameType, line: int) -> str:
    return f"{frame.f_globals.get('__name__', '?')}:{line} in {frame.f_code.co_name}"
