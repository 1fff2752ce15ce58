"""Every call has an owner."""

from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.fake_ports import OWNER
from support.served import Served, bare, stream_of

from dragoman.records import Owner
from dragoman.transport.principal import current_owner
from dragoman.v1 import run_service_pb2


async def test_handlers_and_what_they_start_see_the_owner() -> None:
    seen: list[Any] = []

    async def generate(request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            seen.append(current_owner())
            yield b"one"
        finally:
            seen.append(current_owner())

    async with bare(generate) as channel:
        _ = [message async for message in stream_of(channel, "/test.Test/Stream")(b"")]
    assert seen == [OWNER, OWNER]


async def test_until_callers_are_known_all_are_local(served: Served) -> None:
    await served.runs.Execute(run_service_pb2.RunRequest(agent_name="plain", message="hi"))
    assert served.engine.runs[0].draft.owner == OWNER == Owner("local")


def test_outside_of_a_call_there_is_no_owner() -> None:
    with pytest.raises(LookupError):
        current_owner()
