"""Every call of every model of an agent is in the ledger, once, on whose account it was made."""

import re
from dataclasses import dataclass
from typing import Any

import pytest
from agno.agent import Agent
from agno.db.in_memory import InMemoryDb
from agno.memory import MemoryManager
from agno.metrics import ModelMetrics, RunMetrics
from agno.models.anthropic import Claude
from agno.models.response import ModelResponse
from agno.run.agent import ModelRequestCompletedEvent
from agno.session import SessionSummaryManager
from agno.team import Team
from pydantic import BaseModel
from support.bench import HAIKU, PRICER, FreeMeter, bench, claude, spent

from dragoman import ids
from dragoman.adapter.calls import Ledger
from dragoman.adapter.models import Metered, instrument
from dragoman.records import CallStatus, ModelCall, TokenUsage
from dragoman.testing._usage import metrics
from dragoman.testing.anthropic import FakeAnthropic, HttpError, Recorded, ToolUse, Turn, Usage
from dragoman.testing.scripted import ScriptedModel

OTHER = Claude().id


class Answer(BaseModel):
    word: str


def use(tokens: int) -> Usage:
    return Usage(input_tokens=tokens, output_tokens=tokens + 1, cache_read_input_tokens=tokens + 2)


def by_kind(calls: list[ModelCall]) -> dict[str, int]:
    return {call.kind: call.usage.input_tokens for call in calls}


async def test_parser_and_output_models(fake: FakeAnthropic) -> None:
    fake.script(
        Turn("draft", usage=use(10)), Turn("final", usage=use(20)), Turn('{"word": "x"}', usage=use(30))
    )
    models = [claude(fake) for _ in range(3)]

    def build() -> Agent:
        return Agent(model=models[0], output_model=models[1], parser_model=models[2], output_schema=Answer)

    async with bench(build) as b:
        outcome = (await b.turn("Hi")).outcome
        assert spent(outcome.calls) == fake.billed
        assert by_kind(outcome.calls) == {"model": 10, "output_model": 20, "parser_model": 30}
        assert outcome.structured == {"word": "x"}


@pytest.mark.parametrize("own_models", [True, False])
async def test_memories_and_summaries(fake: FakeAnthropic, own_models: bool) -> None:
    def answer(request: Recorded) -> Turn:
        if "You greet." in request.system:
            return Turn("Hello", usage=use(10))
        if request.tools:
            return Turn("nothing to remember", usage=use(100))
        return Turn('{"summary": "They met.", "topics": []}', usage=use(200))

    fake.respond = answer
    model = claude(fake)
    db = InMemoryDb()  # type: ignore[no-untyped-call]  # Agno leaves it without annotations

    def build() -> Agent:
        return Agent(
            model=model,
            instructions="You greet.",
            db=db,
            update_memory_on_run=True,
            enable_session_summaries=True,
            memory_manager=MemoryManager(model=claude(fake)) if own_models else None,
            session_summary_manager=SessionSummaryManager(model=claude(fake)) if own_models else None,
        )

    async with bench(build) as b:
        first = (await b.turn("Hi")).outcome
        assert spent(first.calls) == fake.billed
        assert by_kind(first.calls) == {"model": 10, "memory_model": 100, "session_summary_model": 200}
        again = (await b.turn("Again")).outcome
        assert spent((*first.calls, *again.calls)) == fake.billed
        own = [request for request in fake.requests if "You greet." in request.system]
        said = [[message["role"] for message in request.messages] for request in own]
        assert said == [["user"], ["user", "assistant", "user"]], "history must come from the server, once"


async def test_a_fallback_model_is_billed_as_itself(fake: FakeAnthropic) -> None:
    fake.script(HttpError(529), Turn("Hello", usage=use(10)))
    first, second = claude(fake), claude(fake, OTHER)
    async with bench(lambda: Agent(model=first, fallback_models=[second])) as b:
        ran = await b.turn("Hi")
        assert [(call.model, call.status) for call in ran.outcome.calls] == [
            (first.id, CallStatus.FAILED),
            (OTHER, CallStatus.COMPLETED),
        ]
        assert spent(ran.outcome.calls) == fake.billed
        assert [event.model for event in ran.of("model_request_completed")] == [OTHER]  # type: ignore[attr-defined]
        assert ran.outcome.messages[1].model == OTHER


