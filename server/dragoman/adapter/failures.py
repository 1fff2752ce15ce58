"""What went wrong in a run, as an error that a caller may see.

Agno tells of a failure with a word and the exception's text, sometimes with neither. This module finds out which of
four things it was, in this order, and words it anew:

    a model provider refused, failed, dropped or hung    ModelUnavailable, with a kind and the HTTP status
    a guardrail of the agent refused                     GuardrailRefused
    the agent's own code raised                          AgentFailed
    anything else                                        Internal, with an incident id

Texts of providers and exceptions never go into the error. They are logged here, once, credentials blanked.

A model's failure is known by its HTTP status, by Agno's word for it, by one of Agno's or Anthropic's classes among
the exception and its causes, or by an HTTP client's class where Agno gave no word: Agno's models wrap what their
clients raise, so a bare `ConnectError` with that very word is of a hook or tool that called some other service.
"""

import logging
import re
import sys
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from types import TracebackType

from agno import exceptions as agno_errors
from agno.utils.events import error_type_of

from dragoman.adapter.values import clean
from dragoman.errors import AgentFailed, DragomanError, GuardrailRefused, Internal, ModelUnavailable
from dragoman.ids import new_id

logger = logging.getLogger(__name__)

AUTHENTICATION = "AUTHENTICATION"
RATE_LIMITED = "RATE_LIMITED"
OVERLOADED = "OVERLOADED"
INVALID_REQUEST = "INVALID_REQUEST"
TIMEOUT = "TIMEOUT"
CONNECTION = "CONNECTION"
SERVER_ERROR = "SERVER_ERROR"
UNKNOWN = "UNKNOWN"

SENTENCES: Mapping[str, str] = {
    AUTHENTICATION: "the model provider did not accept the server's credentials",
    RATE_LIMITED: "the model provider limits the rate of requests",
    OVERLOADED: "the model provider is overloaded",
    INVALID_REQUEST: "the model provider did not accept the request",
    TIMEOUT: "the model provider did not answer in time",
    CONNECTION: "the connection to the model provider broke",
    SERVER_ERROR: "the model provider failed",
    UNKNOWN: "the model call failed",
}
"""What a caller is told, by kind."""

RETRY_AFTER: Mapping[str, float] = {
    RATE_LIMITED: 5.0,
    OVERLOADED: 5.0,
    TIMEOUT: 1.0,
    CONNECTION: 1.0,
    SERVER_ERROR: 1.0,
}
"""Seconds after which a retry makes sense, unless the provider says otherwise; other kinds would fail again."""

MAX_RETRY_AFTER = 300.0
MAX_LOGGED_TEXT = 2000

_BY_STATUS: Mapping[int, str] = {
    401: AUTHENTICATION,
    402: AUTHENTICATION,
    403: AUTHENTICATION,
    408: TIMEOUT,
    429: RATE_LIMITED,
    503: OVERLOADED,
    504: TIMEOUT,
    529: OVERLOADED,
}

_BY_PROVIDER_TYPE: Mapping[str, str] = {
    "authentication_error": AUTHENTICATION,
    "permission_error": AUTHENTICATION,
    "billing_error": AUTHENTICATION,
    "rate_limit_error": RATE_LIMITED,
    "overloaded_error": OVERLOADED,
    "invalid_request_error": INVALID_REQUEST,
    "not_found_error": INVALID_REQUEST,
    "request_too_large": INVALID_REQUEST,
    "timeout_error": TIMEOUT,
    "api_error": SERVER_ERROR,
}
"""Anthropic's `error.type`. It outranks the status, which is 200 when a stream breaks off with an error event."""

_BY_CLASS: Mapping[str, str] = {
    "ModelAuthenticationError": AUTHENTICATION,
    "ContextWindowExceededError": INVALID_REQUEST,
    "APITimeoutError": TIMEOUT,
    "TimeoutException": TIMEOUT,
    "APIConnectionError": CONNECTION,
    "TransportError": CONNECTION,
    "StreamError": CONNECTION,
}
"""Classes by name, looked up along the MRO, so that none of their libraries need be imported."""

