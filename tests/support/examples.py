"""What Hypothesis is told where all examples of a test share a fixture, such as a database."""

from typing import Any

from hypothesis import HealthCheck, settings


def on_one_fixture(max_examples: int = 25, **more: Any) -> settings:
    """As many examples, each as slow as the machine is; each has to bring what is its own into the fixture."""
    return settings(
        max_examples=max_examples,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
        **more,
    )
