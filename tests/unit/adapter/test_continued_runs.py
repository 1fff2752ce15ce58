"""Runs that pause and go on: what the model is sent, what is stored, what it costs, and what is refused with a type."""

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import Any

import pytest
from agno.agent import Agent
from agno.run.agent import RunOutput
from agno.run.base import RunContext
from agno.team import Team
from agno.tools import Toolkit, tool
from agno.tools.user_control_flow import UserControlFlowTools
from agno.tools.user_feedback import UserFeedbackTools
from google.protobuf import json_format, struct_pb2
from support.bench import OWNER, Bench, Ran, bench, claude, spent

from dragoman.adapter import AgnoMessageView
from dragoman.engine.ports import Continuation, InputMedia, MediaKind, RunOrder
from dragoman.errors import AgentFailed
from dragoman.records import TokenUsage
from dragoman.testing.anthropic import FakeAnthropic, RedactedThinking, Text, Thinking, ToolUse, Turn, Usage
from dragoman.testing.picture import render_png
from dragoman.testing.scripted import ScriptedModel, ToolCall
from dragoman.v1 import event_pb2
from dragoman.v1 import run_service_pb2 as pb

USAGE = Usage(input_tokens=100, output_tokens=9, cache_read_input_tokens=7)
BASELINE = TokenUsage(100, 9, 7)

Resolve = Callable[[event_pb2.Requirement], pb.Resolution]


def yes(wanted: event_pb2.Requirement) -> pb.Resolution:
    return pb.Resolution(requirement_id=wanted.id, confirmation=pb.Confirmation(confirmed=True))


def no(note: str) -> Resolve:
    return lambda wanted: pb.Resolution(
        requirement_id=wanted.id, confirmation=pb.Confirmation(confirmed=False, note=note)
    )


def values(**given: Any) -> Resolve:
    def resolve(wanted: event_pb2.Requirement) -> pb.Resolution:
        resolution = pb.Resolution(
            requirement_id=wanted.id, user_input=pb.UserInput(values=struct_pb2.Struct())
        )
        resolution.user_input.values.update(given)
        return resolution

    return resolve


def result(text: str) -> Resolve:
    return lambda wanted: pb.Resolution(
        requirement_id=wanted.id, external_execution=pb.ExternalExecution(result=text)
    )


def order_after(b: Bench, paused: Ran, *resolves: Resolve, state: bytes | None = None) -> RunOrder:
    """As the engine makes it: nothing of the first order but ids, session and labels."""
    outcome = paused.outcome
    resolutions = tuple(
        resolve(wanted) for resolve, wanted in zip(resolves, outcome.requirements, strict=True)
    )
    taken_up = Continuation(outcome.continuation if state is None else state, resolutions, outcome.content)
    return RunOrder(paused.run_id, OWNER, b.session, "agent", "", (), {}, {}, taken_up)


async def resumed(b: Bench, paused: Ran, *resolves: Resolve, state: bytes | None = None) -> Ran:
    """The rest of the run, up to its end or its next pause, its messages kept."""
    ran = Ran(b.runner.begin(order_after(b, paused, *resolves, state=state), b.meter))
    await consumed(ran)
    b.keep(ran.outcome)
    return ran


async def consumed(ran: Ran) -> None:
    async with aclosing(ran.run.events()) as events:
        async for event in events:
            ran.events.append(event)


def pay_tool(paid: list[tuple[str, int]], **settings: Any) -> Any:
    @tool(**settings)  # type: ignore[untyped-decorator]  # Agno's
    def pay(to: str, amount: int) -> str:
        """Pays somebody."""
        paid.append((to, amount))
        return f"paid {amount} to {to}"

    return pay