_BY_WORDS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"timed? ?out", re.IGNORECASE), TIMEOUT),
    (re.compile(r"connection|peer closed|disconnect|chunked read|stream ended", re.IGNORECASE), CONNECTION),
)
"""For a text that is all there is: what Agno keeps of its cause when the exception is out of reach."""

_STATUS_IN_TEXT = re.compile(r"\bError code: (\d{3})\b")
_TYPE_IN_TEXT = re.compile(r"""['"]type['"]: ?['"](\w+)['"]""")

_MODEL_WORDS = frozenset({"model_provider_error", "model_authentication_error"})
_GUARDRAIL_STAGES: Mapping[str, str] = {"input_check_error": "input", "output_check_error": "output"}
_AGNO_WORDS = frozenset({"agno_error"})
_MODEL_CLASSES = (agno_errors.ModelProviderError, agno_errors.ModelAuthenticationError)
_GUARDRAIL_CLASSES = (agno_errors.InputCheckError, agno_errors.OutputCheckError)
_OUR_MODULES = frozenset({"agno", "anthropic", "dragoman"})
_USER_MODULES = ("dragoman.agents", "dragoman.testing")
_SHARED_MODULES = frozenset({"google", "pydantic"}) | sys.stdlib_module_names
"""Libraries that the server and an agent both use: who called them is to blame."""


def classify(
    error_type: str | None,
    message: str | None,
    exc: BaseException | None,
    *,
    status: int | None,
    provider: str,
    agent_name: str,
) -> DragomanError:
    """The error that a caller may see, made from what is known; any part may be missing.

    `error_type` and `message` are those of Agno's RunError event, `status` the provider's HTTP status where it was
    seen. A DragomanError comes back as it is.
    """
    chain = list(_causes(exc))
    for cause in chain:
        if isinstance(cause, DragomanError):
            return cause
    text = str(exc or "") if message is None else str(message)
    word = error_type or next((error_type_of(c) for c in chain if _is_agnos(c)), "")
    if _is_of_model(word, error_type, chain, status):
        return _model_unavailable(text, chain, status, provider, agent_name)
    if stage := _GUARDRAIL_STAGES.get(word):
        return _guardrail_refused(stage, text, chain, agent_name)
    if (error_type and word not in _AGNO_WORDS) or (exc is not None and not _is_ours(exc.__traceback__)):
        _log("the agent failed in its own code", text, exc, agent_name, error_type=word)
        return AgentFailed(agent_name)
    incident = new_id().hex
    _log("the run failed", text, exc, agent_name, error_type=word, incident_id=incident)
    return Internal(incident)


def _is_of_model(word: str, error_type: str | None, chain: list[BaseException], status: int | None) -> bool:
    if word in _MODEL_WORDS or (status is not None and status >= HTTPStatus.BAD_REQUEST):
        return True
    if any(isinstance(cause, _MODEL_CLASSES) or _package(cause) == "anthropic" for cause in chain):
        return True
    return not error_type and any(_package(c).startswith("http") and _kind_by_class(c) for c in chain)


def _model_unavailable(
    text: str, chain: list[BaseException], status: int | None, provider: str, agent_name: str
) -> ModelUnavailable:
    status = _status(text, chain, status)
    kind = _kind(text, chain, status)
    error = ModelUnavailable(kind, SENTENCES[kind], status=status, provider=clean(provider))
    error.retry_after = _retry_after(kind, chain)
    _log("the model call failed", text, None, agent_name, kind=kind, provider=provider, http_status=status)
    return error


def kind_of(error: BaseException, status: int | None) -> str:
    """The kind of a model's failure, as `ModelUnavailable` has it."""
    text, chain = str(error), list(_causes(error))
    return _kind(text, chain, _status(text, chain, status))


def _kind(text: str, chain: list[BaseException], status: int | None) -> str:
    return (
        _kind_by_provider_type(text, chain)
        or (_kind_by_status(status) if status is not None else None)
        or next((kind for cause in reversed(chain) if (kind := _kind_by_class(cause))), None)
        or _kind_by_words(text)
    )


