"""One call of a model: what it is for, for whom it works, and what is known of it while it is under way and when it ended."""

import asyncio
import time
from collections.abc import Sequence
from contextvars import ContextVar
from datetime import datetime, timedelta
from typing import Any, Final
from uuid import UUID

from agno.models.base import Model
from agno.models.message import Message

from dragoman import ids
from dragoman.adapter.tokens import Counts
from dragoman.engine.ports import Pricer
from dragoman.records import CallStatus, Cost, TokenUsage, utcnow

MAIN: Final = "model"
"""Kind of the calls in which an agent works at its answer."""

AUXILIARY: Final = "auxiliary"
"""Kind of a call of which it is not (yet) known what it was for."""

REASONING: Final = "reasoning_model"
"""Kind of the calls in which an agent that Agno puts before another reasons for it."""


class Source:
    """A run that calls models: this run, a member's, or one of an agent inside of a tool."""

    def __init__(
        self,
        agno_id: str,
        run_id: UUID,
        parent_run_id: UUID | None,
        agent_name: str,
        *,
        parent: "Source | None" = None,
        is_member: bool = False,
    ) -> None:
        self.agno_id = agno_id
        self.run_id = run_id
        self.parent_run_id = parent_run_id
        self.agent_name = agent_name
        self.parent = parent
        """Whom it works for; None for the run itself."""
        self.is_member = is_member
        """True when a team delegated to it."""
        self.messages: Sequence[Message] | None = None
        """Agno's live list of its conversation, once it has called a model."""

    def works_for(self, other: "Source") -> bool:
        """Whether it is the other one, or an agent without a part of its own in the team that the other one started."""
        source: Source | None = self
        while source is not None and source is not other and not source.is_member:
            source = source.parent
        return source is other


class Call:
    """One request to a model, under way or ended."""

    def __init__(
        self, source: Source, *, kind: str, provider: str, model: str, message: Message | None
    ) -> None:
        self.id = ids.new_id()
        self.source = source
        self.kind = kind
        self.provider = provider
        self.model = model
        self.message = message
        """The assistant message that Agno will fill when the call completes."""
        self.status: CallStatus | None = None
        """None while it is under way."""
        self.usage = TokenUsage()
        self.counted: Counts = (0, 0, 0, 0)
        """Input, output, cache read and cache write tokens as Agno counts them, by which its sums are compared."""
        self.told: Any = None
        """The provider's own object of figures that Agno has read last."""
        self.attempt = 1
        """How many requests it has taken so far, as far as the provider's client tells."""
        self.stop_reason = ""
        self.error: BaseException | None = None
        self.http_status: int | None = None
        self.failure = ""
        """Of one that failed: the kind."""
        self.announced = False
        """True when an event has told of it."""
        self.barred = False
        """True when no further request may be made for it, whatever its client would try: the run is being ended."""
        self.settled = False
        """True when Agno's sums contain it."""
        self.has_run = True
        """False when Agno did not say for which run it is."""
        self.held: list[dict[str, Any]] = []
        """Tool calls of which it is not yet known whether they are whole."""
        self.text: list[str] = []
        self.reasoning: list[str] = []
        self.cost: Cost | None = None
        self.closed: asyncio.Event | None = None
        """Of a streamed call: set when its request is closed."""
        self.task: asyncio.Task[Any] | None = None
        self.start_time = utcnow()
        self.end_time: datetime | None = None
        self.time_to_first_token: timedelta | None = None
        self._started = time.perf_counter()
        self._duration: timedelta | None = None

    @property
    def duration(self) -> timedelta:
        """From the request to its end, or until now."""
        return self._duration if self._duration is not None else self._elapsed()

    def first_token(self) -> None:
        """The model has begun to answer. Only the first time counts."""
        if self.time_to_first_token is None:
            self.time_to_first_token = self._elapsed()

    def end(self, status: CallStatus, error: BaseException | None, pricer: Pricer) -> None:
        """It is over. Only the first time counts."""
        if self.status is not None:
            return
        self.status = status
        self.error = error
        self._duration = self._elapsed()
        self.end_time = utcnow()
        self.cost = pricer.price(self.provider, self.model, self.usage, self.end_time)

    def let_go(self) -> None:
        """Forgets what knows the run that knows this call: the task, and the error, with the frames that it went through.

        So nothing of a run that has ended waits for the garbage collector, which counts objects, and not their size.
        """
        error, passed = self.error, set[int]()
        while error is not None and id(error) not in passed:
            passed.add(id(error))
            error.__traceback__ = None  # Agno's frames know the error that went through them
            error = error.__cause__ or error.__context__
        self.task = self.error = None

    def _elapsed(self) -> timedelta:
        return timedelta(seconds=time.perf_counter() - self._started)


under_way: ContextVar[Call | None] = ContextVar("dragoman_call", default=None)
"""The call under way. Set around every step of it: the code that reads it has no other way to know."""


_PURPOSES: Final = "_dragoman_purposes"


def mark(model: Model, kind: str) -> None:
    """Some agent has the model for calls of that kind. Agno does not always say what a call is for."""
    vars(model).setdefault(_PURPOSES, set()).add(kind)


def kind_of(model: Model, source: Source, *, has_run: bool) -> str:
    """What a call of the model is for, if that is known: a model may have several purposes, and the author's agents share it."""
    purposes = vars(model).get(_PURPOSES, frozenset())
    if len(purposes) == 1 and not purposes & {MAIN, REASONING}:
        return str(next(iter(purposes)))
    kind = str(model.model_type.value)
    if kind != MAIN:
        return kind
    if not has_run:
        return AUXILIARY
    inner = source.parent is not None and not source.is_member
    return REASONING if inner and REASONING in purposes else MAIN
