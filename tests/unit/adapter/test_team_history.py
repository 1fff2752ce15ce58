"""A team's conversation goes on byte for byte as it would with Agno's own database, its members at work in each turn."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.team import Team, TeamMode
from support.bench import bench, claude
from support.teams import Cast, delegation, look

from dragoman.testing.anthropic import (
    ErrorEvent,
    FakeAnthropic,
    RedactedThinking,
    Text,
    Thinking,
    ToolUse,
    Turn,
)

MESSAGES = ("What is there? $x {y}", "And then?\n", "Thanks")

Build = Callable[..., Team]


def coordinate(cast: Cast) -> Build:
    cast.plays(
        "Lead",
        Turn(
            [
                Thinking("Who?", signature="Zmlyc3Q="),
                RedactedThinking("Y2lwaGVy"),
                delegation("d1", "ann", "\u4e16"),
            ]
        ),
        Turn([Text("So: "), delegation("d2", "ann", "a"), delegation("d3", "bob", "b")]),
        Turn("That is all."),
        Turn([delegation("d4", "bob", "c")]),
    )
    cast.plays("Ann", Turn([Text("Let me see. "), ToolUse("t1", "look", {"where": "\U0001f600"})]))
    cast.plays("Bob", Turn("One two", error_after=ErrorEvent(after=1)))
    return lambda **settings: cast.team(
        "Lead",
        [cast.agent("Ann", tools=[look], **PLAIN), cast.agent("Bob", **PLAIN)],
        TeamMode.coordinate,
        **settings,
    )


def route(cast: Cast) -> Build:
    for number in range(3):
        cast.plays("Lead", Turn([delegation(f"d{number}", "ann", "answer")]))
    return lambda **settings: cast.team(
        "Lead", [cast.agent("Ann", **PLAIN), cast.agent("Bob", **PLAIN)], TeamMode.route, **settings
    )


def broadcast(cast: Cast) -> Build:
    """To one member: with two, who speaks first is chance, and so is what the leader is told."""
    cast.plays(
        "Lead", Turn([ToolUse("d1", "delegate_task_to_members", {"task": "greet"})]), Turn("They greet.")
    )
    cast.plays("Lead", Turn([ToolUse("d2", "delegate_task_to_members", {"task": "again"})]), Turn("Again."))
    return lambda **settings: cast.team("Lead", [cast.agent("Ann", **PLAIN)], TeamMode.broadcast, **settings)


def nested(cast: Cast) -> Build:
    cast.plays(
        "Lead", Turn([delegation("d1", "desk", "ask")]), Turn("Yes."), Turn([delegation("d2", "ann", "x")])
    )
    cast.plays("Desk", Turn([Text("Ann? "), delegation("e1", "ann", "look")]))

    def build(**settings: Any) -> Team:
        desk = cast.team("Desk", [cast.agent("Ann", **PLAIN)], TeamMode.coordinate, **PLAIN)
        return cast.team("Lead", [desk], TeamMode.coordinate, **settings)

    return build


PLAIN: dict[str, Any] = {"telemetry": False, "resolve_in_context": False}
PLAYS = {made.__name__: made for made in (coordinate, route, broadcast, nested)}


@pytest.mark.parametrize("name", PLAYS)
async def test_three_turns_are_as_agnos_own(name: str) -> None:
    async with FakeAnthropic() as ours, FakeAnthropic() as theirs:
        thinking: dict[str, Any] = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
        model, other_model = claude(ours, **thinking), claude(theirs, **thinking)
        cast, other = Cast(ours, lambda: model), Cast(theirs, lambda: other_model)
        build, build_theirs = PLAYS[name](cast), PLAYS[name](other)
        async with bench(lambda: build(**PLAIN)) as b:
            for message in MESSAGES:
                ran = await b.turn(message)
                assert ran.outcome.status == "completed", ran.outcome.error
        db = InMemoryDb()  # type: ignore[no-untyped-call]  # Agno leaves it without annotations
        native = build_theirs(**PLAIN, db=db, add_history_to_context=True, num_history_runs=100)
        session = str(uuid.uuid4())
        for message in MESSAGES:
            async for _ in native.arun(message, session_id=session, stream=True, stream_events=True):
                pass
        await other_model.async_client.close()  # type: ignore[union-attr]  # it has been used
        assert len(ours.requests) == len(theirs.requests)
        for speaker in ("Lead", "Desk", "Ann", "Bob"):
            sent = [request.raw for request in cast.requests(speaker)]
            assert sent == [request.raw for request in other.requests(speaker)], speaker
        assert len(cast.requests("Lead")[-1].messages) >= 2 * len(MESSAGES) - 1


async def test_members_know_nothing_of_earlier_turns(fake: FakeAnthropic) -> None:
    """What they need to know, their leader tells them; nothing is read for them."""
    cast = Cast(fake, lambda: claude(fake))
    cast.plays("Lead", Turn([delegation("d1", "ann", "first")]), Turn("Yes."))
    cast.plays("Lead", Turn([delegation("d2", "ann", "second")]), Turn("Yes again."))

    def build() -> Team:
        members: list[Agent | Team] = [cast.agent("Ann")]
        return cast.team("Lead", members, TeamMode.coordinate, add_team_history_to_members=True)

    async with bench(build) as b:
        for message in ("One", "Two"):
            assert (await b.turn(message)).outcome.status == "completed"
        assert b.reminded == 0
    asked = [[str(message["content"]) for message in request.messages] for request in cast.requests("Ann")]
    assert [len(messages) for messages in asked] == [1, 1]
    assert "second" in asked[1][0]
    assert "first" not in asked[1][0]
    assert "first" in str(cast.requests("Lead")[-1].messages)


async def test_what_an_author_adds_to_a_member_is_not_stored(fake: FakeAnthropic) -> None:
    cast = Cast(fake, lambda: claude(fake))
    cast.plays("Lead", Turn([delegation("d1", "ann", "go")]))
    example: list[Any] = [
        {"role": "user", "content": "Example?"},
        {"role": "assistant", "content": "Like so."},
    ]

    def build() -> Team:
        return cast.team("Lead", [cast.agent("Ann", additional_input=example)], TeamMode.coordinate)

    async with bench(build) as b:
        await b.turn("One")
        assert [m.role for m in b.messages if m.agent_name == "Ann"] == ["user", "assistant"]
    assert len(cast.requests("Ann")[0].messages) == 3
