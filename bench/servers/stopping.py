"""Waiting for SIGTERM."""

import asyncio
import signal


async def stopped() -> None:
    """Returns when the process is told to stop."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()