def _guardrail_refused(
    stage: str, text: str, chain: list[BaseException], agent_name: str
) -> GuardrailRefused:
    trigger = next((c.check_trigger for c in chain if isinstance(c, _GUARDRAIL_CLASSES)), None)
    name = trigger.value if isinstance(trigger, agno_errors.CheckTrigger) else ""
    _log("a guardrail refused", text, None, agent_name, stage=stage, trigger=name)
    return GuardrailRefused(agent_name, stage, name)


def _causes(exc: BaseException | None) -> Iterator[BaseException]:
    """The exception, what it was raised from, and so on."""
    seen: set[int] = set()
    while exc is not None and id(exc) not in seen:
        seen.add(id(exc))
        yield exc
        exc = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)


def _status(text: str, chain: list[BaseException], status: int | None) -> int | None:
    """The HTTP status of the failure: told, of a client's exception, of Agno's, or in the text."""
    if status is not None and status >= HTTPStatus.BAD_REQUEST:
        return status
    for cause in reversed(chain):
        code = getattr(cause, "status_code", None)
        # 502 is what Agno puts where it knows of none; a true one is on the client's exception as well.
        default = isinstance(cause, agno_errors.AgnoError) and code == HTTPStatus.BAD_GATEWAY
        if isinstance(code, int) and code >= HTTPStatus.BAD_REQUEST and not default:
            return code
    found = _STATUS_IN_TEXT.search(text)
    return int(found.group(1)) if found and int(found.group(1)) >= HTTPStatus.BAD_REQUEST else None


def _kind_by_provider_type(text: str, chain: list[BaseException]) -> str | None:
    for cause in chain:
        kind = _BY_PROVIDER_TYPE.get(str(getattr(cause, "type", "")))
        if kind is not None:
            return kind
    for found in _TYPE_IN_TEXT.finditer(text):
        if found.group(1) in _BY_PROVIDER_TYPE:
            return _BY_PROVIDER_TYPE[found.group(1)]
    return None


def _kind_by_status(status: int) -> str:
    if status in _BY_STATUS:
        return _BY_STATUS[status]
    return SERVER_ERROR if status >= HTTPStatus.INTERNAL_SERVER_ERROR else INVALID_REQUEST


def _kind_by_class(exc: BaseException) -> str | None:
    return next((_BY_CLASS[c.__name__] for c in type(exc).__mro__ if c.__name__ in _BY_CLASS), None)


def _kind_by_words(text: str) -> str:
    if not text.strip():
        return CONNECTION  # a stream that hangs until the client gives up leaves no text at all
    return next((kind for words, kind in _BY_WORDS if words.search(text)), UNKNOWN)


def _retry_after(kind: str, chain: list[BaseException]) -> float | None:
    if kind not in RETRY_AFTER:
        return None
    for cause in chain:
        headers = getattr(getattr(cause, "response", None), "headers", {})
        try:
            return min(max(float(headers.get("retry-after", "")), 0.0), MAX_RETRY_AFTER)
        except (TypeError, ValueError):
            continue  # absent, or a date
    return RETRY_AFTER[kind]


def _package(exc: BaseException) -> str:
    return type(exc).__module__.partition(".")[0]


def _is_agnos(exc: BaseException) -> bool:
    return _package(exc) == "agno"


def _is_ours(traceback: TracebackType | None) -> bool:
    """Whether the server or its libraries raised, rather than the agent's own code.

    The innermost frame outside the libraries that both use decides; an exception that was never raised is ours.
    """
    modules = []
    while traceback is not None:
        modules.append(str(traceback.tb_frame.f_globals.get("__name__", "")))
        traceback = traceback.tb_next
    for module in reversed(modules):
        package = module.partition(".")[0]
        if package not in _SHARED_MODULES:
            return package in _OUR_MODULES and not module.startswith(_USER_MODULES)
    return True


def _log(
    event: str, text: str, exc: BaseException | None, agent_name: str, **fields: str | int | None
) -> None:
    """The only place where the text of a provider or an exception goes."""
    shown = agno_errors.redact_secrets(clean(text))[:MAX_LOGGED_TEXT]
    logger.warning(event, exc_info=exc, extra={"agent_name": agent_name, "error_text": shown, **fields})
