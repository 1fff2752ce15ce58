"""Dragoman without generated code: a generic tool talks to it through server reflection, as README.md shows."""

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from support.e2e import ClaudeAgent, claude

from dragoman.testing.anthropic import FakeAnthropic, Turn
from dragoman.testing.serving import serving

BUF = shutil.which("buf", path=str(Path(sys.executable).parent))


async def call(address: str, method: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The messages that a call by `buf curl` prints; without a schema, so through reflection."""
    assert BUF is not None, "buf is part of the developers' tools: make pytest installs it"
    process = await asyncio.create_subprocess_exec(
        *(BUF, "curl", "--protocol", "grpc", "--http2-prior-knowledge", "--data", json.dumps(body)),
        f"http://{address}/dragoman.v1.{method}",
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, err.decode()
    decoder, text, messages = json.JSONDecoder(), out.decode().strip(), []
    while text:
        message, end = decoder.raw_decode(text)
        messages.append(message)
        text = text[end:].lstrip()
    return messages


@pytest.mark.timeout(120)
async def test_list_create_run_execute() -> None:
    async with FakeAnthropic() as fake:
        fake.script(Turn("Hello there"), Turn("Hello again"))
        async with serving(ClaudeAgent(claude(fake))) as server:
            listed = await call(server.address, "AgentService/ListAgents", {})
            assert [agent["name"] for agent in listed[0]["agents"]] == ["assistant"]
            created = await call(server.address, "SessionService/CreateSession", {"agentName": "assistant"})
            session = created[0]["session"]["id"]
            request = {"agentName": "assistant", "sessionId": session, "message": "hello"}
            events = await call(server.address, "RunService/Run", {**request, "detail": "EVENT_DETAIL_ALL"})
            assert [event["sequence"] for event in events] == [str(n) for n in range(1, len(events) + 1)]
            assert events[-1]["runCompleted"]["content"] == "Hello there"
            executed = await call(server.address, "RunService/Execute", request)
            assert executed[0]["content"] == "Hello again"
            assert [message["role"] for message in executed[0]["messages"]] == [
                "MESSAGE_ROLE_USER",
                "MESSAGE_ROLE_ASSISTANT",
            ]
