"""Whose step it is: of all that happens within a run, the innermost agent or team that is at work.

Agno does not say for which run it asks a model to make memories, to sum up a session or to shorten a tool's result, nor
which run a tool belongs to that asks another agent. So whoever runs for another (a team's member, an agent that
reasons) is followed: around each of its steps a context variable holds its run's id, and the tasks that a step starts
inherit it.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final

from agno.agent import Agent
from agno.team import Team


@dataclass(frozen=True, slots=True)
class AtWork:
    """A run that is at work for another one."""

    agno_id: str
    name: str
    """What its agent is called, or else its id."""
    outer: "AtWork | None"
    """The run within whose step it works; None for the run itself."""


current: ContextVar[AtWork | None] = ContextVar("dragoman_step", default=None)
"""The run that is at work; None for the run itself, or outside of one."""

_FOLLOWED: Final = "_dragoman_followed"


def follow(component: Agent | Team) -> None:
    """From now on `current` holds the component's run while it is at work. Once for each object."""
    if _FOLLOWED in vars(component):
        return
    vars(component).update(
        {
            _FOLLOWED: True,
            "arun": _followed(component, component.arun),
            "acontinue_run": _followed(component, component.acontinue_run),
        }
    )


def _followed(component: Agent | Team, run: Callable[..., Any]) -> Callable[..., Any]:
    def start(*args: Any, **kwargs: Any) -> Any:
        made = run(*args, **kwargs)
        run_id = kwargs.get("run_id") or getattr(kwargs.get("run_response"), "run_id", None)
        if run_id is None:
            return made
        step = AtWork(run_id, component.name or component.id or "", current.get())
        return _stepped(made, step) if isinstance(made, AsyncIterator) else _awaited(made, step)

    return start


async def _stepped(stream: Any, step: AtWork) -> AsyncGenerator[Any, None]:
    async with aclosing(stream):
        while True:
            token = current.set(step)
            try:
                event = await anext(stream)
            except StopAsyncIteration:
                return
            finally:
                current.reset(token)
            yield event


async def _awaited(work: Any, step: AtWork) -> Any:
    token = current.set(step)
    try:
        return await work
    finally:
        current.reset(token)