async def test_confirmed(fake: FakeAnthropic) -> None:
    paid: list[tuple[str, int]] = []
    fake.script(
        Turn([Text("I pay. "), ToolUse("t1", "pay", {"to": "Ann", "amount": 5})], usage=USAGE),
        Turn("It is paid.", usage=USAGE),
    )
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[pay_tool(paid, requires_confirmation=True)])) as b:
        first = await b.turn("Pay Ann 5")
        assert (first.outcome.status, paid) == ("paused", [])
        assert [m.role for m in first.outcome.messages] == ["user", "assistant"]
        assert [call.id for call in AgnoMessageView().show(first.outcome.messages[1], {}).tool_calls] == [
            "t1"
        ]
        second = await resumed(b, first, yes)
        outcome = second.outcome
        assert (outcome.status, paid, outcome.error) == ("completed", [("Ann", 5)], None)
        assert outcome.content == "I pay. It is paid."
        assert [m.role for m in outcome.messages] == ["tool", "assistant"]
        assert "run_continued" not in second.kinds
        assert spent(first.outcome.calls) == spent(outcome.calls) == BASELINE
        assert spent(first.outcome.calls) + spent(outcome.calls) == fake.billed
        assert {c.id for c in first.outcome.calls}.isdisjoint(c.id for c in outcome.calls)
        fake.script(Turn("Fine."))
        assert (await b.turn("Thanks")).outcome.content == "Fine."


async def test_refused_with_a_note(fake: FakeAnthropic) -> None:
    paid: list[tuple[str, int]] = []
    fake.script(Turn([ToolUse("t1", "pay", {"to": "Ann", "amount": 5})]), Turn("Not paid."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[pay_tool(paid, requires_confirmation=True)])) as b:
        first = await b.turn("Pay Ann 5")
        second = await resumed(b, first, no("too much"))
        assert (second.outcome.status, paid) == ("completed", [])
        assert "too much" in json.dumps(fake.requests[1].messages[-1])


async def test_values_of_the_user(fake: FakeAnthropic) -> None:
    paid: list[tuple[str, int]] = []
    fake.script(Turn([ToolUse("t1", "pay", {"to": "Ann", "amount": 1})]), Turn("Paid."))
    model = claude(fake)
    asks = pay_tool(paid, requires_user_input=True, user_input_fields=["amount"])
    async with bench(lambda: Agent(model=model, tools=[asks])) as b:
        first = await b.turn("Pay Ann")
        second = await resumed(b, first, values(amount=7))
        assert (second.outcome.status, paid) == ("completed", [("Ann", 7)])
        assert type(paid[0][1]) is int


async def test_result_of_the_caller(fake: FakeAnthropic) -> None:
    paid: list[tuple[str, int]] = []
    fake.script(Turn([ToolUse("t1", "pay", {"to": "Ann", "amount": 1})]), Turn("Paid."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[pay_tool(paid, external_execution=True)])) as b:
        first = await b.turn("Pay Ann")
        second = await resumed(b, first, result("done outside"))
        assert (second.outcome.status, paid) == ("completed", [])
        assert "done outside" in json.dumps(fake.requests[1].messages[-1])
        assert second.kinds.count("tool_call_completed") == 1
        (told,) = second.of("tool_call_completed")
        assert isinstance(told, event_pb2.ToolCallCompleted)
        assert (told.tool_call_id, told.tool_name, told.result) == ("t1", "pay", "done outside")


@pytest.mark.parametrize("given", ["done", ""])
async def test_any_result_of_the_caller_is_taken(given: str) -> None:
    model = ScriptedModel(turns=[[ToolCall("pay", {"to": "Ann", "amount": 1})], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[pay_tool([], external_execution=True)])) as b:
        first = await b.turn("Pay Ann")
        assert (await resumed(b, first, result(given))).outcome.status == "completed"


