"""The registry: which function maps which of Agno's events, and which fields of RunEvent it fills."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias, TypeVar

from agno.run.agent import RunEvent as A
from agno.run.team import TeamRunEvent as T

from dragoman.adapter.events.sources import Source
from dragoman.v1.event_pb2 import RunEvent

__all__ = ["FIELDS", "HANDLERS", "A", "Handler", "T", "on"]

Handler: TypeAlias = Callable[[Any, Source], list[RunEvent]]
"""Takes Agno's event and whose it is; may raise, and then the event becomes `unmapped`."""

_H = TypeVar("_H", bound=Handler)

HANDLERS: dict[str, Handler] = {}
"""Agno's event string -> the function that maps it."""

FIELDS: dict[str, Handler] = {}
"""Field of RunEvent's oneof -> the function that fills it."""


def on(*kinds: A | T, fills: Sequence[str]) -> Callable[[_H], _H]:
    """Registers a function for Agno's events."""

    def register(handler: _H) -> _H:
        HANDLERS.update((kind.value, handler) for kind in kinds)
        FIELDS.update((name, handler) for name in fills)
        return handler

    return register
