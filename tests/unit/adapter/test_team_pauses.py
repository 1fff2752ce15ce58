"""Teams that pause and go on in another process: what the models are sent, who waits, what is stored, what it costs."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from agno.agent import Agent
from agno.run.base import RunContext
from agno.run.team import TeamRunOutput
from agno.team import Team, TeamMode
from support.bench import Bench, Ran, bench, claude, shown, spent
from support.pauses import Resolve, continued, no, pay_tool, result, resumed, values, yes
from support.teams import Cast, delegation, task_ids

from dragoman import wire
from dragoman.errors import AgentFailed
from dragoman.records import TokenUsage
from dragoman.testing.anthropic import FakeAnthropic, Outcome, Text, ToolUse, Turn
from dragoman.v1 import message_pb2

ROLE = message_pb2.MessageRole


@dataclass
class Play:
    """A team that pauses: who is in it, and what each says."""

    cast: Cast
    paid: list[tuple[str, int]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)

    def payer(self, name: str, **settings: Any) -> Agent:
        wanted = settings or {"requires_confirmation": True}
        return self.cast.agent(name, tools=[pay_tool(self.paid, **wanted)], **self.settings)

    def lead(self, *members: Agent | Team, mode: TeamMode = TeamMode.coordinate, **settings: Any) -> Team:
        return self.cast.team("Lead", members, mode, **self.settings, **settings)


def pay(call: str, to: str, amount: int = 1) -> ToolUse:
    return ToolUse(call, "pay", {"to": to, "amount": amount})


def one(play: Play) -> Callable[[], Team]:
    play.cast.plays("Lead", Turn([Text("Ann pays. "), delegation("d1", "ann", "pay")]))
    play.cast.plays("Ann", Turn([Text("I pay. "), pay("p1", "x")]))
    return lambda: play.lead(play.payer("Ann"), play.payer("Bob"))


def two(play: Play) -> Callable[[], Team]:
    play.cast.plays("Lead", Turn([delegation("d1", "ann", "pay"), delegation("d2", "bob", "pay")]))
    play.cast.plays("Ann", Turn([pay("p1", "x"), pay("p2", "y", 2)]))
    play.cast.plays("Bob", Turn([pay("p3", "z", 3)]))
    return lambda: play.lead(play.payer("Ann"), play.payer("Bob"))


def again(play: Play) -> Callable[[], Team]:
    play.cast.plays("Lead", Turn([delegation("d1", "ann", "pay")]), Turn([delegation("d2", "bob", "pay")]))
    play.cast.plays("Ann", Turn([pay("p1", "x")]), Turn([Text("And "), pay("p2", "y", 2)]))
    play.cast.plays("Bob", Turn([pay("p3", "z", 3)]))
    return lambda: play.lead(play.payer("Ann"), play.payer("Bob"))


def nested(play: Play) -> Callable[[], Team]:
    play.cast.plays("Lead", Turn([delegation("d1", "desk", "pay")]))
    play.cast.plays("Desk", Turn([delegation("d2", "ann", "pay")]))
    play.cast.plays("Ann", Turn([pay("p1", "x")]))

    def build() -> Team:
        desk = play.cast.team("Desk", [play.payer("Ann")], TeamMode.coordinate, **play.settings)
        return play.lead(desk, play.payer("Bob"))

    return build


def route(play: Play) -> Callable[[], Team]:
    play.cast.plays("Lead", Turn([delegation("d1", "ann", "pay")]))
    play.cast.plays("Ann", Turn([Text("I pay. "), pay("p1", "x")]))
    return lambda: play.lead(play.payer("Ann"), mode=TeamMode.route)


def broadcast(play: Play) -> Callable[[], Team]:
    play.cast.plays("Lead", Turn([ToolUse("d1", "delegate_task_to_members", {"task": "pay"})]))
    play.cast.plays("Ann", Turn([pay("p1", "x")]))
    play.cast.plays("Bob", Turn([pay("p2", "y", 2)]))
    return lambda: play.lead(play.payer("Ann"), play.payer("Bob"), mode=TeamMode.broadcast)


def own(play: Play) -> Callable[[], Team]:
    """A tool of the leader's own waits, and one of a member at the same time."""
    play.cast.plays("Lead", Turn([delegation("d1", "ann", "pay"), pay("p0", "w", 4)]))
    play.cast.plays("Ann", Turn([pay("p1", "x")]))
    return lambda: play.lead(play.payer("Ann"), tools=[pay_tool(play.paid, requires_confirmation=True)])