async def test_choices(fake: FakeAnthropic) -> None:
    questions = [
        {
            "question": "Which?",
            "header": "Pick",
            "options": [{"label": "A"}, {"label": "B"}],
            "multi_select": True,
        }
    ]
    fake.script(Turn([ToolUse("t1", "ask_user", {"questions": questions})]), Turn("B it is."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[UserFeedbackTools()])) as b:
        first = await b.turn("Choose")
        (wanted,) = first.outcome.requirements
        assert wanted.WhichOneof("need") == "user_feedback"
        choice = pb.UserChoice(question="Which?", labels=["B", "A"])
        second = await resumed(
            b,
            first,
            lambda wanted: pb.Resolution(
                requirement_id=wanted.id, user_feedback=pb.UserFeedback(choices=[choice])
            ),
        )
        assert second.outcome.status == "completed", second.outcome.error
        sent = json.dumps(fake.requests[1].messages[-1])
        assert "Which?" in sent
        assert "B" in sent


async def test_fields_that_the_model_asks_for(fake: FakeAnthropic) -> None:
    fields = [
        {"field_name": "city", "field_type": "str", "field_description": "Where"},
        {"field_name": "count", "field_type": "int", "field_description": "How many"},
    ]
    fake.script(Turn([ToolUse("t1", "get_user_input", {"user_input_fields": fields})]), Turn("Thanks."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[UserControlFlowTools()])) as b:
        first = await b.turn("Ask me")
        second = await resumed(b, first, values(city="Rome", count=3))
        assert second.outcome.status == "completed", second.outcome.error
        sent = json.dumps(fake.requests[1].messages[-1])
        assert "Rome" in sent
        assert "3.0" not in sent


async def test_a_null_that_the_schema_allows(fake: FakeAnthropic) -> None:
    noted: list[str | None] = []

    @tool(requires_user_input=True, user_input_fields=["note"])
    def keep(note: str | None) -> str:
        """Keeps a note."""
        noted.append(note)
        return "kept"

    model = ScriptedModel(turns=[[ToolCall("keep", {})], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[keep])) as b:
        first = await b.turn("Keep it")
        schema = json_format.MessageToDict(first.outcome.requirements[0].user_input.schema)
        assert {"type": "null"} in schema["properties"]["note"]["anyOf"]
        second = await resumed(b, first, values(note=None))
        assert (second.outcome.status, noted) == ("completed", [None]), second.outcome.error


async def test_whole_numbers_stay_whole_where_the_type_is_no_plain_int() -> None:
    seen: list[object] = []

    @tool(requires_user_input=True, user_input_fields=["counts"])
    def keep(counts: list[int]) -> str:
        """Keeps counts."""
        seen.append(counts)
        return "kept"

    model = ScriptedModel(turns=[[ToolCall("keep", {})], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[keep])) as b:
        first = await b.turn("Keep it")
        second = await resumed(b, first, values(counts=[1, 2]))
        assert second.outcome.status == "completed", second.outcome.error
        assert seen == [[1, 2]]
        stored = json.loads(b.messages[-2].parts)
        assert stored["tool_args"] == {"counts": [1, 2]}
        assert "1.0" not in json.dumps(stored)


async def test_a_default_that_the_model_gave_may_be_left_out() -> None:
    paid: list[tuple[str, int]] = []

    @tool(requires_user_input=True, user_input_fields=["to"])
    def get(to: str) -> str:
        """Gets."""
        paid.append((to, 0))
        return to

    model = ScriptedModel(turns=[[ToolCall("get", {"to": "Ann"})], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[get])) as b:
        first = await b.turn("Get it")
        schema = json_format.MessageToDict(first.outcome.requirements[0].user_input.schema)
        given = {} if not schema.get("required") else {"to": "Ann"}
        second = await resumed(b, first, values(**given))
        assert (second.outcome.status, paid) == ("completed", [("Ann", 0)])


