"""A server process: how it starts, drains on a signal, and ends.

On SIGTERM or SIGINT the server first says NOT_SERVING, and goes on for `drain_delay`; then it starts nothing new, lets its
runs finish within `drain_grace`, and ends the rest as drained; a second signal ends them at once. Then the process ends, also when the code of an agent does not:
a tool that hangs in a thread, a task that ignores its cancellation.
"""

import asyncio
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import Any

from dragoman.app import ServerInfo, running
from dragoman.config import Settings

logger = logging.getLogger(__name__)

LAST_WORDS = 2.0
"""Seconds that streams have to deliver their last events when the server stops."""

LAST_BREATH = 3.0
"""Seconds that threads and tasks of agents have to end when everything else has; then the process ends without them."""

AGENT_THREADS = 64
"""Threads in which the synchronous tools and hooks of all runs work: more wait. By default there would be a handful, and a few
slow tools would hold up everybody."""


async def serve(
    settings: Settings,
    *,
    migrate: bool = False,
    share_port: bool = False,
    started: Callable[[ServerInfo], None] | None = None,
) -> None:
    """Runs a server until SIGTERM or SIGINT, then drains it. Raises StartError."""
    stopping, hurried = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(AGENT_THREADS, thread_name_prefix="agent"))

    def on_signal(number: int) -> None:
        if stopping.is_set():
            hurried.set()
        logger.info("stopping", extra={"signal": signal.Signals(number).name})
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    async with AsyncExitStack() as stack:
        starting = asyncio.create_task(
            stack.enter_async_context(running(settings, migrate=migrate, share_port=share_port)), name="start"
        )
        if not await _first(starting, stopping):
            return
        server = await starting
        _settle()
        logger.info("serving", extra={"address": server.info.address, "agents": server.info.agents})
        if started is not None:
            started(server.info)
        await stopping.wait()
        server.grpc.set_serving(False)
        if settings.drain_delay and not hurried.is_set():
            waiting = asyncio.create_task(asyncio.sleep(settings.drain_delay), name="drain-delay")
            await _first(waiting, hurried)
        draining = asyncio.create_task(server.engine.drain(settings.drain_grace), name="drain")
        await _first(draining, hurried)
        # Who still watches gets the event that ended his run.
        await server.grpc.drain(0 if hurried.is_set() else LAST_WORDS)
    logger.info("stopped")


def _settle() -> None:
    """Lets the garbage collector look only at what comes from now on.

    It goes through everything when a quarter more has come than there is. Of half a million objects that modules hold that is
    late: teams, as Agno makes them, refer to themselves, and stay with all that was said in them until it comes. And it
    goes through little then, while everybody waits.
    """
    gc.freeze()
    gc.collect()  # goes through nothing, and so counts from nothing what comes


async def _first(task: asyncio.Task[Any], event: asyncio.Event) -> bool:
    """Waits for the task or the event. True when the task ended first; otherwise it is cancelled, and has ended."""
    waiting = asyncio.create_task(event.wait(), name=f"unless-{task.get_name()}")
    await asyncio.wait({task, waiting}, return_when=asyncio.FIRST_COMPLETED)
    ended = task.done()
    for each in (task, waiting):
        each.cancel()
    await asyncio.wait({task, waiting})
    return ended


def run(
    settings: Settings,
    *,
    migrate: bool = False,
    share_port: bool = False,
    started: Callable[[ServerInfo], None] | None = None,
) -> None:
    """`serve` on an event loop of its own (uvloop), and then the end of the process where agents do not let it go."""
    import uvloop

    watchdog = threading.Timer(LAST_BREATH, _end_without_stragglers)
    watchdog.daemon = True
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(settings, migrate=migrate, share_port=share_port, started=started))
            deafen(runner.get_loop())
            watchdog.start()
            # Leaving the block waits for all tasks and threads, however long they take.
    finally:
        watchdog.cancel()


def deafen(loop: asyncio.AbstractEventLoop) -> None:
    """Nothing is left that a signal could hurry: one more must not make a crash of a process that ends in good order.

    For the main thread, just before the loop is closed, which would give SIGTERM back its power to kill.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)


def _end_without_stragglers() -> None:
    """Ends the process at once. All that is the server's is closed by now."""
    logger.error("threads or tasks of agents do not end: the process ends without them")
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
