"""Failures as errors for callers: the right kind, and never a word of the provider or the exception."""

import logging
from collections.abc import Callable
from typing import Any

import anthropic
import httpx
import httpx2
import pytest
from agno import exceptions as agno_errors
from agno.agent import Agent
from agno.models.anthropic import Claude
from agno.run.agent import RunErrorEvent, run_output_event_from_dict
from agno.utils.events import error_type_of

from dragoman import status
from dragoman.adapter import failures
from dragoman.errors import (
    AgentFailed,
    DragomanError,
    GuardrailRefused,
    Internal,
    ModelUnavailable,
    RunNotFound,
)
from dragoman.testing.scripted import ScriptedModel

SECRET = "sk-ant-api03-abcdefghijklmnop"
REQUEST = httpx2.Request("POST", "https://api.example.org/v1/messages")


def classify(
    error_type: str | None = None,
    message: str | None = None,
    exc: BaseException | None = None,
    status: int | None = None,
) -> DragomanError:
    return failures.classify(error_type, message, exc, status=status, provider="Anthropic", agent_name="lead")


def api_error(code: int, kind: str = "", headers: dict[str, str] | None = None) -> anthropic.APIStatusError:
    """What the SDK raises for a response."""
    body = {"type": "error", "error": {"type": kind, "message": SECRET}} if kind else None
    response = httpx2.Response(code, json=body, headers=headers, request=REQUEST)
    client = anthropic.AsyncAnthropic(api_key="k")
    return client._make_status_error(f"Error code: {code} - {body}", body=body, response=response)


def as_agno(error: Exception) -> Exception:
    """What Agno's Claude makes of it."""
    with pytest.raises(agno_errors.ModelProviderError) as caught:
        Claude(id="claude-x")._handle_api_error(error)
    return caught.value


PROVIDER_ERRORS: list[tuple[Callable[[], Exception], str, int | None]] = [
    (lambda: api_error(401, "authentication_error"), "AUTHENTICATION", 401),
    (lambda: api_error(403, "permission_error"), "AUTHENTICATION", 403),
    (lambda: api_error(402, "billing_error"), "AUTHENTICATION", 402),
    (lambda: api_error(429, "rate_limit_error"), "RATE_LIMITED", 429),
    (lambda: api_error(429), "RATE_LIMITED", 429),
    (lambda: api_error(529, "overloaded_error"), "OVERLOADED", 529),
    (lambda: api_error(529), "OVERLOADED", 529),
    (lambda: api_error(503), "OVERLOADED", 503),
    (lambda: api_error(400, "invalid_request_error"), "INVALID_REQUEST", 400),
    (lambda: api_error(404, "not_found_error"), "INVALID_REQUEST", 404),
    (lambda: api_error(413, "request_too_large"), "INVALID_REQUEST", 413),
    (lambda: api_error(422), "INVALID_REQUEST", 422),
    (lambda: api_error(408), "TIMEOUT", 408),
    (lambda: api_error(504, "timeout_error"), "TIMEOUT", 504),
    (lambda: api_error(500, "api_error"), "SERVER_ERROR", 500),
    (lambda: api_error(502), "SERVER_ERROR", 502),
    (lambda: api_error(200, "overloaded_error"), "OVERLOADED", None),
    (lambda: api_error(200, "api_error"), "SERVER_ERROR", None),
    (lambda: anthropic.APITimeoutError(REQUEST), "TIMEOUT", None),
    (lambda: anthropic.APIConnectionError(request=REQUEST), "CONNECTION", None),
    (lambda: httpx2.ReadTimeout(""), "TIMEOUT", None),
    (lambda: httpx2.RemoteProtocolError("peer closed connection"), "CONNECTION", None),
    (lambda: httpx2.ReadError(""), "CONNECTION", None),
    (lambda: httpx.ConnectError("refused"), "CONNECTION", None),
    (lambda: httpx.PoolTimeout(""), "TIMEOUT", None),
]


