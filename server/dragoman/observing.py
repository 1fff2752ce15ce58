"""What the rooms tell of what they do, for those who watch the server; and what every log line of a call or run says.

    transport   call, certificate        a call from its beginning to its status
    engine      run, attached, swept     a run with its members, model calls and tools; runs that others have left
    storage     transaction              a transaction with its repetitions

A room is given an `Observer` and tells it, and knows nothing of figures and traces: those are `telemetry`. Watching
changes nothing: no method here waits or raises. Without an observer there is `UNOBSERVED`, who forgets everything.

What is bound by `bind` stands on all log lines that are written from there on in the same call or run, in whatever task
or thread it goes on.
"""

from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Protocol, TypeAlias
from uuid import UUID

from dragoman.records import ModelCall, Run
from dragoman.v1 import event_pb2

Metadata: TypeAlias = Iterable[tuple[str, str | bytes]]
"""What a caller sends along, as gRPC gives it."""

_FIELDS: ContextVar[Mapping[str, str]] = ContextVar("dragoman_log_fields")
_NONE: Mapping[str, str] = {}


def bind(**fields: str) -> None:
    """Puts the fields on every log line of the current call or run. Nothing has to be taken back: each has its context."""
    _FIELDS.set({**_FIELDS.get(_NONE), **fields})


def bound() -> Mapping[str, str]:
    """The fields of the current call or run; empty outside of one."""
    return _FIELDS.get(_NONE)


class CallWatch(Protocol):
    """Sees one call."""

    messages: int
    """Messages that were streamed to the caller: a plain number, because it is counted for each of them."""

    def handled(self, code: str, reason: str, detail: str = "") -> None:
        """It has ended: the name of its gRPC code; the `ErrorInfo.reason` of a refusal, and what made it, if known."""
        ...


class TransactionWatch(Protocol):
    """Sees one transaction."""

    def retried(self) -> None:
        """It is tried again."""
        ...

    def done(self, failure: str = "") -> None:
        """It has ended. `failure`: the driver's code for what went wrong; empty when the database has done its part."""
        ...


class RunWatch(Protocol):
    """Sees one run in one process: from its claim (or its continuation) to its end or pause."""

    def enter(self) -> None:
        """The current task, and all that it starts, works for the run from here on."""
        ...

    def began(self) -> None:
        """It has its session's turn."""
        ...

    def saw(self, kind: str, event: event_pb2.RunEvent) -> None:
        """An event of the agent's. Of pieces of text only the first; `kind` is the name of its field."""
        ...

    def called(self, call: ModelCall) -> None:
        """A call of a model that has ended. To be told of the same one again does no harm."""
        ...

    def ended(self, outcome: str, reason: str) -> None:
        """It is over here: `completed`, `failed`, `cancelled`, `paused`, or `lost` (its end could not be stored), and why.

        Only the first time counts."""
        ...


class Observer(Protocol):
    """Sees one server. Used on its event loop; `certificate` from any thread."""

    def call(self, method: str, metadata: Metadata, *, streams: bool) -> CallWatch:
        """A call begins, in the task (and context) that serves it. `method`: one that is served, `/package.Service/Method`."""
        ...

    def attached(self, run_id: UUID, *, here: bool) -> None:
        """The current call follows a run that was begun by another one. `here`: which runs in this process."""
        ...

    def run(self, run: Run, *, continued: bool) -> RunWatch:
        """A run was claimed for this process by the current call."""
        ...

    def swept(self, why: str) -> None:
        """A run was ended that no task conducted: `abandoned`, `expired` or `cancelled`."""
        ...

    def transaction(self, operation: str, system: str) -> TransactionWatch:
        """A transaction begins. `operation`: the store's word for it; `system`: the kind of database."""
        ...

    def certificate(self, expires: datetime) -> None:
        """The server's certificate, and until when it holds."""
        ...


class Unobserved:
    """Sees nothing. Is an `Observer`, and what one gives, in one."""

    messages = 0

    def __setattr__(self, name: str, value: object) -> None:
        """Forgets the number of messages."""

    def call(self, method: str, metadata: Metadata, *, streams: bool) -> "Unobserved":
        """Forgets it."""
        return self

    def handled(self, code: str, reason: str, detail: str = "") -> None:
        """Forgets it."""

    def attached(self, run_id: UUID, *, here: bool) -> None:
        """Forgets it."""

    def run(self, run: Run, *, continued: bool) -> "Unobserved":
        """Forgets it."""
        return self

    def enter(self) -> None:
        """Forgets it."""

    def began(self) -> None:
        """Forgets it."""

    def saw(self, kind: str, event: event_pb2.RunEvent) -> None:
        """Forgets it."""

    def called(self, call: ModelCall) -> None:
        """Forgets it."""

    def ended(self, outcome: str, reason: str) -> None:
        """Forgets it."""

    def swept(self, why: str) -> None:
        """Forgets it."""

    def transaction(self, operation: str, system: str) -> "Unobserved":
        """Forgets it."""
        return self

    def retried(self) -> None:
        """Forgets it."""

    def done(self, failure: str = "") -> None:
        """Forgets it."""

    def certificate(self, expires: datetime) -> None:
        """Forgets it."""


UNOBSERVED = Unobserved()