async def test_an_agent_inside_of_a_tool(fake: FakeAnthropic) -> None:
    """It shares the model, so it is billed with the run, on its own name."""
    fake.script(
        Turn([ToolUse("t1", "ask", {})], usage=use(10)),
        Turn("42", usage=use(20)),
        Turn("It is 42", usage=use(30)),
    )
    model = claude(fake)

    async def ask() -> str:
        """Asks an expert."""
        expert = Agent(name="Expert", model=model, telemetry=False)
        return str((await expert.arun("?")).content)

    async with bench(lambda: Agent(model=model, tools=[ask])) as b:
        ran = await b.turn("Hi")
        assert spent(ran.outcome.calls) == fake.billed
        assert [(call.agent_name, call.usage.input_tokens) for call in ran.outcome.calls] == [
            ("agent", 10),
            ("Expert", 20),
            ("agent", 30),
        ]
        assert ran.outcome.calls[1].parent_run_id == ran.outcome.calls[0].run_id
        assert [message.role for message in ran.outcome.messages] == [
            "user",
            "assistant",
            "tool",
            "assistant",
        ]


@pytest.mark.parametrize("mode", ["coordinate", "route", "broadcast"])
async def test_members_are_billed_on_their_own_runs(fake: FakeAnthropic, mode: str) -> None:
    def answer(request: Recorded) -> Turn:
        if "member" in request.system.lower() or request.tools:
            if any("tool_result" in str(message["content"]) for message in request.messages):
                return Turn("Together: done", usage=use(30))
            name = "delegate_task_to_members" if mode == "broadcast" else "delegate_task_to_member"
            arguments = {"task": "go"} if mode == "broadcast" else {"task": "go", "member_id": "one"}
            return Turn([ToolUse("d1", name, arguments)], usage=use(10))
        return Turn("done", usage=use(20))

    fake.respond = answer
    model = claude(fake)

    def build() -> Team:
        members: list[Agent | Team] = [Agent(name=name, id=name, model=model) for name in ("one", "two")]
        return Team(name="Team", mode=mode, model=model, members=members)  # type: ignore[arg-type]  # Agno takes its names

    async with bench(build) as b:
        ran = await b.turn("Hi")
        outcome = ran.outcome
        assert outcome.status == "completed", outcome.error
        assert spent(outcome.calls) == fake.billed
        names = ["one", "two"] if mode == "broadcast" else ["one"]
        assert sorted(c.agent_name for c in outcome.calls if c.parent_run_id) == names
        told = [
            event.model_request_completed.usage.input_tokens
            for event in ran.events
            if event.HasField("model_request_completed")
        ]
        assert sorted(told) == sorted(call.usage.input_tokens for call in outcome.calls)
        of_members = [message for message in outcome.messages if message.parent_run_id]
        assert [message.role for message in of_members] == ["user", "assistant"] * len(names)


