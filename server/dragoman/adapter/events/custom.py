"""Events of the agent's own code: instances of Agno's CustomEvent classes, with whatever attributes they were given.

Agno puts its own bookkeeping (agent, run, session, step ids) on them as attributes beside the author's; that part is
known from the base classes and left out of the payload.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Final

from agno.run.agent import BaseAgentRunEvent
from agno.run.agent import CustomEvent as AgentCustomEvent
from agno.run.team import BaseTeamRunEvent
from agno.run.team import CustomEvent as TeamCustomEvent
from agno.run.workflow import CustomEvent as WorkflowCustomEvent

from dragoman.adapter.events.registry import A, T, on
from dragoman.adapter.events.sources import Source
from dragoman.adapter.values import clean, to_struct
from dragoman.v1 import event_pb2
from dragoman.v1.event_pb2 import RunEvent

CLASSES: Final = (AgentCustomEvent, TeamCustomEvent, WorkflowCustomEvent)

_OPTIONAL: Final = frozenset({"content", "tools"})
"""Attributes of Agno's that authors use for their own content; left out only when None."""

_BOOKKEEPING: Final = (
    frozenset(
        field.name
        for base in (BaseAgentRunEvent, BaseTeamRunEvent, *CLASSES)
        for field in dataclasses.fields(base)
    )
    | {"event_index"}
) - _OPTIONAL


@on(A.custom_event, T.custom_event, fills=["custom"])
def map_custom(event: object, _: Source) -> list[RunEvent]:
    """The event with its name, its author's attributes and the tool call that sent it."""
    attributes = dict(_attributes(event))
    message = event_pb2.CustomEvent(
        name=clean(_name(event, attributes)),
        payload=to_struct(attributes),
        tool_call_id=clean(str(getattr(event, "tool_call_id", None) or "")),
    )
    return [RunEvent(custom=message)]


def _name(event: object, attributes: dict[str, object]) -> str:
    """Its own `name`; else its class; else, for Agno's bare class, the event string that it was given."""
    name = attributes.get("name")
    if isinstance(name, str) and name:
        return name
    kind = getattr(event, "event", None)
    bare = type(event) in CLASSES
    return kind if bare and isinstance(kind, str) and kind else type(event).__name__


def _attributes(event: object) -> Iterator[tuple[str, object]]:
    """Defaults of the author's classes, the base's first, overlaid by what the instance was given."""
    for kind in reversed(type(event).__mro__):
        if issubclass(kind, CLASSES) and kind not in CLASSES:
            yield from _authors((name, getattr(event, name)) for name in vars(kind) if _is_value(kind, name))
    yield from _authors(vars(event).items())


def _is_value(kind: type, name: str) -> bool:
    """Whether a name in a class body is a default, not a method or a property."""
    return not callable(vars(kind)[name]) and not hasattr(vars(kind)[name], "__get__")


def _authors(items: Iterable[tuple[str, object]]) -> Iterator[tuple[str, object]]:
    for name, value in items:
        if name.startswith("_") or name in _BOOKKEEPING or (name in _OPTIONAL and value is None):
            continue
        yield name, value
