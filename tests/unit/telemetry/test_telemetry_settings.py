"""What the settings of telemetry may be, and what becomes of them in several workers."""

from typing import Any

import pytest
from pydantic import ValidationError

from dragoman.cli._workers import settings_of
from dragoman.config import Settings

WRONG: list[tuple[str, dict[str, Any]]] = [
    ("port", {"metrics_port": 65536}),
    ("ports-of-workers", {"metrics_port": 65534, "workers": 3}),
    ("endpoint-without-scheme", {"otlp_endpoint": "collector:4317"}),
    ("endpoint-of-another-kind", {"otlp_endpoint": "file:///etc/passwd"}),
    ("endpoint-with-credentials", {"otlp_endpoint": "http://user:Xyzzy@collector:4317"}),
    ("headers", {"otlp_headers": "Xyzzy"}),
    ("header-name", {"otlp_headers": "a b=Xyzzy"}),
    ("ratio", {"trace_sample_ratio": 1.5}),
    ("name", {"service_name": ""}),
]


@pytest.mark.parametrize("wrong", [case[1] for case in WRONG], ids=[case[0] for case in WRONG])
def test_what_cannot_be_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        Settings(**wrong)
    assert all("Xyzzy" not in str(error["msg"]) for error in caught.value.errors())


def test_headers_are_taken_apart_and_not_shown() -> None:
    settings = Settings(otlp_headers="Authorization=Bearer a=b, x-tenant = blue ,")
    assert settings.otlp_metadata == {"authorization": "Bearer a=b", "x-tenant": "blue"}
    assert "Bearer" not in repr(settings)


@pytest.mark.parametrize(
    ("port", "ports"), [(9464, [9464, 9465, 9466]), (0, [0, 0, 0]), (None, [None, None, None])], ids=str
)
def test_each_worker_has_its_own_port(port: int | None, ports: list[int | None]) -> None:
    settings = Settings(metrics_port=port, workers=3)
    assert [settings_of(number, settings).metrics_port for number in (1, 2, 3)] == ports
