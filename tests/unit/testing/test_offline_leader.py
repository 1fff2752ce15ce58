"""The offline model as the leader of a team: who is asked for what, in every mode, and what is made of it."""

from collections.abc import Sequence
from typing import Any

import pytest
from agno.agent import Agent
from agno.media import Image
from agno.models.message import Message
from agno.run.team import TeamRunOutput
from agno.team import Team
from hypothesis import given
from hypothesis import strategies as st

from dragoman.testing._leader import lead, read_roster
from dragoman.testing._responder import Conversation, Member, Result, Tool
from dragoman.testing.offline import OfflineModel
from dragoman.testing.picture import render_png

Called = list[tuple[str, dict[str, Any]]]

SUNNY = "weather gave sunny in Paris"


def weather(city: str) -> str:
    """Tells the weather in a city."""
    return f"sunny in {city}"


def add(a: float, b: float) -> str:
    """Adds two numbers."""
    return f"{a + b:g}"


def multiply(a: float, b: float) -> str:
    """Multiplies two numbers."""
    return f"{a * b:g}"


def the_time() -> str:
    """Tells the time of day."""
    return "noon"


def count_letters(word: str) -> str:
    """Counts the letters of a word."""
    return str(len(word))


def team(mode: str, **more: Any) -> Team:
    model = OfflineModel(delay=0)
    members: list[Agent | Team] = [
        Agent(name="Meteorologist", role="Knows the weather", model=model, tools=[weather], telemetry=False),
        Agent(
            name="Calculator",
            role="Calculates: adds and multiplies",
            model=model,
            tools=[add, multiply],
            telemetry=False,
        ),
        Agent(name="Reader", role="Reads the word in a picture", model=model, telemetry=False),
        Agent(name="Counter", role="Counts letters", model=model, tools=[count_letters], telemetry=False),
    ]
    settings: dict[str, Any] = {"members": members, **more}
    return Team(name="team", model=model, mode=mode, telemetry=False, resolve_in_context=False, **settings)  # type: ignore[arg-type]  # a mode by name


async def ask(mode: str, text: str, *, images: Sequence[Image] | None = None, **more: Any) -> TeamRunOutput:
    return await team(mode, **more).arun(text, images=images)


def called(output: TeamRunOutput) -> Called:
    return [(str(call.tool_name), dict(call.tool_args or {})) for call in output.tools or []]


def asked(output: TeamRunOutput) -> list[tuple[str, str]]:
    """Whom the leader has delegated to, and what."""
    return [
        (arguments["member_id"], arguments["task"])
        for name, arguments in called(output)
        if name == "delegate_task_to_member"
    ]


@pytest.mark.parametrize(
    ("text", "tasks", "answer"),
    [
        (
            "What is the weather in Paris?",
            [("meteorologist", "What is the weather in Paris?")],
            f"Meteorologist says: {SUNNY}.",
        ),
        (
            "What is the weather in Paris? Also add 2 and 3",
            [("meteorologist", "What is the weather in Paris?"), ("calculator", "Also add 2 and 3.")],
            f"Meteorologist says: {SUNNY}. Calculator says: add gave 5.",
        ),
        (
            "Add 2 and 3, then multiply the result by 4",
            [("calculator", "Add 2 and 3."), ("calculator", "Multiply 5 by 4.")],
            "Calculator says: add gave 5. Calculator says: multiply gave 20.",
        ),
        (
            'Ask the Counter about "Rome".',
            [("counter", 'Ask the Counter about "Rome".')],
            'Counter says: I understand: “Ask the Counter about "Rome".”. This is your first message.',
        ),
        ("Good morning!", [], "I understand: “Good morning!”. This is your first message."),
    ],
    ids=["one", "two-at-once", "one-after-the-other", "by-name", "nobody"],
)
async def test_a_coordinator_delegates_and_answers(
    text: str, tasks: list[tuple[str, str]], answer: str
) -> None:
    output = await ask("coordinate", text)
    assert asked(output) == tasks
    assert output.content == answer


async def test_tasks_of_one_step_are_delegated_in_one_turn_those_of_the_next_in_another() -> None:
    output = await ask("coordinate", "What is the weather in Paris? Add 2 and 3, then multiply it by 4")
    turns = [len(message.tool_calls) for message in output.messages or [] if message.tool_calls]
    assert turns == [2, 1]
    assert [member for member, _ in asked(output)] == ["meteorologist", "calculator", "calculator"]


async def test_a_coordinator_uses_its_own_tools_too() -> None:
    output = await ask("coordinate", "Tell the time of day, then add 2 and 3", tools=[the_time])
    assert [name for name, _ in called(output)] == ["the_time", "delegate_task_to_member"]
    assert output.content == "the_time gave noon. Calculator says: add gave 5."


async def test_a_picture_goes_to_the_one_who_reads_pictures() -> None:
    picture = [Image(content=render_png("Rome"))]
    output = await ask("coordinate", "What is this?", images=picture)
    assert asked(output) == [("reader", "What is this?")]
    assert output.content == "Reader says: The word in the picture is Rome."
    output = await ask(
        "coordinate", "Which word stands in the picture? Then count the letters of it.", images=picture
    )
    assert asked(output)[1] == ("counter", 'Count the letters of "Rome".')
    assert str(output.content).endswith("Counter says: count_letters gave 4.")


