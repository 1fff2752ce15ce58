"""Structured logs: one line per happening, JSON for machines or coloured text for people.

Rooms log through the standard `logging` with `extra=` fields; structlog only formats. Content (prompts, answers, tool
results) and secrets are never passed to a logger, so nothing has to be filtered out here.
"""

import logging
import sys
from typing import Literal

import structlog

_SHARED: tuple[structlog.typing.Processor, ...] = (
    structlog.stdlib.add_log_level,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.ExtraAdder(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)

_QUIET = ("agno", "anthropic", "httpx", "httpx2", "httpcore", "alembic", "sqlalchemy", "asyncio", "grpc")
"""Libraries that are heard from WARNING on only: some of them write content at lower levels."""


def configure_logging(level: str, form: Literal["auto", "json", "text"]) -> None:
    """Sends all logs to standard error. `auto`: text on a terminal, JSON elsewhere."""
    text = form == "text" or (form == "auto" and sys.stderr.isatty())
    last: tuple[structlog.typing.Processor, ...]
    if text:
        last = (structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),)
    else:
        last = (structlog.processors.dict_tracebacks, structlog.processors.JSONRenderer(default=str))
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=(structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last),
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level)
    for name in _QUIET:
        logging.getLogger(name).setLevel(max(logging.WARNING, root.level))