async def test_pauses_again_and_again(fake: FakeAnthropic) -> None:
    paid: list[tuple[str, int]] = []
    fake.script(
        Turn([Text("One. "), ToolUse("t1", "pay", {"to": "Ann", "amount": 1})], usage=USAGE),
        Turn([Text("Two. "), ToolUse("t2", "pay", {"to": "Bob", "amount": 2})], usage=USAGE),
        Turn([Text("Three. "), ToolUse("t3", "pay", {"to": "Cy", "amount": 3})], usage=USAGE),
        Turn("Done.", usage=USAGE),
    )
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[pay_tool(paid, requires_confirmation=True)])) as b:
        ran = await b.turn("Pay all")
        segments = [ran]
        for resolve in (yes, no("not Bob"), yes):
            assert len(ran.outcome.requirements) == 1
            ran = await resumed(b, ran, resolve)
            segments.append(ran)
        assert [s.outcome.status for s in segments] == ["paused", "paused", "paused", "completed"]
        assert paid == [("Ann", 1), ("Cy", 3)]
        assert ran.outcome.content == "One. Two. Three. Done."
        assert [len(s.outcome.calls) for s in segments] == [1, 1, 1, 1]
        assert sum((spent(s.outcome.calls) for s in segments), TokenUsage()) == fake.billed
        assert len({m.id for m in b.messages}) == len(b.messages)
        assert [m.role for m in b.messages] == ["user", *["assistant", "tool"] * 3, "assistant"]
        fake.script(Turn("Fine."))
        assert (await b.turn("Thanks")).outcome.content == "Fine."


async def test_several_at_once_of_different_kinds(fake: FakeAnthropic) -> None:
    paid: list[tuple[str, int]] = []
    looked: list[str] = []

    @tool(external_execution=True)
    def outside(name: str) -> str:
        """Runs outside."""
        return name

    def look(name: str) -> str:
        """Looks."""
        looked.append(name)
        return "seen"

    fake.script(
        Turn(
            [
                ToolUse("t1", "look", {"name": "x"}),
                ToolUse("t2", "pay", {"to": "Ann", "amount": 1}),
                ToolUse("t3", "outside", {"name": "y"}),
                ToolUse("t4", "pay", {"to": "Bob", "amount": 2}),
            ],
            usage=USAGE,
        ),
        Turn("Done.", usage=USAGE),
    )
    model = claude(fake)
    tools = [look, outside, pay_tool(paid, requires_confirmation=True)]
    async with bench(lambda: Agent(model=model, tools=tools)) as b:
        first = await b.turn("Go")
        kinds = [wanted.WhichOneof("need") for wanted in first.outcome.requirements]
        assert sorted(str(kind) for kind in kinds) == ["confirmation", "confirmation", "external_execution"]
        resolves = {"t2": yes, "t3": result("came back"), "t4": no("never")}
        second = await resumed(b, first, *[resolves[w.tool_call.id] for w in first.outcome.requirements])
        assert second.outcome.status == "completed", second.outcome.error
        assert (paid, looked) == ([("Ann", 1)], ["x"])
        answers = {
            block["tool_use_id"]
            for m in fake.requests[1].messages
            for block in m["content"]
            if isinstance(block, dict) and block.get("type") == "tool_result"
        }
        assert answers == {"t1", "t2", "t3", "t4"}
        fake.script(Turn("Fine."))
        assert (await b.turn("Thanks")).outcome.content == "Fine."