@pytest.mark.parametrize(("make", "kind", "code"), PROVIDER_ERRORS)
@pytest.mark.parametrize("seen_as", ["raw", "wrapped", "event and cause"])
def test_providers(make: Callable[[], Exception], kind: str, code: int | None, seen_as: str) -> None:
    raw = make()
    wrapped = as_agno(raw)
    error = {
        "raw": lambda: classify(exc=raw),
        "wrapped": lambda: classify(exc=wrapped),
        "event and cause": lambda: classify(error_type_of(wrapped), str(wrapped), raw, code),
    }[seen_as]()

    assert isinstance(error, ModelUnavailable)
    assert error.kind == kind
    assert error.metadata.get("http_status") == (str(code) if code else None)
    assert error.metadata["provider"] == "Anthropic"
    assert error.message == failures.SENTENCES[kind]
    assert (error.retry_after is None) == (kind in ("AUTHENTICATION", "INVALID_REQUEST"))
    assert SECRET.encode() not in status.to_status(error).SerializeToString()


@pytest.mark.parametrize(
    ("make", "kind"),
    [(make, kind) for make, kind, _ in PROVIDER_ERRORS if str(make())],
)
def test_what_is_left_in_agnos_event_alone(make: Callable[[], Exception], kind: str) -> None:
    wrapped = as_agno(make())
    error = classify(error_type_of(wrapped), str(wrapped))

    assert isinstance(error, ModelUnavailable)
    assert error.kind in (kind, "UNKNOWN")
    assert error.kind == kind or str(wrapped) == "refused", "only a text without any hint is unknown"


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (("model_provider_error", ""), "CONNECTION"),
        (("model_provider_error", None), "CONNECTION"),
        (("model_provider_error", "", None, 529), "OVERLOADED"),
        (("model_provider_error", "x", None, 200), "UNKNOWN"),
        (("model_provider_error", "Request timed out."), "TIMEOUT"),
        (("model_provider_error", "Server disconnected without sending a response."), "CONNECTION"),
        (("model_provider_error", "incomplete chunked read"), "CONNECTION"),
        (("model_provider_error", "something odd"), "UNKNOWN"),
        (
            ("model_authentication_error", "no key", agno_errors.ModelAuthenticationError("no key")),
            "AUTHENTICATION",
        ),
        ((None, None, agno_errors.ModelRateLimitError("slow down")), "RATE_LIMITED"),
        ((None, None, agno_errors.ModelRateLimitError("busy", status_code=529)), "OVERLOADED"),
        ((None, None, agno_errors.ContextWindowExceededError("too long")), "INVALID_REQUEST"),
        ((None, None, agno_errors.ModelProviderError("odd")), "UNKNOWN"),
        (("ValueError", "odd", None, 500), "SERVER_ERROR"),
    ],
)
def test_models_by_other_signs(args: tuple[Any, ...], kind: str) -> None:
    error = classify(*args)

    assert isinstance(error, ModelUnavailable)
    assert error.kind == kind


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("7", 7.0),
        ("0.5", 0.5),
        ("100000", 300.0),
        ("-3", 0.0),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 5.0),
        (None, 5.0),
    ],
)
def test_the_provider_says_when_to_retry(header: str | None, expected: float) -> None:
    raw = api_error(429, "rate_limit_error", {"retry-after": header} if header else None)

    assert classify(exc=as_agno(raw)).retry_after == expected


def _raised(make: Callable[[], Any]) -> BaseException:
    with pytest.raises(Exception) as caught:
        make()
    return caught.value


def test_guardrails() -> None:
    word = agno_errors.InputCheckError(SECRET, check_trigger=agno_errors.CheckTrigger.PII_DETECTED)
    odd = agno_errors.OutputCheckError(SECRET, check_trigger=SECRET)  # type: ignore[arg-type]  # authors do

    stopped, refused = classify(exc=word), classify("output_check_error", SECRET, odd)
    assert isinstance(stopped, GuardrailRefused)
    assert stopped.message == "a guardrail of agent 'lead' refused the input"
    assert stopped.metadata == {"agent_name": "lead", "stage": "input", "trigger": "pii_detected"}
    assert isinstance(refused, GuardrailRefused)
    assert refused.message == "a guardrail of agent 'lead' refused the answer"
    assert refused.metadata == {"agent_name": "lead", "stage": "output"}
    assert isinstance(classify("input_check_error", SECRET), GuardrailRefused)


