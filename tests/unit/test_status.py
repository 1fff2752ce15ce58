"""The error table: complete, and its details small enough to arrive."""

from datetime import UTC, datetime, timedelta

import pytest
from google.rpc import code_pb2, error_details_pb2

from dragoman import errors
from dragoman.errors import DragomanError, InvalidInput, Violation
from dragoman.status import CODES, DOMAIN, MAX_DETAILS, code_of, to_status

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)

EXAMPLES: list[DragomanError] = [
    errors.InvalidInput([Violation("a", "b")]),
    errors.InvalidMedia([Violation("a", "b")]),
    errors.MediaTooLarge([Violation("a", "b")]),
    errors.PageTokenInvalid(),
    errors.AgentNotFound("a"),
    errors.SessionNotFound("s"),
    errors.RunNotFound("r"),
    errors.SessionBusy("s", "r"),
    errors.RequestIdReused("q"),
    errors.RunNotPaused("r", "running"),
    errors.RunNotResumable("r"),
    errors.EventsTrimmed("r", 17),
    errors.TooManyRuns(3),
    errors.TooManyRuns(3, "s"),
    errors.TooManyRuns(3, principal="p"),
    errors.TooManyStreams(3),
    errors.TooManyStreams(3, principal="p"),
    errors.RateLimited(2.5, 0.1234),
    errors.RateLimited(200.0, 1 / 3, principal="p"),
    errors.MediaNotFound("00ff"),
    errors.Unauthenticated(),
    errors.PermissionDenied("scope run"),
    errors.BudgetExceeded("agent a", "day", "ZAR 5", NOON + timedelta(hours=12), now=NOON),
    errors.IdentityUnavailable(),
    errors.StorageUnavailable(),
    errors.ModelUnavailable("TIMEOUT", "the model did not answer", status=504, provider="P"),
    errors.AgentFailed("a"),
    errors.GuardrailRefused("a", "input", "pii_detected"),
    errors.Draining(),
    errors.Draining("r", 12),
    errors.Internal("i"),
]


def all_errors() -> set[type[DragomanError]]:
    found: set[type[DragomanError]] = set()
    waiting: list[type[DragomanError]] = [DragomanError]
    while waiting:
        for child in waiting.pop().__subclasses__():
            if child.__module__ == errors.__name__:
                found.add(child)
                waiting.append(child)
    return found


def info_of(status: object) -> error_details_pb2.ErrorInfo:
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)  # type: ignore[attr-defined]  # google.rpc has no types
    return info


def test_the_table_covers_every_error_and_only_those() -> None:
    assert set(CODES) == all_errors()
    assert {type(example) for example in EXAMPLES} == all_errors()


def test_reasons_are_upper_snake_and_unique() -> None:
    reasons = [error.reason for error in all_errors()]
    assert len(set(reasons)) == len(reasons)
    assert all(reason.replace("_", "").isalpha() and reason.isupper() for reason in reasons)


def test_codes_are_errors() -> None:
    assert code_pb2.OK not in CODES.values()
    assert set(CODES.values()) <= set(code_pb2.Code.values())


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: str(error.reason))
def test_every_error_has_info_and_a_sentence(error: DragomanError) -> None:
    status = to_status(error)
    info = info_of(status)
    assert (status.code, status.message) == (code_of(error), error.message)
    assert (info.reason, info.domain, dict(info.metadata)) == (error.reason, DOMAIN, dict(error.metadata))
    assert status.message
    for value in error.metadata.values():
        if error.reason not in ("MODEL_UNAVAILABLE", "GUARDRAIL_REFUSED", "SESSION_BUSY"):
            assert value in status.message


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda error: str(error.reason))
def test_what_can_be_retried_says_when(error: DragomanError) -> None:
    retries = [
        detail for detail in to_status(error).details if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR)
    ]
    assert len(retries) == (error.retry_after is not None)
    if retries:
        info = error_details_pb2.RetryInfo()
        retries[0].Unpack(info)
        assert info.retry_delay.ToTimedelta().total_seconds() == error.retry_after


LARGE = [
    [Violation(f"inputs.field_{n}", "must be something else") for n in range(5000)],
    [Violation("f" * 10_000, "d" * 100_000)] * 50,
    [Violation("ü" * 1000, "€" * 1000)] * 20,
    [Violation("f", "d" * 3000)],
]


@pytest.mark.parametrize("violations", LARGE)
def test_details_stay_small_and_nothing_is_left_out_unsaid(violations: list[Violation]) -> None:
    status = to_status(InvalidInput(violations, agent_name="n" * 10_000))
    assert sum(len(detail.value) for detail in status.details) <= MAX_DETAILS
    assert status.ByteSize() < 8 * 1024 - 512  # what gRPC carries for certain
    bad = error_details_pb2.BadRequest()
    assert status.details[1].Unpack(bad)
    assert bad.field_violations
    assert all(told.description for told in bad.field_violations)
    omitted = int(info_of(status).metadata["omitted_violations"] or 0)
    assert len(bad.field_violations) + omitted == len(violations)
