"""The domain's errors: one class, one reason. Knows no gRPC; `transport/status.py` gives each its code.

    DragomanError
     ├─ InvalidInput            INVALID_INPUT          what the caller sent breaks a rule; a violation per field
     ├─ InvalidMedia            INVALID_MEDIA          the bytes are not what they claim to be
     ├─ MediaTooLarge           MEDIA_TOO_LARGE
     ├─ PageTokenInvalid        PAGE_TOKEN_INVALID     not a token of this list, filter and owner
     ├─ AgentNotFound           AGENT_NOT_FOUND
     ├─ SessionNotFound         SESSION_NOT_FOUND      also another owner's, indistinguishably
     ├─ RunNotFound             RUN_NOT_FOUND          likewise
     ├─ MediaNotFound           MEDIA_NOT_FOUND        likewise
     ├─ Unauthenticated         UNAUTHENTICATED        the caller has not said who it is, or cannot prove it
     ├─ PermissionDenied        PERMISSION_DENIED      the caller is known, and may not do this
     ├─ SessionBusy             SESSION_BUSY           another run holds the session's turn
     ├─ RequestIdReused         REQUEST_ID_REUSED      the id was used for another request
     ├─ RunNotPaused            RUN_NOT_PAUSED         there is nothing to continue
     ├─ RunNotResumable         RUN_NOT_RESUMABLE      another process ended the run that was followed here
     ├─ EventsTrimmed           EVENTS_TRIMMED         the events asked for are no longer kept
     ├─ TooManyRuns             TOO_MANY_RUNS          of the server, of a principal, or for a session
     ├─ TooManyStreams          TOO_MANY_STREAMS       of the server, or of a principal
     ├─ RateLimited             RATE_LIMITED           likewise; a retry makes sense when the next call is allowed
     ├─ BudgetExceeded          BUDGET_EXCEEDED        what may be spent in a day or a month is spent
     ├─ IdentityUnavailable     IDENTITY_UNAVAILABLE   who the caller is cannot be found out now
     ├─ StorageUnavailable      STORAGE_UNAVAILABLE    retries are spent
     ├─ ModelUnavailable        MODEL_UNAVAILABLE      the provider refused, failed, dropped or hung
     ├─ AgentFailed             AGENT_FAILED           the agent's own code raised
     ├─ GuardrailRefused        GUARDRAIL_REFUSED      a guardrail of the agent refused the input or the answer
     ├─ Draining                DRAINING               the server is going away: try a peer
     └─ Internal                INTERNAL               a defect; the incident id is in the log

A message here is written for the caller: never text of a driver, a provider or a traceback. Every dynamic
value in it is repeated in `metadata`, so that a program need not parse the sentence.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import ClassVar


class DragomanError(Exception):
    """Base of all that a caller may be told. `reason` is UPPER_SNAKE and stable; `metadata` is bounded text."""

    reason: ClassVar[str]
    retry_after: float | None = None
    """Seconds after which a retry makes sense; None when the same call would fail again."""
    cause: str = ""
    """Which of several limits, or why a proof does not hold, in a word of ours: for figures, never for callers."""
    subject: str | None = None
    """Whose limit is reached: `server`, `principal/<name>`, `session/<id>`, or the name of a budget; None: it is about none."""

    def __init__(self, message: str, **metadata: str) -> None:
        super().__init__(message)
        self.message = message
        self.metadata: Mapping[str, str] = metadata


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: `field` is a path such as `inputs.topics[2].name`, `description` a sentence."""

    field: str
    description: str


class InvalidInput(DragomanError):
    """What the caller sent breaks a rule. Holds all violations found, not only the first."""

    reason = "INVALID_INPUT"

    def __init__(self, violations: Sequence[Violation], message: str | None = None, **metadata: str) -> None:
        first = violations[0] if violations else Violation("", "invalid")
        more = f" (and {len(violations) - 1} more)" if len(violations) > 1 else ""
        super().__init__(message or f"{first.field}: {first.description}{more}", **metadata)
        self.violations = tuple(violations)


class InvalidMedia(InvalidInput):
    """The bytes are not a picture, file, sound or film of the claimed type."""

    reason = "INVALID_MEDIA"


class MediaTooLarge(InvalidInput):
    """One medium, or all of a request together, is over the limit."""

    reason = "MEDIA_TOO_LARGE"


class PageTokenInvalid(InvalidInput):
    """The page token was not made by this list with these filters for this owner."""

    reason = "PAGE_TOKEN_INVALID"

    def __init__(self) -> None:
        super().__init__(
            [
                Violation(
                    "page_token",
                    "was not returned by this method for the same filters; start without a token",
                )
            ]
        )


