"""What the server says of itself: structured logs, figures for Prometheus, spans for OpenTelemetry."""

from dragoman.telemetry.endpoint import CannotServeMetrics
from dragoman.telemetry.logs import configure_logging

__all__ = ["CannotServeMetrics", "configure_logging"]
