"""What an agent's code may do besides returning and raising ordinary exceptions, and what becomes of it.

A library that a tool calls may leave by `SystemExit`; asyncio would take that for the whole server's end. A tool may let
out the cancellation of something of its own; left alone it looks like the run's. And a tool that is an async generator
is iterated by a task of Agno's, which nobody stops when the run is.

    in a tool              the call fails, as with an ordinary exception, and the run goes on
    anywhere else          the run fails, as with an ordinary exception
    the run's own cancel   passes through
    a generator at work    is closed when the run ends
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from agno.models.message import Message
from agno.tools.function import FunctionCall, FunctionExecutionResult
from agno.utils.timer import Timer

from dragoman.adapter import members

logger = logging.getLogger(__name__)

CLOSE_GRACE: Final = 5.0
"""Seconds that tools have to close after the run's end."""

IN_PARALLEL: Final = "execute_tasks_parallel"
"""Agno's tool with which a team's leader has members work at the same time."""

ToolOutcome: TypeAlias = tuple[Any, Timer, FunctionCall, FunctionExecutionResult]
"""As Agno's `arun_function_call` returns it: success or an exception of the agent's, duration, call, result."""


class Strayed(Exception):
    """An agent's code let out what is no `Exception`. The cause is what it let out."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(f"{type(error).__name__} was raised")


@contextmanager
def contained() -> Iterator[None]:
    """Makes of an exit, an interrupt or a stray cancellation a `Strayed`. Around code that runs in the current task."""
    try:
        yield
    except (Exception, GeneratorExit):
        raise
    except BaseException as error:
        task = asyncio.current_task()
        if isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling():
            raise
        raise Strayed(error) from error


class Tools:
    """The tools of one run that are still at work. Used on one event loop."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self.awaited: frozenset[str] = frozenset()
        """Tool calls that the run was paused for."""
        self.answers: dict[str, Message] = {}
        """What has come of those, in order: until the model is asked again, Agno tells it nowhere else."""

    async def call(
        self, execute: Callable[[FunctionCall], Awaitable[ToolOutcome]], call: FunctionCall
    ) -> ToolOutcome:
        """One tool call, executed by Agno's `execute`."""
        timer = Timer()  # type: ignore[no-untyped-call]  # Agno leaves it without annotations
        timer.start()
        try:
            with contained():
                outcome = await execute(call)
        except Strayed as stray:
            timer.stop()
            _log(call, stray)
            call.error = str(stray)
            return False, timer, call, FunctionExecutionResult(status="failure", error=call.error)
        if isinstance(call.result, AsyncIterator):
            parallel = call.function.name == IN_PARALLEL
            items = members.merged(call, call.result) if parallel else call.result
            call.result = self._watched(call, items)
        elif isinstance(call.result, Iterator):
            call.result = _contained(call, call.result)
        return outcome

    def answered(self, message: Message) -> None:
        """A tool call has been executed or refused."""
        if message.tool_call_id in self.awaited:
            self.answers[str(message.tool_call_id)] = message

    async def close(self, iterating: "asyncio.Task[Any] | None") -> None:
        """Stops the generators that are still at work, but for those that the task which iterates the run drives itself."""
        tasks = {task for task in self._tasks if task is not iterating}
        for task in tasks:
            task.cancel()
        if tasks:
            _, left = await asyncio.wait(tasks, timeout=CLOSE_GRACE)
            if left:
                logger.error("tools did not stop when their run ended", extra={"tools": len(left)})

    async def _watched(self, call: FunctionCall, stream: AsyncIterator[Any]) -> AsyncIterator[Any]:
        task = asyncio.current_task()
        if task is not None:
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        try:
            with contained():
                async for item in stream:
                    yield item
        except Strayed as stray:
            _log(call, stray)
            raise
        finally:
            if (close := getattr(stream, "aclose", None)) is not None:
                await close()


def _contained(call: FunctionCall, items: Iterator[Any]) -> Iterator[Any]:
    try:
        with contained():
            yield from items
    except Strayed as stray:
        _log(call, stray)
        raise


def _log(call: FunctionCall, stray: Strayed) -> None:
    logger.warning(
        "a tool let out what is no ordinary exception",
        extra={"tool": call.function.name, "exception_class": type(stray.__cause__).__name__},
    )
