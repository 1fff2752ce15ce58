"""The demonstrations with a key: the same examples on the real Claude class, against the fake Messages API.

What a model would say is made by the rules of the offline model, from the request as it came over HTTP.
"""

import asyncio
import base64
import os
import re
import sys
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from dragoman.testing._leader import lead, read_roster
from dragoman.testing._responder import Conversation, Result, Tool, reply
from dragoman.testing.anthropic import FakeAnthropic, Recorded, Text, ToolUse, Turn, Usage

ROOT = Path(__file__).parents[2]
NUMBERS = count(1)

Block = dict[str, Any]


def blocks(message: Block) -> list[Block]:
    content = message["content"]
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def text_of(found: Sequence[Block]) -> str:
    return "\n".join(block["text"] for block in found if block["type"] == "text")


def results(since: Sequence[list[Block]]) -> Iterator[Result]:
    asked = {block["id"]: block for found in since for block in found if block["type"] == "tool_use"}
    for found in since:
        for block in found:
            if block["type"] == "tool_result":
                call, content = asked[block["tool_use_id"]], block["content"]
                text = content if isinstance(content, str) else text_of(content)
                yield Result(call["name"], text, bool(block.get("is_error")), call["input"])


def conversation(request: Recorded) -> Conversation:
    """What the model is asked, read from the request's body."""
    messages = request.json["messages"]
    parts = [blocks(message) for message in messages]
    spoken = [
        at
        for at, message in enumerate(messages)
        if message["role"] == "user" and all(block["type"] != "tool_result" for block in parts[at])
    ]
    since = parts[spoken[-1] :]
    system = request.json.get("system", "")
    members, routes = read_roster(system if isinstance(system, str) else text_of(system))
    return Conversation(
        said=tuple(text_of(parts[at]) for at in spoken),
        pictures=tuple(
            base64.b64decode(block["source"]["data"])
            for found in since
            for block in found
            if block["type"] == "image"
        ),
        rounds=sum(any(block["type"] == "tool_use" for block in found) for found in since),
        results=tuple(results(since)),
        members=members,
        routes=routes,
    )


def claude(request: Recorded) -> Turn:
    """A turn that follows the rules, billed by the size of what was sent and said."""
    asked = conversation(request)
    tools = [
        Tool(tool["name"], tool.get("description", ""), tool["input_schema"])
        for tool in request.json.get("tools", ())
    ]
    turn = (lead if asked.members else reply)(asked, tools)
    said = [ToolUse(f"toolu_{next(NUMBERS)}", call.name, dict(call.arguments)) for call in turn.calls]
    usage = Usage(input_tokens=len(request.raw) // 4, output_tokens=10 + len(turn.text) // 4)
    # Slower than the server joins deltas, as a real model is.
    return Turn(said or [Text(turn.text)], usage=usage, delay=0.01)


@pytest.mark.timeout(240)
async def test_all_of_them_hold() -> None:
    async with FakeAnthropic() as fake:
        fake.respond = claude
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "examples.demos"),
            cwd=ROOT,
            env={
                **os.environ,
                "ANTHROPIC_API_KEY": "test-key",
                "ANTHROPIC_BASE_URL": fake.url,
                "COLUMNS": "200",
            },
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        out = (await process.communicate())[0].decode()
        assert process.returncode == 0, out
        assert "with Claude." in out
        assert re.search(r"all \d+ checks hold", out)
        assert "test-key" not in out
        assert {request.model for request in fake.requests} == {"claude-haiku-4-5"}
