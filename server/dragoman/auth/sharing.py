"""Work that everybody shares who wants it at the moment."""

import asyncio
from collections.abc import Callable, Coroutine
from contextvars import Context
from typing import Any


class SharedWork:
    """Does `work` in one task at a time; who comes meanwhile takes what comes of it. Used on one event loop.

    `context`: what each task begins with a copy of; None: that of whoever came first.
    """

    def __init__(
        self, work: Callable[[], Coroutine[Any, Any, None]], name: str, context: Context | None = None
    ) -> None:
        self._work = work
        self._name = name
        self._context = context
        self._task: asyncio.Task[None] | None = None

    @property
    def under_way(self) -> bool:
        """Whether it is being done."""
        return self._task is not None and not self._task.done()

    def begin(self) -> asyncio.Task[None]:
        """The task that is under way, or a new one: to wait for one that is done would not even let the loop go on."""
        if self._task is None or self._task.done():
            context = None if self._context is None else self._context.copy()
            self._task = asyncio.create_task(self._work(), name=self._name, context=context)
            self._task.add_done_callback(_done)
        return self._task

    async def share(self) -> None:
        """Waits for it; who leaves does not take it from the others. Raises what it raises."""
        await asyncio.shield(self.begin())

    async def close(self) -> None:
        """Ends what is under way."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})


def _done(task: asyncio.Task[None]) -> None:
    if not task.cancelled():
        task.exception()  # it is raised where it is waited for, if anybody is left
