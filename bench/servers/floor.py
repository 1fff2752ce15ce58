"""Agno alone: what no server can save. Each connection asks for one run and gets the whole text when it has ended."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import uvloop
from agno.run.agent import RunContentEvent

from bench.agents import agno_agent
from bench.servers.stopping import stopped


def serve(_directory: Path, ready: Callable[[str], None]) -> None:
    """Iterates the events, as every server must, and sends none."""
    uvloop.run(_serve(ready))


async def _serve(ready: Callable[[str], None]) -> None:
    server = await asyncio.start_server(_answer, "127.0.0.1", 0, backlog=1024)
    ready(f"127.0.0.1:{server.sockets[0].getsockname()[1]}")
    async with server:
        await stopped()


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    prompt = (await reader.readline()).decode()
    text: list[str] = []
    async for event in agno_agent().arun(prompt, stream=True, stream_events=True):
        if isinstance(event, RunContentEvent):
            text.append(str(event.content))
    writer.write("".join(text).encode())
    await writer.drain()
    writer.close()
    await writer.wait_closed()