async def test_the_model_is_sent_what_agno_itself_would_send() -> None:
    large = bytes(range(256)) * 100
    picture = render_png("SQUARE")
    turns = (
        Turn([Thinking("Hm.", signature="Zmlyc3Q="), RedactedThinking("Y2lwaGVy"), Text("Earlier.")]),
        Turn(
            [
                Thinking("I pay.", signature="c2Vjb25k"),
                Text("Paying \u00e9\u4e16\U0001f600. "),
                ToolUse("t1", "pay", {"to": "\u00e4", "amount": 123456789012345678901234567890}),
                ToolUse("t2", "pay", {"amount": 2, "to": ""}),
            ]
        ),
        Turn([Text("More. "), ToolUse("t3", "pay", {"to": "Cy", "amount": 3})]),
        Turn("Done."),
    )
    async with FakeAnthropic() as ours, FakeAnthropic() as theirs:
        for fake in (ours, theirs):
            fake.script(*turns)

        def build(fake: FakeAnthropic, **settings: Any) -> Agent:
            return Agent(
                model=claude(fake, thinking={"type": "enabled", "budget_tokens": 1024}),
                tools=[pay_tool([], requires_confirmation=True)],
                instructions="Pay.",
                telemetry=False,
                resolve_in_context=False,
                **settings,
            )

        shared = build(ours).model
        media = [
            InputMedia(MediaKind.IMAGE, "image/png", "a.png", picture),
            InputMedia(MediaKind.FILE, "application/pdf", "b.pdf", b"%PDF-1.7\n" + large),
        ]

        def fresh() -> Agent:
            agent = build(ours)
            agent.model = shared
            return agent

        async with bench(fresh) as b:
            await b.turn("Look", media)
            ran = await b.turn("Pay {all} $x", media)
            while ran.outcome.status == "paused":
                ran = await resumed(b, ran, *[yes] * len(ran.outcome.requirements))
            assert ran.outcome.status == "completed", ran.outcome.error
        await _native(build(theirs), media)
        assert len(ours.requests) == len(theirs.requests) == len(turns)
        assert [r.raw for r in ours.requests] == [r.raw for r in theirs.requests]


async def _native(agent: Agent, media: Sequence[InputMedia]) -> None:
    """The same conversation by Agno alone, in one process, with its own objects."""
    from agno.db.in_memory import InMemoryDb
    from agno.media import File, Image

    agent.db = InMemoryDb()  # type: ignore[no-untyped-call]
    agent.add_history_to_context, agent.num_history_runs = True, 100
    image, paper = media

    def given() -> dict[str, Any]:
        return {
            "images": [Image(content=image.data, mime_type=image.mime_type)],
            "files": [File(content=paper.data, mime_type=paper.mime_type, filename=paper.name)],
        }

    out: RunOutput | None = None
    for text in ("Look", "Pay {all} $x"):
        async for item in agent.arun(
            text, session_id="s", stream=True, stream_events=True, yield_run_output=True, **given()
        ):
            out = item if isinstance(item, RunOutput) else out
    while out is not None and out.is_paused:
        for wanted in out.requirements or ():
            if wanted.needs_confirmation:
                wanted.confirm()  # type: ignore[no-untyped-call]
        stream = agent.acontinue_run(
            run_response=out,
            requirements=out.requirements,
            stream=True,
            stream_events=True,
            yield_run_output=True,
        )
        async for item in stream:
            out = item if isinstance(item, RunOutput) else out
    await agent.model.async_client.close()  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "state",
    [b"", b"{}", b"\xff\x00", b'{"schema": 999}', b"[]", b"null", b"7", b'{"schema": 1, "output": 3}'],
)
async def test_what_cannot_be_taken_up_is_a_failure_with_a_type(state: bytes) -> None:
    model = ScriptedModel(
        turns=[["Hm. ", ToolCall("pay", {"to": "Ann", "amount": 1}), TokenUsage(1, 1)], ["No."]]
    )
    async with bench(lambda: Agent(model=model, tools=[pay_tool([], requires_confirmation=True)])) as b:
        first = await b.turn("Pay")
        second = await resumed(b, first, yes, state=state)
        assert (second.outcome.status, second.outcome.content) == ("failed", "Hm. ")
        assert isinstance(second.outcome.error, AgentFailed)
        assert len(model.requests) == 1