def tasks(play: Play) -> Callable[[], Team]:
    """Two members at work at the same time wait."""

    def create(call: str, member: str) -> ToolUse:
        return ToolUse(call, "create_task", {"title": member, "description": "pay", "assignee": member})

    play.cast.plays(
        "Lead",
        Turn([create("c1", "ann"), create("c2", "bob")]),
        lambda request: Turn([ToolUse("e1", "execute_tasks_parallel", {"task_ids": task_ids(request)})]),
        Turn([ToolUse("m1", "mark_all_complete", {"summary": "paid"})]),
    )
    play.cast.plays("Ann", Turn([pay("p1", "x")]))
    play.cast.plays("Bob", Turn([pay("p2", "y", 2)]))
    return lambda: play.lead(play.payer("Ann"), play.payer("Bob"), mode=TeamMode.tasks)


PLAYS = {made.__name__: made for made in (one, two, again, nested, route, broadcast, own, tasks)}
SUMS = {"one": 1, "two": 6, "again": 6, "nested": 1, "route": 1, "broadcast": 3, "own": 5, "tasks": 3}
AS_AGNO = ("one", "two", "again", "nested", "route", "broadcast")


def play_on(fake: FakeAnthropic, **settings: Any) -> Play:
    return Play(Cast(fake, lambda: claude(fake)), settings=settings)


@pytest.mark.parametrize("name", PLAYS)
async def test_a_team_goes_on_where_it_was_paused(name: str, fake: FakeAnthropic) -> None:
    play = play_on(fake)
    async with bench(PLAYS[name](play)) as b:
        ran = await b.turn("Pay them")
        rans = [ran]
        while ran.outcome.status == "paused":
            wanted = ran.outcome.requirements
            assert wanted
            assert all(requirement.tool_call.name == "pay" for requirement in wanted)
            members = {
                e.member.run_id: e.member for part in rans for e in part.events if e.HasField("member")
            }
            for requirement in wanted:
                if requirement.HasField("member"):
                    assert requirement.member == members[requirement.member.run_id]
                else:
                    assert requirement.tool_call.id == "p0"
            ran = await resumed(b, ran, *[yes] * len(wanted))
            rans.append(ran)
        assert ran.outcome.status == "completed", ran.outcome.error
        assert sum(amount for _, amount in play.paid) == SUMS[name]
        assert len(play.paid) == len(set(play.paid))
        _check_bill(rans, play)
        _check_text(rans)
        _check_kinds(rans)
        _check_stored(b)
        assert (await b.turn("And now?")).outcome.status == "completed"


def _check_bill(rans: list[Ran], play: Play) -> None:
    """Each call is booked once, on its own run; a member's end tells of all its calls, those before a pause too."""
    calls = [call for ran in rans for call in ran.outcome.calls]
    assert len({call.id for call in calls}) == len(calls) == len(play.cast.fake.requests)
    assert spent(calls) == play.cast.fake.billed
    for name in {call.agent_name for call in calls if call.parent_run_id}:
        own_calls = [call for call in calls if call.agent_name == name]
        assert spent(own_calls) == play.cast.billed(name)
        ends = [
            event.member_run_completed
            for ran in rans
            for event in ran.events
            if event.HasField("member_run_completed") and event.member.agent_name == name
        ]
        assert len(ends) == 1
        assert ends[0].usage == wire.token_usage(play.cast.billed(name))


def _check_text(rans: list[Ran]) -> None:
    deltas = [e.content_delta.text for ran in rans for e in ran.events if not e.HasField("member")]
    assert rans[-1].outcome.content == "".join(deltas)


