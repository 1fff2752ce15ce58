"""Errors are read from google.rpc.Status, and survive what is missing, unknown or damaged in it."""

from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from support.statuses import packed

from dragoman import errors, status
from dragoman.client import (
    DeadlineExceeded,
    Dragoman,
    DragomanError,
    InvalidInput,
    NotFound,
    RetryPolicy,
    Unavailable,
    Violation,
    from_status,
)
from dragoman.client._errors import from_rpc


def make(code: int, *details: Message) -> status_pb2.Status:
    return packed(code, "a sentence", *details)


async def test_all_details_over_the_wire(services: Any) -> None:
    services.agents.failures = [
        make(
            code_pb2.INVALID_ARGUMENT,
            error_details_pb2.ErrorInfo(reason="INVALID_INPUT", domain="dragoman", metadata={"agent": "a"}),
            error_details_pb2.BadRequest(
                field_violations=[
                    error_details_pb2.BadRequest.FieldViolation(field="inputs.a", description="too long"),
                    error_details_pb2.BadRequest.FieldViolation(field="inputs.b[1]", description="missing"),
                ]
            ),
            error_details_pb2.RetryInfo(retry_delay=Duration(seconds=1, nanos=500_000_000)),
            error_details_pb2.Help(),
        )
    ]
    async with Dragoman(services.address) as client:
        with pytest.raises(InvalidInput) as caught:
            await client.list_agents()
    error = caught.value
    assert (error.code, error.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_INPUT")
    assert (error.message, error.metadata, error.retry_after) == ("a sentence", {"agent": "a"}, 1.5)
    assert error.violations == (Violation("inputs.a", "too long"), Violation("inputs.b[1]", "missing"))
    assert str(error) == "a sentence [INVALID_INPUT]"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
        (grpc.StatusCode.NOT_FOUND, NotFound),
        (grpc.StatusCode.UNAVAILABLE, Unavailable),
        (grpc.StatusCode.DEADLINE_EXCEEDED, DeadlineExceeded),
        (grpc.StatusCode.FAILED_PRECONDITION, DragomanError),
        (grpc.StatusCode.INTERNAL, DragomanError),
        (grpc.StatusCode.CANCELLED, DragomanError),
    ],
)
async def test_a_bare_code(services: Any, code: grpc.StatusCode, kind: type[DragomanError]) -> None:
    services.agents.failures = [code]
    async with Dragoman(services.address, retry=None) as client:
        with pytest.raises(DragomanError) as caught:
            await client.list_agents()
    assert type(caught.value) is kind
    assert (caught.value.code, caught.value.message, caught.value.reason) == (code, "not now", "")
    assert (caught.value.violations, caught.value.retry_after) == ((), None)


async def test_nobody_there() -> None:
    async with Dragoman("127.0.0.1:1", retry=RetryPolicy(attempts=2)) as client:
        with pytest.raises(Unavailable) as caught:
            await client.create_session("example")
    assert caught.value.reason == ""


@pytest.mark.parametrize("damaged", [b"\xff\xff\xff", make(code_pb2.NOT_FOUND).SerializeToString()])
def test_damaged_details_leave_code_and_sentence(damaged: bytes) -> None:
    trailing = grpc.aio.Metadata(("grpc-status-details-bin", damaged))
    error = from_rpc(
        grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), trailing, details="a sentence")
    )
    assert (error.code, error.message, error.reason) == (grpc.StatusCode.INTERNAL, "a sentence", "")


def test_a_code_of_the_future() -> None:
    assert from_status(status_pb2.Status(code=99, message="m")).code is grpc.StatusCode.UNKNOWN


@pytest.mark.parametrize(
    ("server", "kind"),
    [
        (errors.AgentNotFound("nobody"), NotFound),
        (errors.InvalidMedia([errors.Violation("media[0].data", "is no picture")]), InvalidInput),
        (errors.SessionBusy("s", "r"), DragomanError),
        (errors.StorageUnavailable(), Unavailable),
    ],
)
def test_what_the_server_says_is_what_the_client_reads(
    server: errors.DragomanError, kind: type[DragomanError]
) -> None:
    error = from_status(status.to_status(server))
    assert type(error) is kind
    assert (error.reason, error.message, error.metadata) == (server.reason, server.message, server.metadata)
    assert error.retry_after == server.retry_after
    if isinstance(server, errors.InvalidInput):
        assert [(each.field, each.description) for each in error.violations] == [
            (each.field, each.description) for each in server.violations
        ]