@pytest.mark.parametrize("others", [True, False], ids=["others left", "none left"])
@pytest.mark.parametrize("resolve", [yes, no("no")], ids=["yes", "no"])
async def test_an_agent_that_has_lost_the_tool(fake: FakeAnthropic, others: bool, resolve: Resolve) -> None:
    def look() -> str:
        """Looks."""
        return "seen"

    paid: list[tuple[str, int]] = []
    tools: list[Any] = [pay_tool(paid, requires_confirmation=True)]
    fake.script(
        Turn([Text("Hm. "), ToolUse("t1", "pay", {"to": "Ann", "amount": 1})], usage=USAGE), Turn("Fine.")
    )
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=list(tools))) as b:
        first = await b.turn("Pay")
        tools[:] = [look] if others else []
        second = await resumed(b, first, resolve)
        assert (second.outcome.status, second.outcome.content, paid) == ("failed", "Hm. ", [])
        assert isinstance(second.outcome.error, AgentFailed), second.outcome.error
        assert len(fake.requests) == 1, "the provider was asked in vain"
        assert (await b.turn("Go on")).outcome.content == "Fine."


async def test_a_resolution_that_is_missing() -> None:
    model = ScriptedModel(turns=[[ToolCall("pay", {"to": "Ann", "amount": 1})]])
    async with bench(lambda: Agent(model=model, tools=[pay_tool([], requires_confirmation=True)])) as b:
        first = await b.turn("Pay")
        order = order_after(b, first, lambda _: pb.Resolution(requirement_id="other"))
        ran = Ran(b.runner.begin(order, b.meter))
        await consumed(ran)
        assert ran.outcome.status == "failed"
        assert isinstance(ran.outcome.error, AgentFailed)


async def test_what_the_author_was_told_at_first_he_is_told_again() -> None:
    orders: list[RunOrder] = []
    model = ScriptedModel(turns=[[ToolCall("pay", {"to": "Ann", "amount": 1})], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[pay_tool([], requires_confirmation=True)])) as b:
        build = b.build

        def watched(name: str, order: RunOrder) -> Agent | Team:
            orders.append(order)
            return build(name, order)

        b.build = watched  # type: ignore[method-assign]  # it looks on
        medium = InputMedia(MediaKind.IMAGE, "image/png", "a.png", render_png("A"))
        first = await b.turn("Pay {x}", [medium])
        second = await resumed(b, first, yes)
        assert second.outcome.status == "completed"
        one, other = orders
        assert (other.message, other.inputs) == (one.message, one.inputs)
        assert [m.kind for m in other.media] == [m.kind for m in one.media]


async def test_broken_off_after_a_pause_and_then_another_turn(fake: FakeAnthropic) -> None:
    running = asyncio.Event()

    @tool(requires_confirmation=True)
    async def slow(name: str) -> str:
        """Waits."""
        running.set()
        await asyncio.Event().wait()
        return name

    fake.script(Turn([Text("Hm. "), ToolUse("t1", "slow", {"name": "a"})], usage=USAGE), Turn("Fine."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[slow])) as b:
        first = await b.turn("Do it")
        ran = Ran(b.runner.begin(order_after(b, first, yes), b.meter))
        task = asyncio.create_task(consumed(ran))
        async with asyncio.timeout(30):
            await running.wait()
        await ran.run.stop()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert (ran.outcome.status, ran.outcome.content, ran.outcome.calls) == ("running", "Hm. ", [])
        b.keep(ran.outcome)
        assert (await b.turn("Go on")).outcome.content == "Fine."


async def test_a_pause_that_is_never_continued_leaves_a_history_that_a_provider_takes(
    fake: FakeAnthropic,
) -> None:
    fake.script(Turn([Text("Hm. "), ToolUse("t1", "pay", {"to": "Ann", "amount": 1})]), Turn("Fine."))
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[pay_tool([], requires_confirmation=True)])) as b:
        assert (await b.turn("Pay")).outcome.status == "paused"
        assert (await b.turn("Never mind")).outcome.content == "Fine."


async def test_the_meter_knows_calls_after_a_pause(fake: FakeAnthropic) -> None:
    fake.script(
        Turn([ToolUse("t1", "pay", {"to": "Ann", "amount": 1})], usage=USAGE), Turn("Paid.", usage=USAGE)
    )
    model = claude(fake)
    async with bench(lambda: Agent(model=model, tools=[pay_tool([], requires_confirmation=True)])) as b:
        first = await b.turn("Pay")
        b.meter.recording = True
        second = await resumed(b, first, yes)
        assert {call.id for call, _ in b.meter.noted} == {call.id for call in second.outcome.calls}
        assert b.meter.asked == 2