def _check_kinds(rans: list[Ran]) -> None:
    """Every member begins once, waits, goes on, and ends once."""
    lives: dict[str, list[str]] = {}
    for event in (event for ran in rans for event in ran.events if event.HasField("member")):
        kind = event.WhichOneof("event") or ""
        if kind.startswith("member_run_"):
            lives.setdefault(event.member.run_id, []).append(kind.removeprefix("member_run_"))
    for life in lives.values():
        assert (life[0], life[-1]) == ("started", "completed")
        waits = life[1:-1]
        assert waits == ["paused", "continued"] * (len(waits) // 2)


def _check_stored(b: Bench) -> None:
    """In order, each message once; every call has one result, and no result says that somebody waits."""
    messages = shown(b)
    assert len({message.id for message in messages}) == len(messages)
    runs = {message.run_id for message in messages}
    for run in runs:
        mine = [message for message in messages if message.run_id == run]
        assert mine[0].role == ROLE.MESSAGE_ROLE_USER
        assert mine[-1].role == ROLE.MESSAGE_ROLE_ASSISTANT or mine[0].parent_run_id == ""
        asked = [call.id for message in mine for call in message.tool_calls]
        assert asked == [m.tool_call_id for m in mine if m.tool_call_id]
    assert not [message for message in messages if "requires human input" in message.content]


@pytest.mark.parametrize("name", AS_AGNO)
async def test_the_models_are_sent_what_agno_itself_would_send(name: str) -> None:
    async with FakeAnthropic() as ours, FakeAnthropic() as theirs:
        play = play_on(ours, telemetry=False)
        async with bench(PLAYS[name](play)) as b:
            ran = await b.turn("Pay them")
            while ran.outcome.status == "paused":
                ran = await resumed(b, ran, *[yes] * len(ran.outcome.requirements))
        assert ran.outcome.status == "completed", ran.outcome.error
        model = claude(theirs)
        other = Play(Cast(theirs, lambda: model), settings={"telemetry": False})
        await _native(PLAYS[name](other)())
        await model.async_client.close()  # type: ignore[union-attr]  # it has been used
        assert other.paid == play.paid
        for speaker in ("Lead", "Desk", "Ann", "Bob"):
            sent = [request.raw for request in play.cast.requests(speaker)]
            assert sent == [request.raw for request in other.cast.requests(speaker)], speaker


async def _native(team: Team) -> None:
    """The same by Agno alone, in one process, with its own objects."""
    out: Any = None
    item: Any
    async for item in team.arun(
        "Pay them", session_id="s", stream=True, stream_events=True, yield_run_output=True
    ):
        out = item if isinstance(item, TeamRunOutput) else out
    while out.is_paused:
        for wanted in out.requirements or ():
            if wanted.needs_confirmation:
                wanted.confirm()
        async for item in team.acontinue_run(
            run_response=out,
            requirements=out.requirements,
            stream=True,
            stream_events=True,
            yield_run_output=True,
        ):
            out = item if isinstance(item, TeamRunOutput) else out


async def test_a_leader_that_waited_itself_is_told_what_its_member_did(fake: FakeAnthropic) -> None:
    play = play_on(fake)
    async with bench(own(play)) as b:
        await resumed(b, await b.turn("Pay them"), yes, yes)
    results = {
        block["tool_use_id"]: block["content"]
        for block in play.cast.requests("Lead")[-1].messages[-1]["content"]
    }
    assert results == {
        "d1": "Member results after human-in-the-loop resolution:\n[Ann]: Ann speaks.",
        "p0": "paid 4 to w",
    }


@pytest.mark.parametrize(
    ("settings", "resolve", "given", "paid"),
    [
        ({"requires_confirmation": True}, no("not today"), "not today", []),
        ({"external_execution": True}, result("paid by hand"), "paid by hand", []),
        (
            {"requires_user_input": True, "user_input_fields": ["to"]},
            values(to="somebody else"),
            "paid 1 to somebody else",
            [("somebody else", 1)],
        ),
    ],
    ids=["refused", "executed by the caller", "user input"],
)
async def test_a_member_gets_every_kind_of_answer(
    fake: FakeAnthropic,
    settings: dict[str, Any],
    resolve: Resolve,
    given: str,
    paid: list[tuple[str, int]],
) -> None:
    play = play_on(fake)
    one(play)
    async with bench(lambda: play.lead(play.payer("Ann", **settings))) as b:
        ran = await resumed(b, await b.turn("Pay"), resolve)
        assert ran.outcome.status == "completed", ran.outcome.error
        assert given in str(play.cast.requests("Ann")[-1].messages[-1])
        assert play.paid == paid
        ends = [e for e in ran.events if e.HasField("tool_call_completed") or e.HasField("tool_call_failed")]
        (end,) = [e for e in ends if e.HasField("member") and e.member.agent_name == "Ann"]
        if given == "not today":
            assert end.tool_call_failed.tool_name == "pay"
        else:
            assert (end.tool_call_completed.tool_name, end.tool_call_completed.result) == ("pay", given)


async def test_a_members_session_state_survives(fake: FakeAnthropic) -> None:
    play = play_on(fake)
    one(play)
    seen: list[object] = []

    def pay_of(run_context: RunContext, to: str, amount: int) -> str:
        """Pays."""
        seen.append(dict(run_context.session_state or {}))
        return "paid"

    def build() -> Team:
        from agno.tools.function import Function

        function = Function(name="pay", entrypoint=pay_of, requires_confirmation=True)
        return play.lead(play.cast.agent("Ann", tools=[function]), session_state={"purse": "red"})

    async with bench(build) as b:
        ran = await resumed(b, await b.turn("Pay"), yes)
        assert ran.outcome.status == "completed", ran.outcome.error
        assert [state.get("purse") for state in seen if isinstance(state, dict)] == ["red"]


def _without_tool(play: Play) -> Team:
    return play.lead(play.cast.agent("Ann"), play.cast.agent("Bob"))


def _without_member(play: Play) -> Team:
    return play.lead(play.payer("Bob"))


def _no_team(play: Play) -> Agent:
    return play.payer("Lead")


@pytest.mark.parametrize("changed", [_without_tool, _without_member, _no_team])
async def test_a_team_that_has_changed_meanwhile_fails_with_a_type(
    changed: Callable[[Play], Agent | Team], fake: FakeAnthropic
) -> None:
    play = play_on(fake)
    teams: Iterator[Agent | Team] = iter([one(play)(), changed(play), one(play)()])
    async with bench(lambda: next(teams)) as b:
        ran = await resumed(b, await b.turn("Pay"), yes)
        assert ran.outcome.status == "failed"
        assert isinstance(ran.outcome.error, AgentFailed)
        assert play.paid == []
        assert spent([*ran.outcome.calls]) + TokenUsage() == spent(ran.outcome.calls)


async def test_broken_off_after_a_pause_keeps_what_was_done(fake: FakeAnthropic) -> None:
    play = play_on(fake)
    build = one(play)
    play.cast.plays("Ann", Turn("Ann says more", hang_after=2))
    async with bench(build) as b:
        ran = continued(b, await b.turn("Pay"), yes)
        until = asyncio.Event()

        async def consume() -> None:
            async with aclosing(ran.run.events()) as events:
                async for event in events:
                    ran.events.append(event)
                    if event.HasField("content_delta") and len(ran.of("content_delta")) == 2:
                        until.set()

        task = asyncio.create_task(consume())
        await until.wait()
        await ran.run.stop()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        request = play.cast.requests("Ann")[-1]
        async with asyncio.timeout(30):
            await request.ended.wait()
        assert request.outcome is Outcome.LEFT
        b.keep(ran.outcome)
        of_ann = [message.content for message in shown(b) if message.agent_name == "Ann"]
        assert of_ann == ["pay", "I pay. ", "paid 1 to x", "Ann says"]
        assert (await b.turn("Go on")).outcome.content == "Lead speaks."


async def test_broken_off_before_the_member_asks_its_model_again(fake: FakeAnthropic) -> None:
    """What its tool has given is known nowhere but in what came of the tool."""
    play = play_on(fake)
    async with bench(one(play)) as b:
        ran = continued(b, await b.turn("Pay"), yes)
        async with aclosing(ran.run.events()) as events:
            async for event in events:
                if event.HasField("tool_call_completed"):
                    break
        b.keep(ran.outcome)
        of_ann = [message.content for message in shown(b) if message.agent_name == "Ann"]
        assert of_ann == ["pay", "I pay. ", "paid 1 to x"]
        assert (await b.turn("Go on")).outcome.content == "Lead speaks."


async def test_a_pause_that_is_never_continued_leaves_a_history_that_a_provider_takes(
    fake: FakeAnthropic,
) -> None:
    play = play_on(fake)
    async with bench(two(play)) as b:
        assert (await b.turn("Pay")).outcome.status == "paused"
        assert (await b.turn("Never mind")).outcome.content == "Lead speaks."
