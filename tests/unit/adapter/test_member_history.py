"""Members that keep their history go on byte for byte as with Agno's own database, whatever the shape of their team."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from agno.db.in_memory import InMemoryDb
from agno.team import Team, TeamMode
from support.bench import bench, claude
from support.teams import Cast, delegation, look

from dragoman.testing.anthropic import FakeAnthropic, RedactedThinking, Text, Thinking, ToolUse, Turn

Build = Callable[..., Team]

PLAIN: dict[str, Any] = {"telemetry": False, "resolve_in_context": False}
KEEPS: dict[str, Any] = {**PLAIN, "add_history_to_context": True}
MESSAGES = ("What is there? $x {y}", "And then?\n", "More", "Thanks")


def coordinate(cast: Cast) -> Build:
    """Ann thinks and looks, and is asked twice in one run; Bob forgets."""
    cast.plays(
        "Lead", Turn([delegation("d1", "ann", "\u4e16 {x}"), delegation("d2", "bob", "a")]), Turn("One.")
    )
    cast.plays(
        "Lead", Turn([delegation("d3", "ann", "b")]), Turn([delegation("d4", "ann", "c")]), Turn("Two.")
    )
    cast.plays("Lead", Turn("Nobody."))
    cast.plays("Lead", Turn([delegation("d5", "ann", "d"), delegation("d6", "bob", "e")]))
    cast.plays(
        "Ann",
        Turn(
            [
                Thinking("Where?", signature="Zmlyc3Q="),
                RedactedThinking("Y2lwaGVy"),
                Text("Let me see. "),
                ToolUse("t1", "look", {"where": "\U0001f600"}),
                ToolUse("t2", "look", {"where": ""}),
            ]
        ),
    )
    return lambda **settings: cast.team(
        "Lead",
        [cast.agent("Ann", tools=[look], **KEEPS), cast.agent("Bob", **PLAIN)],
        TeamMode.coordinate,
        **settings,
    )


def few(cast: Cast) -> Build:
    """Ann remembers one run, Bob so many messages."""
    for turn in range(4):
        cast.plays(
            "Lead",
            Turn([delegation(f"a{turn}", "ann", f"a {turn}"), delegation(f"b{turn}", "bob", f"b {turn}")]),
        )
        cast.plays("Lead", Turn("So."))
    return lambda **settings: cast.team(
        "Lead",
        [cast.agent("Ann", num_history_runs=1, **KEEPS), cast.agent("Bob", num_history_messages=4, **KEEPS)],
        TeamMode.coordinate,
        **settings,
    )


def route(cast: Cast) -> Build:
    for number in range(4):
        cast.plays("Lead", Turn([delegation(f"d{number}", "ann", f"answer {number}")]))
    return lambda **settings: cast.team(
        "Lead", [cast.agent("Ann", **KEEPS), cast.agent("Bob", **PLAIN)], TeamMode.route, **settings
    )


def broadcast(cast: Cast) -> Build:
    """To one member: with two, who speaks first is chance, and so is what the leader is told."""
    for number in range(4):
        task = ToolUse(f"d{number}", "delegate_task_to_members", {"task": f"greet {number}"})
        cast.plays("Lead", Turn([task]), Turn("They greet."))
    return lambda **settings: cast.team("Lead", [cast.agent("Ann", **KEEPS)], TeamMode.broadcast, **settings)


def nested(cast: Cast) -> Build:
    """A team within the team remembers; its own member does so within one task, and when the leader asks it."""
    cast.plays("Lead", Turn([delegation("d1", "desk", "one")]), Turn("Yes."))
    cast.plays("Lead", Turn([delegation("d2", "desk", "two")]), Turn("Yes."))
    cast.plays("Lead", Turn([delegation("d3", "ann", "three")]), Turn("Yes."))
    cast.plays(
        "Lead", Turn([delegation("d4", "ann", "four"), delegation("d5", "desk", "five")]), Turn("Yes.")
    )
    cast.plays(
        "Desk", Turn([delegation("e1", "ann", "x")]), Turn([delegation("e2", "ann", "y")]), Turn("Two.")
    )
    cast.plays("Desk", Turn([delegation("e3", "ann", "z")]), Turn("Three."))

    def build(**settings: Any) -> Team:
        desk = cast.team("Desk", [cast.agent("Ann", **KEEPS)], TeamMode.coordinate, **KEEPS)
        return cast.team("Lead", [desk], TeamMode.coordinate, **settings)

    return build


PLAYS = {made.__name__: made for made in (coordinate, few, route, broadcast, nested)}


@pytest.mark.parametrize("name", PLAYS)
async def test_members_go_on_as_agnos_own(name: str) -> None:
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
        session = str(uuid.uuid4())
        for message in MESSAGES:
            native = build_theirs(**PLAIN, db=db, add_history_to_context=True, num_history_runs=100)
            async for _ in native.arun(message, session_id=session, stream=True, stream_events=True):
                pass
        await other_model.async_client.close()  # type: ignore[union-attr]  # it has been used
        for speaker in ("Lead", "Desk", "Ann", "Bob"):
            sent = [request.raw for request in cast.requests(speaker)]
            assert sent == [request.raw for request in other.requests(speaker)], speaker
        assert len(ours.requests) == len(theirs.requests)
        assert "assistant" in [message["role"] for message in cast.requests("Ann")[-1].messages]