async def test_no_limit_left_after_a_pause(fake: FakeAnthropic) -> None:
    fake.script(Turn([ToolUse("t1", "pay", {"to": "Ann", "amount": 1})], usage=USAGE))
    model = claude(fake)
    paid: list[tuple[str, int]] = []
    async with bench(lambda: Agent(model=model, tools=[pay_tool(paid, requires_confirmation=True)])) as b:
        first = await b.turn("Pay")
        b.meter.closed = True
        ran = Ran(b.runner.begin(order_after(b, first, yes), b.meter))
        task = asyncio.create_task(consumed(ran))
        async with asyncio.timeout(30):
            await b.meter.refused.wait()
        await ran.run.stop()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(fake.requests) == 1
        assert [m.role for m in ran.outcome.messages] == ["tool"]


async def test_a_structured_answer_after_a_pause(fake: FakeAnthropic) -> None:
    from pydantic import BaseModel

    class Word(BaseModel):
        word: str

    fake.script(
        Turn([ToolUse("t1", "pay", {"to": "Ann", "amount": 1})], usage=USAGE),
        Turn('{"word": "x"}', usage=USAGE),
    )
    model = claude(fake)
    tools = [pay_tool([], requires_confirmation=True)]
    async with bench(lambda: Agent(model=model, tools=tools, output_schema=Word)) as b:
        first = await b.turn("Pay")
        assert first.outcome.status == "paused"
        second = await resumed(b, first, yes)
        assert second.outcome.status == "completed", second.outcome.error
        assert second.outcome.structured == {"word": "x"}
        assert spent(first.outcome.calls) + spent(second.outcome.calls) == fake.billed


async def test_session_state_survives() -> None:
    seen: list[dict[str, Any]] = []

    def note(run_context: RunContext) -> str:
        """Notes."""
        session_state = run_context.session_state
        assert session_state is not None
        session_state["noted"] = [*session_state.get("noted", []), len(seen)]
        seen.append(dict(session_state))
        return "ok"

    model = ScriptedModel(
        turns=[
            [ToolCall("note", {})],
            [ToolCall("pay", {"to": "Ann", "amount": 1})],
            [ToolCall("note", {})],
            ["Fine."],
        ]
    )
    tools = [note, pay_tool([], requires_confirmation=True)]
    async with bench(lambda: Agent(model=model, tools=tools, session_state={"base": 1})) as b:
        first = await b.turn("Go")
        second = await resumed(b, first, yes)
        assert second.outcome.status == "completed", second.outcome.error
        assert seen[-1]["noted"] == [0, 1]
        assert seen[-1]["base"] == 1


async def test_dependencies_and_metadata_of_the_author_survive() -> None:
    seen: list[Any] = []

    @tool(requires_confirmation=True)
    def use(run_context: RunContext) -> str:
        """Uses."""
        seen.append(run_context.dependencies)
        return "ok"

    model = ScriptedModel(turns=[[ToolCall("use", {})], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[use], dependencies={"a": 1})) as b:
        first = await b.turn("Go")
        second = await resumed(b, first, yes)
        assert second.outcome.status == "completed", second.outcome.error
        assert seen == [{"a": 1}]


