"""Members that fail in every way, and members that their team keeps to itself."""

from collections.abc import AsyncIterator
from typing import Any

from agno.agent import Agent
from agno.team import Team, TeamMode
from support.bench import Ran, bench, claude, shown, spent
from support.pauses import pay_tool, resumed, yes
from support.teams import SECRET, Cast, delegation, task_ids

from dragoman import wire
from dragoman.testing.anthropic import ErrorEvent, FakeAnthropic, HttpError, Text, ToolUse, Turn


def create(call: str, member: str) -> ToolUse:
    return ToolUse(call, "create_task", {"title": member, "description": "go", "assignee": member})


class Raising(Agent):
    """An agent whose run raises instead of saying that it failed."""

    def arun(self, *args: Any, **kwargs: Any) -> Any:
        return self._raise()

    async def _raise(self) -> AsyncIterator[Any]:
        raise ValueError(SECRET)
        yield


def kinds_of(ran: Ran, name: str) -> list[str]:
    return [event.WhichOneof("event") or "" for event in ran.events if event.member.agent_name == name]


def told(ran: Ran) -> bytes:
    return b"".join(event.SerializeToString() for event in ran.events)


async def test_a_team_that_keeps_its_members_to_itself(fake: FakeAnthropic) -> None:
    cast = Cast(fake, lambda: claude(fake))
    cast.plays("Lead", Turn([delegation("d1", "ann", "go")]), Turn("So it is."))
    cast.plays(
        "Ann", Turn([Text("I whisper. "), ToolUse("t1", "look", {"where": "here"})]), Turn("I whisper.")
    )

    def look(where: str) -> str:
        """Looks."""
        return "a whisper"

    def build() -> Team:
        members = [cast.agent("Ann", tools=[look])]
        return cast.team("Lead", members, TeamMode.coordinate, stream_member_events=False)

    async with bench(build) as b:
        ran = await b.turn("Go")
        assert ran.outcome.content == "So it is."
        asking = ["model_request_started", "model_request_completed"] * 2
        assert kinds_of(ran, "Ann") == ["member_run_started", *asking, "member_run_completed"]
        ends = [event.member_run_completed for event in ran.events if event.HasField("member_run_completed")]
        assert [(end.content, end.usage) for end in ends] == [("", wire.token_usage(cast.billed("Ann")))]
        assert spent(ran.outcome.calls) == fake.billed
        assert [m.content for m in shown(b) if m.agent_name == "Ann"][-1] == "I whisper."


async def test_a_member_whose_run_raises_has_failed_and_the_leader_goes_on(fake: FakeAnthropic) -> None:
    cast = Cast(fake, lambda: claude(fake))
    cast.plays("Lead", Turn([delegation("d1", "ann", "go")]), Turn("Without her, then."))
    model = claude(fake)
    async with bench(
        lambda: cast.team("Lead", [Raising(name="Ann", id="ann", model=model)], TeamMode.coordinate)
    ) as b:
        ran = await b.turn("Go")
        assert ran.outcome.content == "Without her, then."
        assert kinds_of(ran, "Ann") == ["member_run_started", "member_run_failed"]
        assert "tool_call_failed" not in ran.kinds
        assert SECRET.encode() not in told(ran)


async def test_tasks_of_members_that_fail_have_failed(fake: FakeAnthropic) -> None:
    """One alone, which breaks off; two in parallel, one refused by its provider and one that raises."""
    cast = Cast(fake, lambda: claude(fake))
    cast.plays(
        "Lead",
        Turn([create("c1", "ann"), create("c2", "bob"), create("c3", "cy")]),
        lambda request: Turn(
            [ToolUse("e1", "execute_task", {"task_id": task_ids(request)[0], "member_id": "ann"})]
        ),
        lambda request: Turn([ToolUse("e2", "execute_tasks_parallel", {"task_ids": task_ids(request)[1:3]})]),
        Turn([ToolUse("m1", "mark_all_complete", {"summary": "nobody did"})]),
        Turn("Nobody."),
    )
    cast.plays("Ann", Turn("As I", error_after=ErrorEvent(after=1, message=SECRET)))
    cast.plays("Bob", HttpError(400, message=SECRET))
    model = claude(fake)

    def build() -> Team:
        members: list[Agent | Team] = [
            cast.agent("Ann"),
            cast.agent("Bob"),
            Raising(name="Cy", id="cy", model=model),
        ]
        return cast.team("Lead", members, TeamMode.tasks)

    async with bench(build) as b:
        ran = await b.turn("Go")
        assert ran.outcome.content == "Nobody."
        for name in ("Ann", "Bob", "Cy"):
            assert kinds_of(ran, name)[0] == "member_run_started"
            assert kinds_of(ran, name)[-1] == "member_run_failed"
        last = [event.task_state_updated for event in ran.events if event.HasField("task_state_updated")][-1]
        assert [(task.status, task.result) for task in last.tasks] == [(4, "The member has failed.")] * 3
        assert SECRET.encode() not in told(ran)
        assert spent(ran.outcome.calls) == fake.billed


async def test_a_member_that_fails_after_a_pause(fake: FakeAnthropic) -> None:
    cast = Cast(fake, lambda: claude(fake))
    cast.plays("Lead", Turn([delegation("d1", "ann", "pay")]), Turn("A pity."))
    cast.plays("Ann", Turn([ToolUse("p1", "pay", {"to": "x", "amount": 1})]), HttpError(500, message=SECRET))
    paid: list[tuple[str, int]] = []

    def build() -> Team:
        ann = cast.agent("Ann", tools=[pay_tool(paid, requires_confirmation=True)])
        return cast.team("Lead", [ann], TeamMode.coordinate)

    async with bench(build) as b:
        ran = await resumed(b, await b.turn("Pay"), yes)
        assert ran.outcome.content == "A pity."
        assert paid == [("x", 1)]
        assert kinds_of(ran, "Ann")[-1] == "member_run_failed"
        assert "[Ann]: The member has failed." in str(cast.requests("Lead")[-1].messages)
        everything = "".join(message.content for message in shown(b))
        assert SECRET not in everything
        assert SECRET.encode() not in told(ran)
        assert (await b.turn("Go on")).outcome.status == "completed"