async def test_a_team_that_works_on_tasks_in_parallel(fake: FakeAnthropic) -> None:
    """Agno tells nothing of these members' runs, but their calls and messages are there."""

    def answer(request: Recorded) -> Turn:
        if not any(tool["name"] == "create_task" for tool in request.tools):
            return Turn("done", usage=use(20))
        said = str(request.messages)
        if "tool_result" not in said:
            tasks = [
                ToolUse(name, "create_task", {"title": name, "description": "d", "assignee": name})
                for name in ("one", "two")
            ]
            return Turn(tasks, usage=use(10))
        if "execute_tasks_parallel" not in said:
            ids = re.findall(r"Task created: \[([0-9a-f-]+)\]", said)
            return Turn([ToolUse("go", "execute_tasks_parallel", {"task_ids": ids})], usage=use(11))
        if "mark_all_complete" not in said:
            return Turn([ToolUse("end", "mark_all_complete", {"summary": "ok"})], usage=use(12))
        return Turn("Done.", usage=use(13))

    fake.respond = answer
    model = claude(fake)

    def build() -> Team:
        members: list[Agent | Team] = [Agent(name=name, id=name, model=model) for name in ("one", "two")]
        return Team(name="Team", mode="tasks", model=model, members=members)  # type: ignore[arg-type]  # Agno takes its names

    async with bench(build) as b:
        outcome = (await b.turn("Work")).outcome
        assert outcome.content == "Done."
        assert spent(outcome.calls) == fake.billed
        assert sorted((c.agent_name, c.usage.input_tokens) for c in outcome.calls if c.parent_run_id) == [
            ("one", 20),
            ("two", 20),
        ]
        assert sorted((m.agent_name, m.role) for m in outcome.messages if m.parent_run_id) == [
            ("one", "assistant"),
            ("one", "user"),
            ("two", "assistant"),
            ("two", "user"),
        ]


async def test_a_team_within_a_team(fake: FakeAnthropic) -> None:
    def answer(request: Recorded) -> Turn:
        if "tool_result" in str(request.messages):
            return Turn("fine", usage=use(40))
        for name, member in (("outer", "inner"), ("inner", "leaf")):
            if f"You are {name}." in request.system:
                return Turn([ToolUse(name, "delegate_task_to_member", {"member_id": member, "task": "x"})])
        return Turn("leaf", usage=use(20))

    fake.respond = answer
    model = claude(fake)

    def build() -> Team:
        leaf = Agent(name="Leaf", id="leaf", model=model)
        inner = Team(name="Inner", id="inner", model=model, members=[leaf], instructions="You are inner.")
        return Team(name="Outer", model=model, members=[inner], instructions="You are outer.")

    async with bench(build) as b:
        outcome = (await b.turn("Go")).outcome
        assert spent(outcome.calls) == fake.billed
        runs = {call.agent_name: (call.run_id, call.parent_run_id) for call in outcome.calls}
        assert runs["agent"][1] is None
        assert runs["Inner"][1] == runs["agent"][0]
        assert runs["Leaf"][1] == runs["Inner"][0]


async def test_followups_and_compressed_tool_results(fake: FakeAnthropic) -> None:
    def answer(request: Recorded) -> Turn:
        if "You work." not in request.system:
            return Turn(
                '{"suggestions": ["Go on"]}' if "suggest" in str(request.json) else "short", usage=use(100)
            )
        if "tool_result" in str(request.messages):
            return Turn("Done.", usage=use(20))
        return Turn([ToolUse(f"t{number}", "long", {}) for number in range(4)], usage=use(10))

    def long() -> str:
        """Says much."""
        return "x" * 1000

    fake.respond = answer
    model = claude(fake)

    def build() -> Agent:
        return Agent(
            model=model, instructions="You work.", tools=[long], compress_tool_results=True, followups=True
        )

    async with bench(build) as b:
        outcome = (await b.turn("Go")).outcome
        assert spent(outcome.calls) == fake.billed
        assert [call.kind for call in outcome.calls] == [
            "model",
            *["compression_model"] * 4,
            "model",
            "followup_model",
        ]


@dataclass
class CountsCache(ScriptedModel):
    """Stands for providers whose input tokens include those that the cache served."""


CountsCache.__module__ = "agno.models.openai.chat"


async def test_cached_tokens_are_not_counted_twice() -> None:
    model = CountsCache(turns=[["Hi", TokenUsage(input_tokens=100, output_tokens=5, cache_read_tokens=80)]])
    async with bench(lambda: Agent(model=model)) as b:
        (call,) = (await b.turn("Hi")).outcome.calls
        assert call.usage == TokenUsage(input_tokens=20, output_tokens=5, cache_read_tokens=80)