async def test_nothing_that_was_before_a_pause_is_cut_or_rounded() -> None:
    """Neither what tools gave nor the arguments of the call that waits."""
    seen: list[Any] = []
    huge, long, half = 123456789012345678901234567890, "x" * (3 << 20), "half \ud83d"

    def fetch(run_context: RunContext) -> str:
        """Fetches."""
        assert run_context.session_state is not None
        run_context.session_state.update(long=long, half=half, none=float("inf"))
        return long

    @tool(requires_confirmation=True)
    def use(anything: Any, run_context: RunContext) -> str:
        """Uses."""
        state = run_context.session_state or {}
        seen.append((anything, state["long"] == long, state["half"] == half, state["none"]))
        return "ok"

    nested: Any = [huge, 1.5]
    for _ in range(40):
        nested = [nested]
    model = ScriptedModel(turns=[[ToolCall("fetch")], [ToolCall("use", {"anything": nested})], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[fetch, use])) as b:
        first = await b.turn("Go")
        second = await resumed(b, first, yes)
        assert second.outcome.status == "completed", second.outcome.error
        assert seen == [(nested, True, True, float("inf"))]
        assert [m.get_content_string() == long for m in model.requests[2].messages if m.role == "tool"] == [
            True,
            False,
        ]


async def test_what_was_done_before_the_model_is_asked_is_kept(fake: FakeAnthropic) -> None:
    """One call was executed by the caller, one is done, one is refused, one is at work when the run is broken off."""
    running = asyncio.Event()
    paid: list[tuple[str, int]] = []

    @tool(external_execution=True)
    def outside(name: str) -> str:
        """Runs outside."""
        return name

    @tool(requires_confirmation=True)
    async def slow(name: str) -> str:
        """Waits."""
        running.set()
        await asyncio.Event().wait()
        return name

    calls = [
        ToolUse("t1", "pay", {"to": "Ann", "amount": 1}),
        ToolUse("t2", "pay", {"to": "Bob", "amount": 2}),
        ToolUse("t3", "slow", {"name": "x"}),
        ToolUse("t4", "outside", {"name": "y"}),
    ]
    fake.script(Turn(calls, usage=USAGE), Turn("Fine."))
    model = claude(fake)
    tools = [outside, slow, pay_tool(paid, requires_confirmation=True)]
    async with bench(lambda: Agent(model=model, tools=tools)) as b:
        first = await b.turn("Go")
        resolves = {"t1": yes, "t2": no("never"), "t3": yes, "t4": result("came back")}
        resolved = [resolves[wanted.tool_call.id] for wanted in first.outcome.requirements]
        ran = Ran(b.runner.begin(order_after(b, first, *resolved), b.meter))
        task = asyncio.create_task(consumed(ran))
        async with asyncio.timeout(30):
            await running.wait()
        await ran.run.stop()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert paid == [("Ann", 1)]
        kept = {
            json.loads(m.parts)["tool_call_id"]: json.loads(m.parts)["content"] for m in ran.outcome.messages
        }
        assert kept == {"t1": "paid 1 to Ann", "t2": "never", "t4": "came back"}
        assert [m.id for m in ran.outcome.messages] == [m.id for m in ran.outcome.messages]
        b.keep(ran.outcome)
        assert (await b.turn("Go on")).outcome.content == "Fine."
        sent = json.dumps(fake.requests[1].messages)
        assert "paid 1 to Ann" in sent
        assert "came back" in sent
        assert '"t3"' not in sent


async def test_who_executes_a_tool_has_agreed_to_it() -> None:
    """A toolkit may ask for both; callers are told the more specific need alone."""
    called: list[str] = []

    def outside(name: str) -> str:
        """Runs outside."""
        called.append(name)
        return name

    kit = Toolkit(
        name="kit",
        tools=[outside],
        requires_confirmation_tools=["outside"],
        external_execution_required_tools=["outside"],
    )
    model = ScriptedModel(turns=[[ToolCall("outside", {"name": "x"})], ["Fine."]])
    async with bench(lambda: Agent(model=model, tools=[kit])) as b:
        first = await b.turn("Go")
        (wanted,) = first.outcome.requirements
        resolve = {"confirmation": yes, "external_execution": result("came back")}[
            str(wanted.WhichOneof("need"))
        ]
        second = await resumed(b, first, resolve)
        assert second.outcome.status == "completed", second.outcome.error
        assert called == ([] if wanted.HasField("external_execution") else ["x"])
        assert model.requests[1].messages[-1].content == ("x" if called else "came back")