async def test_a_leader_without_readers_looks_itself() -> None:
    output = await ask(
        "coordinate",
        "Please?",
        images=[Image(content=render_png("Rome"))],
        members=[Agent(name="Adder", role="Adds", model=OfflineModel(delay=0), tools=[add], telemetry=False)],
    )
    assert output.content == "The word in the picture is Rome."


@pytest.mark.parametrize(
    ("text", "member", "answer"),
    [
        ("What is the weather in Paris?", "meteorologist", f"{SUNNY}."),
        ("Add 2 and 3, then multiply the result by 4", "calculator", "add gave 5. multiply gave 20."),
        ("Hello", "meteorologist", "I understand: “Hello”. This is your first message."),
    ],
    ids=["weather", "sums", "nobody"],
)
async def test_a_router_hands_the_whole_message_over(text: str, member: str, answer: str) -> None:
    output = await ask("route", text)
    assert asked(output) == [(member, text)]
    assert output.content == answer
    assert len([message for message in output.messages or [] if message.role == "assistant"]) == 1


async def test_a_broadcaster_asks_everybody_once() -> None:
    output = await ask("broadcast", "What is the weather in Paris?")
    assert called(output) == [("delegate_task_to_members", {"task": "What is the weather in Paris?"})]
    assert str(output.content).startswith("The team says: ")
    assert SUNNY in str(output.content)
    assert len(output.member_responses) == 4
    assert (await ask("broadcast", "Hello")).member_responses == []


async def test_tasks_are_created_and_done_step_by_step() -> None:
    output = await ask("tasks", "What is the weather in Paris? Add 2 and 3, then multiply it by 4")
    names = [name for name, _ in called(output)]
    assert names == ["create_task", "create_task", "execute_tasks_parallel", "create_task", "execute_task"]
    made = [arguments for name, arguments in called(output) if name == "create_task"]
    assert [arguments["assignee"] for arguments in made] == ["meteorologist", "calculator", "calculator"]
    assert [len(arguments.get("depends_on", ())) for arguments in made] == [0, 0, 2]
    assert output.content == (f"The team says: {SUNNY}. add gave 5. Calculator says: multiply gave 20.")


async def test_no_task_is_made_of_a_greeting() -> None:
    output = await ask("tasks", "Hello")
    assert [name for name, _ in called(output)] == ["mark_all_complete"]
    assert output.content == "I understand: “Hello”. This is your first message."


async def test_a_leader_remembers() -> None:
    history = [Message(role="user", content="I like maize."), Message(role="assistant", content="So do I.")]
    output = await ask("coordinate", "What did I say first?", additional_input=history)
    assert output.content == "First you said: I like maize."


async def test_a_team_may_be_a_member() -> None:
    inner = team("coordinate")
    inner.name, inner.role = "Sums", "Calculates"
    output = await ask("coordinate", "Add 2 and 3", members=[inner])
    assert asked(output) == [("sums", "Add 2 and 3.")]
    assert output.content == "Sums says: Calculator says: add gave 5."


def test_the_roster_is_read_as_agno_writes_it() -> None:
    inner = team("route")
    inner.name, inner.role = "Inner", "Does sums"
    outer = team("coordinate", members=[inner, Agent(name="Poet", description="Writes verse")])
    written = outer.get_members_system_message_content()
    members, routes = read_roster(f"<team_members>\n{written}</team_members>")
    assert [(member.id, member.name) for member in members] == [("inner", "Inner"), ("poet", "Poet")]
    assert "Knows the weather" in members[0].about
    assert "Writes verse" in members[1].about
    assert not routes
    assert read_roster("You are a poet.") == ((), False)


MEMBERS = (Member("w", "Weather man", "Role: the weather"), Member("c", "Clerk", "Role: adds numbers"))
DELEGATE = Tool("delegate_task_to_member", "", {})
TASKS = [Tool(name, "", {}) for name in ("create_task", "execute_task", "execute_tasks_parallel")]


@given(
    text=st.text(max_size=80)
    | st.lists(st.sampled_from(["weather", "add", "2", "and", "then", "it", "Clerk", ".", ",", "Rome"])).map(
        " ".join
    ),
    rounds=st.integers(0, 6),
    results=st.lists(
        st.builds(
            Result,
            st.sampled_from(["delegate_task_to_member", "create_task", "execute_task", "mark_all_complete"]),
            st.text(max_size=20) | st.just("Task created: [1] x"),
            st.booleans(),
        ),
        max_size=6,
    ),
    tools=st.sampled_from([[DELEGATE], TASKS, [Tool("delegate_task_to_members", "", {})]]),
    routes=st.booleans(),
)
def test_every_turn_says_something_or_calls_something(
    text: str, rounds: int, results: list[Result], tools: list[Tool], routes: bool
) -> None:
    turn = lead(Conversation((text,), (), rounds, tuple(results), MEMBERS, routes), tools)
    assert bool(turn.text) != bool(turn.calls)
    assert {call.name for call in turn.calls} <= {tool.name for tool in tools} | {"mark_all_complete"}