async def test_a_call_that_only_an_event_told_of() -> None:
    ledger = Ledger(ids.new_id(), "agent", PRICER, FreeMeter())
    event = ModelRequestCompletedEvent(
        run_id=str(ledger.root.run_id),
        model=HAIKU,
        model_provider="Anthropic",
        input_tokens=10,
        output_tokens=5,
        cache_read_tokens=3,
        reasoning_tokens=2,
        time_to_first_token=0.5,
    )
    told = ledger.finish(event).model_request_completed
    assert told.usage.total_tokens == 18
    assert told.time_to_first_token.nanos == 500_000_000
    (call,) = ledger.rows()
    assert call.usage == TokenUsage(10, 5, 3, reasoning_tokens=2)
    assert call.cost is not None


def counted(*entries: tuple[str, int]) -> RunMetrics:
    details: dict[str, list[ModelMetrics]] = {}
    for kind, tokens in entries:
        details.setdefault(kind, []).append(
            ModelMetrics(id=HAIKU, provider="Anthropic", input_tokens=tokens, output_tokens=tokens)
        )
    return RunMetrics(details=details)


def seen(ledger: Ledger, tokens: int) -> None:
    model = Claude(id=HAIKU)
    instrument(Agent(model=model))
    call = ledger.open(model, {})
    call.usage = TokenUsage(tokens, tokens)
    call.counted = (tokens, tokens, 0, 0)
    ledger.end(call)


SUMS = [
    ("seen and counted", [5], [("memory_model", 5)], {"memory_model": [5]}),
    ("not seen", [], [("memory_model", 5)], {"memory_model": [5]}),
    ("partly seen", [5], [("memory_model", 12)], {"memory_model": [5, 7]}),
    (
        "seen twice as much",
        [5, 5],
        [("memory_model", 3), ("session_summary_model", 7)],
        {"auxiliary": [5], "session_summary_model": [5]},
    ),
    ("seen, not counted", [5], [], {"auxiliary": [5]}),
    (
        "two kinds",
        [5, 9],
        [("memory_model", 9), ("session_summary_model", 5)],
        {"memory_model": [9], "session_summary_model": [5]},
    ),
]


@pytest.mark.parametrize(
    ("sent", "sums", "expected"), [case[1:] for case in SUMS], ids=[case[0] for case in SUMS]
)
async def test_agnos_sums_are_explained_and_the_rest_is_booked(
    sent: list[int], sums: list[tuple[str, int]], expected: dict[str, list[int]]
) -> None:
    ledger = Ledger(ids.new_id(), "agent", PRICER, FreeMeter())
    for tokens in sent:
        seen(ledger, tokens)
    ledger.settle(str(ledger.root.run_id), counted(*sums))
    booked: dict[str, list[int]] = {}
    for call in ledger.rows():
        booked.setdefault(call.kind, []).append(call.usage.input_tokens)
    assert booked == expected


def test_instrumented_models_stay_the_authors() -> None:
    class Mine(Claude):
        colour: str = "red"

        def get_request_params(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
            return {**super().get_request_params(*args, **kwargs), "metadata": {"user_id": self.colour}}

    model = Mine(id=HAIKU, retries=3)
    inner, again = Agent(model=model), Agent(model=model)
    instrument(Team(members=[inner], model=model))
    instrument(again)
    assert isinstance(model, Mine)
    assert isinstance(model, Metered)
    assert type(model).__name__ == "Mine"
    assert type(model).__mro__.count(Metered) == 1
    assert model.retries == 0
    assert model.get_request_params()["metadata"] == {"user_id": "red"}


async def test_outside_of_a_run_an_instrumented_model_works_as_before() -> None:
    model = ScriptedModel(turns=[["Hello", TokenUsage(1, 1)]])
    instrument(Agent(model=model))
    streamed = [delta async for delta in model.ainvoke_stream(messages=[])]
    assert [delta.content for delta in streamed] == ["Hello", ""]
    assert isinstance(streamed[0], ModelResponse)
    assert metrics(TokenUsage(1, 1)).input_tokens == 1