class AgentNotFound(DragomanError):
    """No agent or team of that name is served here."""

    reason = "AGENT_NOT_FOUND"

    def __init__(self, agent_name: str) -> None:
        super().__init__(
            f"no agent is called {agent_name!r}; ListAgents names those there are", agent_name=agent_name
        )


class SessionNotFound(DragomanError):
    """No such session, or it belongs to somebody else or to another agent."""

    reason = "SESSION_NOT_FOUND"

    def __init__(self, session_id: object) -> None:
        super().__init__(f"there is no session {session_id}", session_id=str(session_id))


class RunNotFound(DragomanError):
    """No such run, or it belongs to somebody else."""

    reason = "RUN_NOT_FOUND"

    def __init__(self, run_id: object) -> None:
        super().__init__(f"there is no run {run_id}", run_id=str(run_id))


class MediaNotFound(DragomanError):
    """No such medium, or it belongs to somebody else."""

    reason = "MEDIA_NOT_FOUND"

    def __init__(self, media_id: str) -> None:
        super().__init__(f"there is no medium {media_id}", media_id=media_id)


class Unauthenticated(DragomanError):
    """The caller has not said who it is, or cannot prove it. Why a proof does not hold is in the log alone."""

    reason = "UNAUTHENTICATED"

    def __init__(self, message: str = "the credentials are not valid", *, cause: str = "") -> None:
        super().__init__(message)
        self.cause = cause


class PermissionDenied(DragomanError):
    """The caller is known, and may not do this. `needed` is what it would need, for example `scope run`."""

    reason = "PERMISSION_DENIED"

    def __init__(self, needed: str) -> None:
        super().__init__(f"this needs {needed}, which the caller does not have", needed=needed)


class SessionBusy(DragomanError):
    """Another run holds the session's turn: two runs never interleave in one history."""

    reason = "SESSION_BUSY"
    retry_after = 1.0

    def __init__(self, session_id: object, run_id: object) -> None:
        super().__init__(
            f"run {run_id} is using session {session_id}; wait for it or cancel it",
            session_id=str(session_id),
            run_id=str(run_id),
        )


class RequestIdReused(DragomanError):
    """The request id belongs to an earlier request that was not the same."""

    reason = "REQUEST_ID_REUSED"

    def __init__(self, request_id: str) -> None:
        super().__init__(
            f"request_id {request_id!r} was used for another request; use a new one", request_id=request_id
        )


class RunNotPaused(DragomanError):
    """The run waits for nothing: it runs, has ended, or was continued by somebody else."""

    reason = "RUN_NOT_PAUSED"

    def __init__(self, run_id: object, status: str) -> None:
        super().__init__(f"run {run_id} is not paused, it is {status}", run_id=str(run_id), status=status)


class RunNotResumable(DragomanError):
    """The run that was followed here has been ended by another process, which took this one for dead."""

    reason = "RUN_NOT_RESUMABLE"

    def __init__(self, run_id: object) -> None:
        super().__init__(
            f"run {run_id} was ended by another server; AttachRun and GetRun tell how it stands",
            run_id=str(run_id),
        )


class EventsTrimmed(DragomanError):
    """The events asked for are older than what is kept."""

    reason = "EVENTS_TRIMMED"

    def __init__(self, run_id: object, oldest_sequence: int) -> None:
        super().__init__(
            f"the events of run {run_id} before {oldest_sequence} are no longer kept",
            run_id=str(run_id),
            oldest_sequence=str(oldest_sequence),
        )


class TooManyRuns(DragomanError):
    """As many runs as are allowed: in this process, of one principal in it, or waiting for one session."""

    reason = "TOO_MANY_RUNS"
    retry_after = 1.0

    def __init__(self, limit: int, session_id: object = None, *, principal: str | None = None) -> None:
        if session_id is not None:
            text, names = (
                f"{limit} runs wait for session {session_id} already",
                {"session_id": str(session_id)},
            )
            self.subject, self.cause = f"session/{session_id}", "queue"
        else:
            text, names = _at_its_limit(limit, "concurrent runs", principal)
            self.subject, self.cause = _subject(principal, "runs")
        super().__init__(text, limit=str(limit), **names)


class TooManyStreams(DragomanError):
    """As many open streams as are allowed: in this process, or of one principal in it."""

    reason = "TOO_MANY_STREAMS"
    retry_after = 1.0

    def __init__(self, limit: int, *, principal: str | None = None) -> None:
        text, names = _at_its_limit(limit, "open streams", principal)
        super().__init__(text, limit=str(limit), **names)
        self.subject, self.cause = _subject(principal, "streams")