@pytest.mark.parametrize(
    ("error_type", "exc"),
    [
        ("ValueError", None),
        ("ValueError", ValueError(SECRET)),
        ("ConnectError", httpx.ConnectError(SECRET)),
        ("TimeoutError", TimeoutError()),
        ("agent_run_error", agno_errors.StopAgentRun(SECRET)),
        ("embedding_error", agno_errors.EmbeddingError(SECRET)),
        (None, _raised(lambda: [][1])),
        (None, _raised(lambda: int("x"))),
    ],
)
def test_the_agents_own_code(error_type: str | None, exc: BaseException | None) -> None:
    error = classify(error_type, SECRET, exc)

    assert isinstance(error, AgentFailed)
    assert error.message == "agent 'lead' failed in its own code"


@pytest.mark.parametrize(
    ("error_type", "exc"),
    [
        (None, None),
        (None, RuntimeError(SECRET)),
        ("agno_error", None),
        (None, agno_errors.AgnoError(SECRET)),
        (None, _raised(lambda: run_output_event_from_dict({"event": "no such event"}))),
        (None, _raised(lambda: status.code_of(object()))),  # type: ignore[arg-type]  # a defect of ours
    ],
)
def test_anything_else_is_internal(
    error_type: str | None, exc: BaseException | None, caplog: pytest.LogCaptureFixture
) -> None:
    error = classify(error_type, None, exc)

    assert isinstance(error, Internal)
    (record,) = caplog.records
    assert record.__dict__["incident_id"] == error.metadata["incident_id"]


def test_our_own_errors_pass() -> None:
    ours = RunNotFound("x")
    around = RuntimeError("around it")
    around.__cause__ = ours

    assert classify("RuntimeError", "x", around) is ours


def test_a_ring_of_causes_ends() -> None:
    one, two = ValueError("1"), ValueError("2")
    one.__cause__, two.__cause__ = two, one

    assert isinstance(classify("ValueError", None, one), AgentFailed)


@pytest.mark.parametrize(
    ("exc", "message"),
    [
        (as_agno(api_error(401, "authentication_error")), "the model call failed"),
        (agno_errors.InputCheckError(f"no {SECRET}"), "a guardrail refused"),
        (_raised(lambda: int(SECRET)), "the agent failed in its own code"),
    ],
)
def test_the_log_has_the_text_once_without_credentials(
    exc: BaseException, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, failures.__name__):
        classify(None, None, exc)

    (record,) = [r for r in caplog.records if r.name == failures.__name__]
    assert record.getMessage() == message
    assert record.__dict__["agent_name"] == "lead"
    assert "[redacted]" in record.__dict__["error_text"]
    assert SECRET not in record.__dict__["error_text"]


def _raise(*_: object) -> str:
    raise ValueError(SECRET)


def _refuse(run_input: object) -> None:
    raise agno_errors.InputCheckError(SECRET, check_trigger=agno_errors.CheckTrigger.OFF_TOPIC)


@pytest.mark.parametrize(
    ("values", "expected"),
    [({"instructions": _raise}, AgentFailed), ({"pre_hooks": [_refuse]}, GuardrailRefused)],
)
async def test_agents_that_really_fail(values: dict[str, Any], expected: type[DragomanError]) -> None:
    agent = Agent(model=ScriptedModel(turns=[["Yes"]]), telemetry=False, **values)
    events = [event async for event in agent.arun("Hi", stream=True, stream_events=True)]

    (failed,) = [event for event in events if isinstance(event, RunErrorEvent)]
    assert failed.content == SECRET
    error = classify(failed.error_type, failed.content)
    assert isinstance(error, expected)
    assert SECRET.encode() not in status.to_status(error).SerializeToString()
