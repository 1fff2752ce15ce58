"""What a run is made of: the request for it, the agent that plays it, and what came of it."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, TypeAlias
from uuid import UUID

from dragoman.engine.ports.media import InputMedia
from dragoman.errors import DragomanError
from dragoman.quotas import NO_QUOTAS, Quotas
from dragoman.records import (
    Limits,
    Media,
    Message,
    ModelCall,
    Owner,
    RequestKey,
    Session,
    SessionConflict,
)
from dragoman.v1 import agent_service_pb2, event_pb2, message_pb2, run_service_pb2

JsonObject: TypeAlias = dict[str, object]
"""What `google.protobuf.Struct` holds: null, booleans, floats, strings, lists and objects."""


@dataclass(frozen=True, slots=True)
class RunDraft:
    """A run that a caller asks for, before it exists."""

    owner: Owner
    agent_name: str
    session: Session | None
    """None: a new session is made."""
    message: str
    media: tuple[InputMedia, ...] = ()
    inputs: Mapping[str, object] = field(default_factory=dict)
    """As the agent's RequestModel accepted them (JSON)."""
    metadata: Mapping[str, str] = field(default_factory=dict)
    session_inputs: Mapping[str, object] = field(default_factory=dict)
    """For a new session: what the agent's CreateSessionModel made of no inputs."""
    request: RequestKey | None = None
    limits: Limits = field(default_factory=Limits)
    conflict: SessionConflict = SessionConflict.REJECT
    cancel_on_disconnect: bool = False
    deadline: float | None = None
    """Seconds from now after which it is cancelled; None for none."""
    quotas: Quotas = NO_QUOTAS
    """How much the caller may do, as far as its credentials say so."""


@dataclass(frozen=True, slots=True)
class ContinueDraft:
    """A paused run that a caller wants to go on."""

    owner: Owner
    run_id: UUID
    after_sequence: int
    """Of the pause whose requirements the resolutions were checked against: of `run_paused`."""
    resolutions: tuple[run_service_pb2.Resolution, ...]
    """One for each requirement, of the right kind, checked against its schema."""
    request: RequestKey | None = None
    cancel_on_disconnect: bool = False
    deadline: float | None = None
    quotas: Quotas = NO_QUOTAS


@dataclass(frozen=True, slots=True)
class Continuation:
    """A run that goes on after a pause: what the runner is to take up."""

    state: bytes = field(repr=False)
    """What the runner had left in `Outcome.continuation`."""
    resolutions: tuple[run_service_pb2.Resolution, ...]
    content: str = field(default="", repr=False)
    """The text that was written before."""


@dataclass(frozen=True, slots=True)
class RunOrder:
    """A run that exists: what the runner is to do."""

    run_id: UUID
    owner: Owner
    session: Session
    agent_name: str
    message: str
    media: tuple[InputMedia, ...]
    inputs: Mapping[str, object]
    metadata: Mapping[str, str]
    continuation: Continuation | None = None
    """Set when it goes on after a pause; `message`, `media` and `inputs` are empty then."""


class Meter(Protocol):
    """What a run may still spend, and what is known of its calls before they end. Used on the event loop only."""

    def may_call(self) -> bool:
        """Asked before every request to a model. False: it must not be made; the run is being cancelled."""
        ...

    def note(self, call: ModelCall, *, under_way: bool) -> None:
        """Told whenever a provider has reported usage, and once more when the call has ended.

        `call` is as `Outcome.calls` would have it at this moment; the same id each time. May cancel the run.
        """
        ...


@dataclass(slots=True)
class Outcome:
    """What came of a run as far as it got. Valid at any moment, so that an interrupted run keeps what it had."""

    status: Literal["running", "completed", "failed", "paused"] = "running"
    """`running`: neither ended nor failed by itself (it was interrupted)."""
    content: str = ""
    """All of it, what was written before a pause included."""
    structured: object | None = None
    """JSON of the structured answer; None when there is none."""
    finish_reason: event_pb2.FinishReason.ValueType = event_pb2.FINISH_REASON_UNSPECIFIED
    error: DragomanError | None = None
    """Set when failed."""
    requirements: list[event_pb2.Requirement] = field(default_factory=list)
    continuation: bytes = field(default=b"", repr=False)
    """When paused: what `Continuation.state` will be."""
    messages: list[Message] = field(default_factory=list)
    """The new ones (since a pause, the newer ones), in order, the user's first. A history that a provider accepts: no
    orphan tool calls, but for those that a paused run waits for."""
    media: list[Media] = field(default_factory=list)
    """Those that `messages` refer to."""
    calls: list[ModelCall] = field(default_factory=list)
    """All model calls (since a pause, the newer ones), the interrupted one included, priced."""


class AgentRun(Protocol):
    """One run of an agent, under way. Used by one task."""

    def events(self) -> AsyncGenerator[event_pb2.RunEvent, None]:
        """What happens, as it happens, without sequence and time.

        Never yields run_started, run_paused, run_completed, run_failed or run_cancelled: those are the engine's. Ends
        normally also when the run failed: `outcome()` tells. Cancelling the task that iterates closes the model's HTTP
        request at once. Must be closed (`aclose`) by the one who iterates.
        """
        ...

    async def stop(self) -> None:
        """Asks the agent and its members to stop at the next occasion. Returns at once; harmless when it has ended."""
        ...

    def outcome(self) -> Outcome:
        """What came of it so far."""
        ...


class Runner(Protocol):
    """Runs agents."""

    def begin(self, order: RunOrder, meter: Meter) -> AgentRun:
        """Prepares a run, or what follows a pause. Does no I/O and raises nothing: what goes wrong is in the outcome."""
        ...

    async def close(self) -> None:
        """Closes the model clients."""
        ...


class Catalog(Protocol):
    """The agents that are served."""

    def agents(self) -> Sequence[agent_service_pb2.Agent]:
        """All, by name."""
        ...

    def agent(self, name: str) -> agent_service_pb2.Agent:
        """One. Raises AgentNotFound."""
        ...

    def limits(self, name: str) -> Limits:
        """The agent's own limits of a run. Raises AgentNotFound."""
        ...

    async def accept_session(self, name: str, inputs: JsonObject, owner: Owner) -> JsonObject:
        """The inputs as the agent's CreateSessionModel and `validate_create_session` accept them.

        Raises AgentNotFound, InvalidInput with paths below `inputs`, AgentFailed when the agent's own code raises.
        """
        ...

    async def accept_run(self, draft: RunDraft) -> JsonObject:
        """`draft.inputs` as the agent's RequestModel and `validate_run` accept them. Raises as `accept_session`."""
        ...


class MessageView(Protocol):
    """Shows a stored message."""

    def show(self, message: Message, media: Mapping[bytes, Media]) -> message_pb2.Message:
        """The message without `session_id`. `media`: bytes to put inline, by hash; others are shown by id."""
        ...
