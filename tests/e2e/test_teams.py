"""Teams in every mode through a real server: who said what, what is stored, and a ledger equal to the API's own bill."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest
from agno.db.sqlite import SqliteDb
from agno.team import Team, TeamMode
from support.e2e import MODEL_ID, Stubs, claude, kinds, stubs
from support.pauses import pay_tool, yes
from support.teams import SCENES, SECRET, Cast, Scene, delegation

from dragoman import wire
from dragoman.agents import BaseTeam
from dragoman.records import TokenUsage
from dragoman.testing.anthropic import FakeAnthropic, Outcome, Recorded, Text, ToolUse, Turn
from dragoman.testing.serving import serving
from dragoman.v1 import (
    event_pb2,
    message_pb2,
    run_service_pb2,
    session_service_pb2,
    usage_pb2,
    usage_service_pb2,
)

PRICES = {
    "input": "1.37",
    "output": "6.93",
    "cache_read": "0.11",
    "cache_write": "1.71",
    "cache_write_1h": "2.01",
}
RATE = "18.123456789"


class Lead(BaseTeam):
    """The team of a scene."""

    name = "lead"
    description = "A team with the fake Messages API."
    history_runs = None

    def __init__(self, build: Callable[[], Team]) -> None:
        self.build_scene = build

    def build_team(self) -> Team:
        return self.build_scene()


@asynccontextmanager
async def served(build: Callable[[], Team], database_url: str, folder: Path) -> AsyncIterator[Stubs]:
    """A server of its own each time; what it knows of earlier ones is in the database."""
    prices, rates = folder / "prices.toml", folder / "rates.toml"
    lines = "".join(f'{kind} = "{price}"\n' for kind, price in PRICES.items())
    prices.write_text(f'[anthropic."{MODEL_ID}"]\n{lines}')
    rates.write_text(f'[rates.ZAR]\n2020-01-01 = "{RATE}"\n')
    settings = {"database_url": database_url, "prices_file": prices, "rates_file": rates, "model_retries": 0}
    async with serving(Lead(build), **settings) as server, stubs(server.address) as client:
        yield client


def cast_of(fake: FakeAnthropic) -> Cast:
    model = claude(fake)
    return Cast(fake, lambda: model)


def bill(requests: Sequence[Recorded]) -> tuple[Fraction, Fraction]:
    """US dollars and rands, exactly: the sum over the requests, each rounded once to 12 places as it is stored."""
    usd_total = amount_total = Fraction(0)
    for request in requests:
        usage = request.billed
        usd = (
            usage.input_tokens * Fraction(PRICES["input"])
            + usage.output_tokens * Fraction(PRICES["output"])
            + usage.cache_read_tokens * Fraction(PRICES["cache_read"])
            + usage.cache_write_tokens * Fraction(PRICES["cache_write"])
        ) / 1_000_000
        usd_total += usd
        amount_total += Fraction(round(usd * Fraction(RATE) * 10**12), 10**12)
    return usd_total, amount_total


def assert_billed(usage: usage_pb2.TokenUsage, cost: usage_pb2.Cost, requests: Sequence[Recorded]) -> None:
    billed = sum((request.billed for request in requests), TokenUsage())
    assert usage == wire.token_usage(billed)
    assert (Fraction(Decimal(cost.exact_usd)), Fraction(Decimal(cost.exact_amount))) == bill(requests)
    assert cost.unpriced_calls == 0


async def assert_ledger(client: Stubs, cast: Cast, names: Sequence[str]) -> None:
    """The whole, and each one's part, as the API billed it."""
    query = usage_service_pb2.QueryUsageRequest
    whole = (await client.usage.QueryUsage(query())).groups
    assert len(whole) == 1
    assert_billed(whole[0].usage, whole[0].cost, cast.fake.requests)
    by_member = await client.usage.QueryUsage(query(group_by=[usage_service_pb2.USAGE_DIMENSION_MEMBER]))
    groups = {group.member_name: group for group in by_member.groups}
    assert groups.keys() == {"lead", *names}
    for name, group in groups.items():
        requests = cast.requests(name if name != "lead" else "Lead")
        assert_billed(group.usage, group.cost, requests)
        assert group.model_calls == len(requests)


async def messages(client: Stubs, session_id: str, *, members: bool) -> list[message_pb2.Message]:
    request = session_service_pb2.ListMessagesRequest(
        session_id=session_id, include_members=members, page_size=200
    )
    return list((await client.sessions.ListMessages(request)).messages)


