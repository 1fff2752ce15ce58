"""`dragoman health` against a real health service."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

STATUS = health_pb2.HealthCheckResponse


@pytest.fixture
def address() -> Iterator[str]:
    """A server whose process lives, and which is not ready."""
    servicer = health.HealthServicer()
    servicer.set("", STATUS.NOT_SERVING)
    servicer.set("liveness", STATUS.SERVING)
    server = grpc.server(ThreadPoolExecutor(2))
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


@pytest.mark.parametrize(
    ("arguments", "shown", "code"),
    [([], "NOT_SERVING\n", 1), (["--service", "liveness"], "SERVING\n", 0)],
    ids=["as a whole", "liveness"],
)
def test_it_says_how_a_server_is(
    dragoman: Any, address: str, arguments: list[str], shown: str, code: int
) -> None:
    result = dragoman("health", "-s", address, *arguments)
    assert (result.stdout, result.exit_code) == (shown, code)


def test_a_service_that_is_not_there(dragoman: Any, address: str) -> None:
    result = dragoman("health", "-s", address, "--service", "nobody.Service")
    assert result.exit_code == 1
    assert "error" in result.stderr


def test_nobody_answers(dragoman: Any) -> None:
    result = dragoman("health", "-s", "127.0.0.1:9")
    assert result.exit_code == 1
    assert "no server answers" in result.stderr
