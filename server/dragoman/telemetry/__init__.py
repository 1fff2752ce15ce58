"""What the server says of itself: structured logs."""

from dragoman.telemetry.logs import configure_logging

__all__ = ["configure_logging"]
