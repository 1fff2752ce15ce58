"""What a demonstration stands on: a client, a console, the checks, and runs that are followed to their end.

`dragoman demo` and the demonstrations in examples/ share it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from rich.console import Console

from dragoman.cli._checks import Checks
from dragoman.cli._printer import EventPrinter
from dragoman.cli._report import Failure
from dragoman.client import Dragoman, EventKind, RunStream, kind
from dragoman.v1 import event_pb2, run_service_pb2

Answer: TypeAlias = Callable[[event_pb2.Requirement], run_service_pb2.Resolution]
"""Resolves one thing that a paused run waits for."""


@dataclass(slots=True)
class Stage:
    """What the sections share: the client, where to show, what is checked, and what earlier sections left."""

    client: Dragoman
    console: Console
    checks: Checks
    session_id: str = ""
    message_ids: list[str] = field(default_factory=list)
    """Of the messages that runs in the session said they added, in order."""

    def say(self, text: str) -> None:
        """What the caller does next."""
        self.console.print(f"> {text}", style="bold blue", soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Followed:
    """A run that was followed to its end and completed."""

    events: Sequence[event_pb2.RunEvent]
    """All that came, heartbeats left out."""
    result: event_pb2.RunCompleted
    run_id: str
    session_id: str

    def of(self, wanted: EventKind) -> list[event_pb2.RunEvent]:
        """The events of one kind, in order."""
        return [event for event in self.events if kind(event) == wanted]


async def follow(stage: Stage, stream: RunStream, message: str, answer: Answer | None = None) -> Followed:
    """Shows a run as it happens; where it pauses, each requirement gets its `answer` and the run goes on.

    Raises Failure when it does not complete.
    """
    stage.say(message)
    events: list[event_pb2.RunEvent] = []
    printer = EventPrinter(stage.console)
    session = ""
    while True:
        async with stream:
            async for event in stream:
                if kind(event) != "heartbeat":
                    events.append(event)
                printer.show(event)
        printer.finish()
        session = session or stream.session_id
        if stream.paused is None or answer is None:
            break
        stream = stage.client.continue_run(
            stream.run_id, [answer(requirement) for requirement in stream.paused.requirements]
        )
    if not isinstance(stream.result, event_pb2.RunCompleted):
        raise Failure(f"run {stream.run_id} did not complete")
    return Followed(events, stream.result, stream.run_id, session)
