"""The continuation is byte-identical at the model's API: ours against Agno's own, which reads from its own database."""

import uuid
from collections.abc import AsyncIterator, Sequence

import pytest
from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.media import File, Image
from agno.team import Team
from support.bench import bench, claude

from dragoman.engine.ports import InputMedia, MediaKind
from dragoman.testing.anthropic import FakeAnthropic, RedactedThinking, Text, Thinking, ToolUse, Turn
from dragoman.testing.picture import render_png

HUGE = 123456789012345678901234567890


def look(z: str, a: int, m: float, n: int = 0) -> str:
    """Looks something up."""
    return f"{z}: {a + 1}, {m}, {n}"


TURNS = (
    Turn(
        [
            Thinking("First I look.", signature="Zmlyc3Q="),
            RedactedThinking("Y2lwaGVy"),
            Text("I look. "),
            ToolUse("t1", "look", {"z": "\u00e9\u4e16\U0001f600", "a": 2, "m": 1e-7}),
            ToolUse("t2", "look", {"m": 2.50, "z": "", "a": HUGE}),
        ]
    ),
    Turn([Thinking("Now I know.", signature="c2Vjb25k"), Text("It is a square.")]),
    Turn([Text("First."), Text("Second.")]),
    Turn([ToolUse("t3", "look", {"z": "last", "a": 1, "m": 0.1})]),
    Turn("Done."),
)
MESSAGES = ("What is this? $x {y}", "And that?\n", "Thanks")


@pytest.fixture
async def fakes() -> AsyncIterator[tuple[FakeAnthropic, FakeAnthropic]]:
    async with FakeAnthropic() as ours, FakeAnthropic() as theirs:
        for fake in (ours, theirs):
            fake.script(*TURNS)
        yield ours, theirs


def media() -> list[InputMedia]:
    large = bytes(range(256)) * 100
    return [
        InputMedia(MediaKind.IMAGE, "image/png", "square.png", render_png("SQUARE")),
        InputMedia(MediaKind.FILE, "text/plain", "note.txt", "Notes: \u00e4\r\n".encode()),
        InputMedia(MediaKind.FILE, "application/pdf", "paper.pdf", b"%PDF-1.7\n" + large),
    ]


def agent(fake: FakeAnthropic, **settings: object) -> Agent:
    model = claude(fake, thinking={"type": "enabled", "budget_tokens": 1024})
    return Agent(
        model=model,
        tools=[look],
        instructions="Look at things.",
        telemetry=False,
        resolve_in_context=False,
        **settings,  # type: ignore[arg-type]  # Agent's own fields
    )


def differences(ours: Sequence[bytes], theirs: Sequence[bytes]) -> list[int]:
    assert len(ours) == len(theirs)
    return [at for at, (one, other) in enumerate(zip(ours, theirs, strict=True)) if one != other]


@pytest.mark.parametrize("kind", ["agent", "team"])
async def test_three_turns_with_media_thinking_and_parallel_tools(
    fakes: tuple[FakeAnthropic, FakeAnthropic], kind: str
) -> None:
    ours, theirs = fakes

    def build(fake: FakeAnthropic, **settings: object) -> Agent | Team:
        if kind == "agent":
            return agent(fake, **settings)
        leader = claude(fake, thinking={"type": "enabled", "budget_tokens": 1024})
        return Team(
            members=[Agent(name="Member", id="member", model=leader, telemetry=False)],
            model=leader,
            tools=[look],
            telemetry=False,
            resolve_in_context=False,
            **settings,  # type: ignore[arg-type]  # Team's own fields
        )

    async with bench(lambda: build(ours)) as b:
        for number, text in enumerate(MESSAGES):
            ran = await b.turn(text, media() if number == 0 else ())
            assert ran.outcome.status == "completed", ran.outcome.error
    db = InMemoryDb()  # type: ignore[no-untyped-call]  # Agno leaves it without annotations
    native = build(theirs, db=db, add_history_to_context=True, num_history_runs=100)
    session = str(uuid.uuid4())
    for number, text in enumerate(MESSAGES):
        picture, note, paper = media()
        given = (
            {
                "images": [Image(content=picture.data, mime_type=picture.mime_type)],
                "files": [
                    File(content=file.data, mime_type=file.mime_type, filename=file.name)
                    for file in (note, paper)
                ],
            }
            if number == 0
            else {}
        )
        async for _ in native.arun(text, session_id=session, stream=True, stream_events=True, **given):  # type: ignore[call-overload]
            pass
    await claude_client_closed(native)
    assert len(ours.requests) == len(TURNS)
    assert ours.requests[-1].images() == [render_png("SQUARE")]
    assert differences([r.raw for r in ours.requests], [r.raw for r in theirs.requests]) == []


async def claude_client_closed(component: Agent | Team) -> None:
    """Agno keeps its client on the model; one that is not closed hangs its loop."""
    client = component.model.async_client  # type: ignore[union-attr]  # it is a Claude
    await client.close()