@pytest.mark.parametrize("mode", SCENES)
async def test_a_run_in_every_mode(mode: str, database_url: str, tmp_path: Path) -> None:
    async with FakeAnthropic() as fake:
        cast = cast_of(fake)
        scene = SCENES[mode](cast)
        async with served(scene.build, database_url, tmp_path) as client:
            events = await _played(client, scene)
            assert kinds(events)[-1] == "run_completed", events[-1]
            end = events[-1].run_completed
            own = "".join(e.content_delta.text for e in events if not e.HasField("member"))
            assert own == end.content == scene.says
            assert_billed(end.usage, end.cost, fake.requests)
            assert end.model_calls == len(fake.requests)
            await assert_ledger(client, cast, list(scene.runs))
            _check_members(events, cast, scene)
            session_id = events[0].run_started.session_id
            stored = await messages(client, session_id, members=True)
            assert [message.id for message in stored] == list(end.message_ids)
            members = {e.member.run_id: e.member for e in events if e.HasField("member")}
            for message in stored:
                known = members.get(message.run_id)
                assert (message.parent_run_id, message.agent_name) == (
                    (known.parent_run_id, known.agent_name) if known else ("", "lead")
                )
            assert {message.run_id for message in stored if message.parent_run_id} == members.keys()
            of_leader = await messages(client, session_id, members=False)
            assert [m.id for m in of_leader] == [m.id for m in stored if not m.parent_run_id]
            assert all(SECRET not in str(thing) for thing in (*events, *of_leader))


async def _played(client: Stubs, scene: Scene) -> list[event_pb2.RunEvent]:
    request = run_service_pb2.RunRequest(
        agent_name="lead", message="What is there?", detail=run_service_pb2.EVENT_DETAIL_ALL
    )
    events: list[event_pb2.RunEvent] = []
    async for event in client.runs.Run(request):
        events.append(event)
        if event.HasField("member_run_completed") and event.member.agent_name in scene.gates:
            scene.gates[event.member.agent_name].set()
    return events


def _check_members(events: Sequence[event_pb2.RunEvent], cast: Cast, scene: Scene) -> None:
    """Each one's end tells what its own requests were billed."""
    for name in scene.runs:
        kind = "member_run_failed" if name == scene.failing else "member_run_completed"
        ends = [e for e in events if e.member.agent_name == name and e.WhichOneof("event") == kind]
        assert len(ends) == 1
        end = getattr(ends[0], kind)
        assert_billed(end.usage, end.cost, cast.requests(name))


@pytest.mark.parametrize("keeps", [False, True], ids=["forgetting", "keeping"])
async def test_the_history_is_agnos_own(database_url: str, tmp_path: Path, keeps: bool) -> None:
    """Three turns, the server restarted between them, against Agno alone with its own database: also the member's."""
    said = ("What is there? $$x {y}", "And then?", "Thanks")

    def play(cast: Cast) -> Callable[..., Team]:
        cast.plays(
            "Lead",
            Turn([Text("I ask. "), delegation("d1", "ann", "look"), delegation("d2", "ann", "\u4e16")]),
            Turn("So it is."),
            Turn([delegation("d3", "ann", "again")]),
        )
        return lambda **settings: cast.team(
            "Lead",
            [cast.agent("Ann", telemetry=False, add_history_to_context=keeps)],
            TeamMode.coordinate,
            telemetry=False,
            **settings,
        )

    async with FakeAnthropic() as ours, FakeAnthropic() as theirs:
        cast = cast_of(ours)
        build = play(cast)
        session_id = ""
        for message in said:
            async with served(build, database_url, tmp_path) as client:
                events = await client.run("lead", message, session_id=session_id)
                assert kinds(events)[-1] == "run_completed", events[-1]
                session_id = events[0].run_started.session_id
        other = cast_of(theirs)
        native = play(other)
        for message in said:
            team = native(
                db=SqliteDb(db_file=str(tmp_path / "agno.db")),
                add_history_to_context=True,
                num_history_runs=100,
                resolve_in_context=False,
            )
            async for _ in team.arun(message, session_id="s", stream=True, stream_events=True):
                pass
        await other.model().async_client.close()  # type: ignore[union-attr]  # it has been used
        for name in ("Lead", "Ann"):
            sent = [request.raw for request in cast.requests(name)]
            assert sent == [request.raw for request in other.requests(name)], name
        assert len(cast.requests("Ann")[-1].messages) == (1 + 2 * 2 if keeps else 1)


