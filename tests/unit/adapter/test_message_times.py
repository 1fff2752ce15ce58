"""Within a conversation, the order of the messages is the order of their times."""

import itertools
from uuid import UUID

from agno.agent import Agent
from agno.team import Team
from support.bench import Bench, bench, claude

from dragoman.records import Message
from dragoman.testing.anthropic import FakeAnthropic, Recorded, Text, ToolUse, Turn


def add(a: int, b: int) -> int:
    """Adds."""
    return a + b


def conversations(b: Bench) -> dict[UUID | None, list[Message]]:
    """The session's own messages, and those of each member's run."""
    found: dict[UUID | None, list[Message]] = {}
    for message in b.messages:
        found.setdefault(message.run_id if message.parent_run_id else None, []).append(message)
    return found


def assert_in_order(messages: list[Message]) -> None:
    for earlier, later in itertools.pairwise(messages):
        assert earlier.create_time <= later.create_time, (earlier.role, later.role)


async def test_results_of_tools_are_not_older_than_what_called_them() -> None:
    async with FakeAnthropic() as fake:
        calls = [ToolUse("t1", "add", {"a": 1, "b": 2}), ToolUse("t2", "nowhere", {})]
        fake.script(
            Turn([Text("Well."), *calls]),
            Turn([ToolUse("t3", "add", {"a": 3, "b": 3})]),
            Turn("It is 6."),
            Turn("Yes."),
        )
        model = claude(fake)
        async with bench(lambda: Agent(model=model, tools=[add])) as b:
            await b.turn("1 + 2, and that twice?")
            await b.turn("Sure?")
            roles = [
                "user",
                "assistant",
                "tool",
                "tool",
                "assistant",
                "tool",
                "assistant",
                "user",
                "assistant",
            ]
            assert [message.role for message in b.messages] == roles
            assert_in_order(b.messages)


async def test_members_keep_the_times_at_which_they_spoke() -> None:
    def answer(request: Recorded) -> Turn:
        if not request.tools:
            return Turn("done")
        if any("tool_result" in str(message["content"]) for message in request.messages):
            return Turn("Together: done")
        return Turn([ToolUse("d1", "delegate_task_to_member", {"task": "go", "member_id": "one"})])

    async with FakeAnthropic() as fake:
        fake.respond = answer
        model = claude(fake)
        async with bench(
            lambda: Team(name="Team", model=model, members=[Agent(name="one", id="one", model=model)])
        ) as b:
            await b.turn("Hi")
            own, member = conversations(b).values()
            assert [message.role for message in own] == ["user", "assistant", "tool", "assistant"]
            assert [message.role for message in member] == ["user", "assistant"]
            assert_in_order(own)
            assert_in_order(member)
            assert own[1].create_time < member[-1].create_time < own[-1].create_time
