"""The members of a team, attended: what Agno's delegation leaves open is mended where it runs them.

    a member that fails          gives its team a result that says so: without one, Agno holds its task to be done
    members that work on tasks   in parallel are streamed like all others: Agno itself runs them in silence
    a member after a pause       has the session state that it had before
    what a leader says           is no template: whoever talks a leader into it could read there what the member keeps

The events of members in parallel take the way of all events, through the tool of the leader that started them. A leader
is given what its tools yield, so they travel as `Carried`, which has no words.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine
from contextlib import aclosing
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from agno.agent import Agent
from agno.exceptions import RunCancelledException
from agno.run import RunStatus
from agno.run import agent as agent_run
from agno.run import team as team_run
from agno.run.base import RunContext
from agno.team import Team
from agno.tools.function import FunctionCall

from dragoman.adapter.verbatim import Verbatim

logger = logging.getLogger(__name__)

FAILED: Final = "The member has failed."
"""What a leader is told of a member that failed: what an exception says is for the log only."""

_Output: TypeAlias = agent_run.RunOutput | team_run.TeamRunOutput
_OUTPUTS = (agent_run.RunOutput, team_run.TeamRunOutput)
_FAILURES = (agent_run.RunErrorEvent, team_run.RunErrorEvent)

_DONE: Final = object()
_ATTENDED: Final = "_dragoman_attended"


@dataclass(frozen=True, slots=True)
class _Inbox:
    """Where members that Agno does not stream put their events."""

    items: "asyncio.Queue[object]"
    run_id: str | None
    """The run that delegates to them."""


_inbox: ContextVar[_Inbox | None] = ContextVar("dragoman_inbox", default=None)


class Carried(agent_run.CustomEvent):
    """An event of a member on its way through a leader's tool."""

    carried: Any

    def __init__(self, event: Any) -> None:
        super().__init__(carried=event)  # type: ignore[no-untyped-call]  # Agno's

    def __str__(self) -> str:
        return ""


def carried(event: Any) -> Any:
    """The event itself, wherever it has travelled."""
    while isinstance(event, Carried):
        event = event.carried
    return event


def attend(member: Agent | Team) -> None:
    """Mends how a team runs the member, once. Members of a nested team are to be attended by themselves."""
    if _ATTENDED in vars(member):
        return
    run: Callable[..., Any] = member.arun
    go_on: Callable[..., Any] = member.acontinue_run

    def arun(*args: Any, **kwargs: Any) -> AsyncIterator[Any] | Coroutine[Any, Any, _Output]:
        inbox = _inbox.get()
        if isinstance(task := kwargs.get("input"), str):
            kwargs["input"] = Verbatim(task)
        if kwargs.get("stream"):
            return _streamed(member, run(*args, **kwargs), kwargs.get("run_id"))
        if inbox is None:
            silent: Coroutine[Any, Any, _Output] = run(*args, **kwargs)
            return silent
        kwargs.update(stream=True, stream_events=True, yield_run_output=True)
        return _told(_streamed(member, run(*args, **kwargs), kwargs.get("run_id")), inbox)

    def acontinue_run(*args: Any, run_response: _Output | None = None, **kwargs: Any) -> Any:
        if run_response is None:
            return go_on(*args, **kwargs)
        kwargs.setdefault("run_context", _context(run_response, kwargs))
        made = go_on(*args, run_response=run_response, **kwargs)
        return _streamed(member, made, run_response.run_id) if kwargs.get("stream") else made

    vars(member).update({_ATTENDED: True, "arun": arun, "acontinue_run": acontinue_run})


async def merged(call: FunctionCall, items: AsyncIterator[Any]) -> AsyncGenerator[Any, None]:
    """What the leader's tool yields, and between it the events of the members that it runs in silence."""
    context: RunContext | None = call.function._run_context  # noqa: SLF001  Agno keeps it nowhere else
    queue: asyncio.Queue[object] = asyncio.Queue()

    async def work() -> None:
        _inbox.set(_Inbox(queue, context.run_id if context else None))  # the task has its own context
        async for item in items:
            queue.put_nowait(item)

    task = asyncio.create_task(work())
    task.add_done_callback(lambda _: queue.put_nowait(_DONE))
    try:
        while (item := await queue.get()) is not _DONE:
            yield item
        await task
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})


async def _told(stream: AsyncGenerator[Any, None], inbox: _Inbox) -> _Output:
    """Runs a member to its end; its events go to the inbox."""
    output: _Output | None = None
    async with aclosing(stream):
        async for event in stream:
            if isinstance(event, _OUTPUTS):
                output = event
                continue
            if not isinstance(event, Carried):
                event.parent_run_id = event.parent_run_id or inbox.run_id
            inbox.items.put_nowait(Carried(event))
    if output is None:
        raise RunCancelledException("")
    return output


async def _streamed(
    member: Agent | Team, stream: AsyncGenerator[Any, None], run_id: str | None
) -> AsyncGenerator[Any, None]:
    """The member's stream, which ends with a result also when it has failed."""
    failed, ended = False, False
    try:
        async with aclosing(stream):
            async for event in stream:
                if isinstance(event, _OUTPUTS):
                    ended = True
                    event.content = FAILED if failed else event.content
                failed = failed or (isinstance(event, _FAILURES) and event.run_id == run_id)
                yield event
    except RunCancelledException:
        raise
    except Exception as error:  # noqa: BLE001  a member's failure is its own, and not that of the leader's tool
        logger.warning(
            "a member's run let out an exception",
            extra={"run_id": run_id, "exception_class": type(error).__name__},
        )
        failed = True
        yield _failure(member, run_id, str(error))
    if failed and not ended:
        yield _failed(member, run_id)


def _failure(member: Agent | Team, run_id: str | None, content: str) -> Any:
    if isinstance(member, Agent):
        return agent_run.RunErrorEvent(
            run_id=run_id, agent_id=member.id or "", agent_name=member.name or "", content=content
        )
    return team_run.RunErrorEvent(
        run_id=run_id, team_id=member.id or "", team_name=member.name or "", content=content
    )


def _failed(member: Agent | Team, run_id: str | None) -> _Output:
    if isinstance(member, Agent):
        return agent_run.RunOutput(
            run_id=run_id,
            agent_id=member.id,
            agent_name=member.name,
            content=FAILED,
            status=RunStatus.error,
        )
    return team_run.TeamRunOutput(
        run_id=run_id, team_id=member.id, team_name=member.name, content=FAILED, status=RunStatus.error
    )


def _context(output: _Output, given: dict[str, Any]) -> RunContext:
    """The context of a member's run that goes on, which Agno would read from a database."""
    return RunContext(
        run_id=output.run_id or "",
        session_id=given.get("session_id") or output.session_id or "",
        user_id=given.get("user_id"),
        session_state=output.session_state,
        dependencies=given.get("dependencies"),
        knowledge_filters=given.get("knowledge_filters"),
        metadata=given.get("metadata"),
    )