async def test_members_that_wait_go_on_in_another_server(database_url: str, tmp_path: Path) -> None:
    """The leader's own tool, a member's, and that of a nested team's member, all at once."""
    paid: list[tuple[str, int]] = []

    def pay(call: str, amount: int) -> ToolUse:
        return ToolUse(call, "pay", {"to": "x", "amount": amount})

    async with FakeAnthropic() as fake:
        cast = cast_of(fake)
        cast.plays(
            "Lead", Turn([delegation("d1", "ann", "pay"), delegation("d2", "desk", "pay"), pay("p0", 1)])
        )
        cast.plays("Desk", Turn([delegation("d3", "bob", "pay")]))
        cast.plays("Ann", Turn([pay("p1", 2)]), Turn([pay("p2", 4)]))
        cast.plays("Bob", Turn([pay("p3", 8)]))

        def build() -> Team:
            payer = pay_tool(paid, requires_confirmation=True)
            desk = cast.team("Desk", [cast.agent("Bob", tools=[payer])], TeamMode.coordinate)
            return cast.team(
                "Lead",
                [cast.agent("Ann", tools=[payer], add_history_to_context=True), desk],
                TeamMode.coordinate,
                tools=[payer],
            )

        async with served(build, database_url, tmp_path) as client:
            events = await client.run("lead", "Pay")
        members = {e.member.run_id: e.member for e in events if e.HasField("member")}
        waits: list[list[str]] = []
        while kinds(events)[-1] == "run_paused":
            wanted = events[-1].run_paused.requirements
            waits.append(sorted(requirement.member.agent_name for requirement in wanted))
            assert all(r.member == members[r.member.run_id] for r in wanted if r.HasField("member"))
            async with served(build, database_url, tmp_path) as client:
                request = run_service_pb2.ContinueRunRequest(
                    run_id=run_id_of(events, members),
                    resolutions=[yes(requirement) for requirement in wanted],
                    detail=run_service_pb2.EVENT_DETAIL_ALL,
                )
                events = [*events[:1], *[event async for event in client.runs.ContinueRun(request)]]
        assert waits == [["", "Ann", "Bob"], ["Ann"]]
        results = str(cast.requests("Lead")[-1].messages[-1])
        assert "[Desk]: Desk speaks." in results
        assert "[Ann]: Ann speaks." in results
        assert kinds(events)[-1] == "run_completed", events[-1]
        assert sorted(amount for _, amount in paid) == [1, 2, 4, 8]
        async with served(build, database_url, tmp_path) as client:
            end = events[-1].run_completed
            assert_billed(end.usage, end.cost, fake.requests)
            await assert_ledger(client, cast, ["Ann", "Bob", "Desk"])
            session_id = events[0].run_started.session_id
            stored = await messages(client, session_id, members=True)
            asked = sorted(call.id for message in stored for call in message.tool_calls)
            assert asked == sorted(message.tool_call_id for message in stored if message.tool_call_id)
            assert not [m for m in stored if "requires human input" in m.content]
            cast.plays("Lead", Turn([delegation("d9", "ann", "What was it?")]))
            assert kinds(await client.run("lead", "And now?", session_id=session_id))[-1] == "run_completed"
            remembered = cast.requests("Ann")[-1].messages
            assert [message["role"] for message in remembered] == ["user", "assistant"] * 3 + ["user"]
            assert [call in str(remembered) for call in ("p1", "p2", "p3")] == [True, True, False]


def run_id_of(events: Sequence[event_pb2.RunEvent], members: Mapping[str, event_pb2.Member]) -> str:
    """The run's own: the one that every member works for in the end."""
    assert events[0].run_started.run_id not in members
    return events[0].run_started.run_id


async def test_cancelling_a_run_ends_its_members_requests(database_url: str, tmp_path: Path) -> None:
    async with FakeAnthropic() as fake:
        cast = cast_of(fake)
        cast.plays("Lead", Turn([delegation("d1", "desk", "go")]))
        cast.plays("Desk", Turn([ToolUse("d2", "delegate_task_to_members", {"task": "go"})]))
        for name in ("Ann", "Bob"):
            cast.plays(name, Turn("One two three", hang_after=2, progress={1: 5}))

        def build() -> Team:
            desk = cast.team("Desk", [cast.agent("Ann"), cast.agent("Bob")], TeamMode.broadcast)
            return cast.team("Lead", [desk], TeamMode.coordinate)

        async with served(build, database_url, tmp_path) as client:
            request = run_service_pb2.RunRequest(
                agent_name="lead", message="Go", detail=run_service_pb2.EVENT_DETAIL_ALL
            )
            events: list[event_pb2.RunEvent] = []
            asked = False
            async for event in client.runs.Run(request):
                events.append(event)
                said = {
                    name: "".join(e.content_delta.text for e in events if e.member.agent_name == name)
                    for name in ("Ann", "Bob")
                }
                if set(said.values()) == {"One two"} and not asked:
                    asked = True
                    await client.runs.CancelRun(
                        run_service_pb2.CancelRunRequest(run_id=events[0].run_started.run_id)
                    )
            assert kinds(events)[-1] == "run_cancelled"
            end = events[-1].run_cancelled
            async with asyncio.timeout(30):
                for made in (*cast.requests("Ann"), *cast.requests("Bob")):
                    await made.ended.wait()
                    assert made.outcome is Outcome.LEFT
            assert_billed(end.usage, end.cost, fake.requests)
            await assert_ledger(client, cast, ["Ann", "Bob", "Desk"])
            session_id = events[0].run_started.session_id
            stored = await messages(client, session_id, members=True)
            assert [m.content for m in stored if m.content.startswith("One")] == ["One two"] * 2
            assert kinds(await client.run("lead", "And now?", session_id=session_id))[-1] == "run_completed"
