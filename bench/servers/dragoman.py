"""Dragoman as `dragoman serve` runs it: default settings but for the port and where the data lies."""

from collections.abc import Callable
from pathlib import Path

from dragoman import process
from dragoman.config import Settings
from dragoman.telemetry import configure_logging


def serve(directory: Path, ready: Callable[[str], None]) -> None:
    """Every event and message goes to SQLite with `synchronous=FULL`; the log goes to standard error."""
    settings = Settings(
        agents=("bench.agents:BenchAgent",),
        entry_points=False,
        port=0,
        database_url=f"sqlite:///{directory / 'dragoman.db'}",
    )
    configure_logging(settings.log_level, settings.log_format)
    process.run(settings, migrate=True, started=lambda info: ready(info.address))
