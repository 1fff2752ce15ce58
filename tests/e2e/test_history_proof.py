"""The proof of the history: what we send to the model is, byte for byte, what Agno's own history would have sent.

A conversation of three turns with an image, thinking with its signature and parallel tools (one of them failing), with
the server restarted between the turns, against Agno alone with its own database. The raw bodies of all requests to the
Messages API must be equal.
"""

from pathlib import Path

import pytest
from agno.agent import Agent
from agno.db.sqlite import SqliteDb
from agno.media import Image
from support.e2e import INSTRUCTIONS, TOOLS, ClaudeAgent, claude, kinds, stubs

from dragoman.testing.anthropic import FakeAnthropic, Text, Thinking, ToolUse, Turn
from dragoman.testing.picture import render_png
from dragoman.testing.serving import serving
from dragoman.v1 import message_pb2

# Agno finds a picture's type with a module that Python is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")

PICTURE = render_png("Ozymandias", scale=4)
BIG_PICTURE = render_png("Ozymandias", scale=40) + bytes(
    20_000
)  # over the size from which media are kept apart

USERS = (
    "What word is in the picture? The price is $$5 {user_id} — don't touch that.",
    "And the weather in Oslo and Paris, please, and how many live in Rome?",
    "Thank you. What did I ask first?",
)


def turns() -> list[Turn]:
    return [
        Turn([Thinking("Let me look.", signature="c2lnLTE="), Text("It says Ozymandias.")]),
        Turn(
            [
                Thinking("Three tools at once.", signature="c2lnLTI="),
                Text("I will look that up."),
                ToolUse("toolu_1", "weather", {"city": "Oslo"}),
                ToolUse("toolu_2", "weather", {"city": "Paris"}),
                ToolUse("toolu_3", "population", {"year": 2020, "city": "Rome"}),
                ToolUse("toolu_4", "broken", {"city": "Nowhere"}),
            ]
        ),
        Turn([Thinking("Now I know.", signature="c2lnLTM="), Text("Clear in both; 400000 in Rome.")]),
        Turn([Text("You asked what word is in the picture.")]),
    ]


async def agno_alone(db_file: Path, picture: bytes) -> list[bytes]:
    """The request bodies of the conversation with Agno's own database, a fresh agent for every turn."""
    async with FakeAnthropic() as fake:
        fake.script(*turns())
        model = claude(fake, thinking={"type": "enabled", "budget_tokens": 1024})
        for number, message in enumerate(USERS):
            agent = Agent(
                model=model,
                tools=list(TOOLS),
                instructions=INSTRUCTIONS,
                telemetry=False,
                db=SqliteDb(db_file=str(db_file)),
                add_history_to_context=True,
                num_history_runs=100,
                session_id="s",
                resolve_in_context=False,
            )
            images = [Image(content=picture, mime_type="image/png")] if number == 0 else None
            async for _ in agent.arun(
                message, images=images, session_id="s", stream=True, stream_events=True
            ):
                pass
        if model.async_client is not None:
            await model.async_client.close()
        return [request.raw for request in fake.requests]


async def dragoman(database_url: str, picture: bytes) -> list[bytes]:
    """The same through the wire, with a server that is stopped and started between the turns."""
    async with FakeAnthropic() as fake:
        fake.script(*turns())
        session_id = ""
        for number, message in enumerate(USERS):
            agent = ClaudeAgent(claude(fake, thinking={"type": "enabled", "budget_tokens": 1024}))
            async with serving(agent, database_url=database_url) as server, stubs(server.address) as client:
                media = [message_pb2.MediaInput(mime_type="image/png", data=picture)] if number == 0 else []
                events = await client.run("assistant", message, session_id=session_id, media=media)
                assert kinds(events)[-1] == "run_completed", events[-1]
                session_id = events[0].run_started.session_id
        return [request.raw for request in fake.requests]


async def test_small_and_large_pictures_thinking_and_parallel_tools(
    database_url: str, tmp_path: Path
) -> None:
    for name, picture in (("small", PICTURE), ("large", BIG_PICTURE)):
        expected = await agno_alone(tmp_path / f"{name}.db", picture)
        actual = await dragoman(database_url, picture)
        assert len(expected) == len(actual) == 4
        for number, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
            assert ours == theirs, f"request {number} differs"