class RateLimited(DragomanError):
    """More calls than are allowed. `retry_after`: seconds until the next one is."""

    reason = "RATE_LIMITED"

    def __init__(self, rate: float, retry_after: float, *, principal: str | None = None) -> None:
        text, names = _at_its_limit(f"{rate:g}", "calls a second", principal)
        super().__init__(text, limit=f"{rate:g}", **names)
        self.subject, self.cause = _subject(principal, "calls")
        # A moment too early would be too early.
        self.retry_after = math.ceil(retry_after * 1000) / 1000


def _at_its_limit(limit: object, of: str, principal: str | None) -> tuple[str, dict[str, str]]:
    who = "the server" if principal is None else f"principal {principal}"
    return f"{who} is at its limit of {limit} {of}", {} if principal is None else {"principal": principal}


def _subject(principal: str | None, of: str) -> tuple[str, str]:
    """Whose limit of what is reached: for callers, and for figures."""
    return ("server", of) if principal is None else (f"principal/{principal}", f"principal_{of}")


class BudgetExceeded(DragomanError):
    """What may be spent in a day or a month is spent. `subject` names the budget; `reset_time`: when the next period begins."""

    reason = "BUDGET_EXCEEDED"
    cause = "budget"

    def __init__(self, subject: str, period: str, limit: str, reset_time: datetime, *, now: datetime) -> None:
        reset = reset_time.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        super().__init__(
            f"the budget of {limit} a {period} for {subject} is used up until {reset}",
            subject=subject,
            period=period,
            limit=limit,
            reset_time=reset,
        )
        self.subject = subject
        self.retry_after = max(1.0, (reset_time - now).total_seconds())


class IdentityUnavailable(DragomanError):
    """Whether the caller's token is good cannot be found out now: its issuer does not answer."""

    reason = "IDENTITY_UNAVAILABLE"
    retry_after = 2.0

    def __init__(self) -> None:
        super().__init__("the issuer of the token does not answer, so it cannot be checked")


class StorageUnavailable(DragomanError):
    """The database did not answer within all retries."""

    reason = "STORAGE_UNAVAILABLE"
    retry_after = 2.0

    def __init__(self, *, cause: str = "") -> None:
        super().__init__("the database is not available")
        self.cause = cause


class ModelUnavailable(DragomanError):
    """The model provider refused, failed, dropped the stream or did not answer in time.

    `kind` is one of AUTHENTICATION, RATE_LIMITED, OVERLOADED, INVALID_REQUEST, TIMEOUT, CONNECTION, SERVER_ERROR,
    UNKNOWN; `status` the provider's HTTP status where there was one.
    """

    reason = "MODEL_UNAVAILABLE"

    def __init__(self, kind: str, message: str, *, status: int | None = None, provider: str = "") -> None:
        metadata = {"kind": kind}
        if status is not None:
            metadata["http_status"] = str(status)
        if provider:
            metadata["provider"] = provider
        super().__init__(message, **metadata)
        self.kind = kind


class AgentFailed(DragomanError):
    """The agent's own code (a hook, a tool set-up, `build_agent`) raised. The log has the traceback."""

    reason = "AGENT_FAILED"

    def __init__(self, agent_name: str) -> None:
        super().__init__(f"agent {agent_name!r} failed in its own code", agent_name=agent_name)


class GuardrailRefused(DragomanError):
    """A guardrail of the agent refused. `stage` is `input` or `output`; `trigger` Agno's word, such as `pii_detected`."""

    reason = "GUARDRAIL_REFUSED"

    def __init__(self, agent_name: str, stage: str, trigger: str = "") -> None:
        what = "the input" if stage == "input" else "the answer"
        metadata = {"agent_name": agent_name, "stage": stage}
        if trigger:
            metadata["trigger"] = trigger
        super().__init__(f"a guardrail of agent {agent_name!r} refused {what}", **metadata)


class Draining(DragomanError):
    """The server is stopping: it starts nothing new, and runs of other servers are followed elsewhere.

    `last_sequence`: for a stream that ends by this, that of the last event that was sent; attach to a peer after it.
    """

    reason = "DRAINING"
    retry_after = 1.0

    def __init__(self, run_id: object = None, last_sequence: int = 0) -> None:
        if run_id is None:
            super().__init__("the server is stopping; try a peer")
        else:
            super().__init__(
                f"the server is stopping; attach to run {run_id} after sequence {last_sequence} through a peer",
                run_id=str(run_id),
                last_sequence=str(last_sequence),
            )


class Internal(DragomanError):
    """A defect on our side. `incident_id` is logged with the traceback."""

    reason = "INTERNAL"

    def __init__(self, incident_id: str) -> None:
        super().__init__(f"internal error; quote incident {incident_id}", incident_id=incident_id)
