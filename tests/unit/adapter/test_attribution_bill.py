"""Who asked a model for what: in every construction that Agno knows, each request is one row, on the right account.

Each model says in a header whose it is, and what for; so the provider's books do not depend on ours.
"""

import asyncio
import re
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, Protocol

import pytest
from agno.agent import Agent
from agno.compression.manager import CompressionManager
from agno.db.in_memory import InMemoryDb
from agno.memory import MemoryManager
from agno.models.anthropic import Claude
from agno.session import SessionSummaryManager
from agno.team import Team
from pydantic import BaseModel
from support.bench import HAIKU, Ran, bench, claude
from support.bill import Bill, Reply

from dragoman.records import CallStatus, ModelCall, TokenUsage
from dragoman.testing.anthropic import (
    ErrorEvent,
    FakeAnthropic,
    HttpError,
    Recorded,
    Text,
    Thinking,
    ToolUse,
    Turn,
)

Answers = Sequence[Turn | HttpError]


class Answer(BaseModel):
    word: str


class Models(Protocol):
    """Makes a model for an account, and for a purpose if it is not the agent's own."""

    def __call__(self, account: str, kind: str = "", **settings: object) -> Claude: ...


@dataclass(frozen=True)
class Case:
    """A construction, and what everybody says in it."""

    name: str
    build: Callable[[Models], Agent | Team]
    says: Mapping[str, Answers] = field(default_factory=dict)
    """What an account answers, by how often it has called tools; who is not named is done at once."""
    parents: Mapping[str, str] = field(default_factory=dict)
    """Who works for whom."""
    kinds: frozenset[tuple[str, str]] = frozenset()
    """Besides their work, what accounts must have asked for."""
    failed: frozenset[str] = frozenset()
    """Accounts with a call that failed."""


def uses(*tools: ToolUse) -> Turn:
    return Turn([Text("I ask."), *tools])


def delegates(*members: str) -> Turn:
    return uses(*[ToolUse(m, "delegate_task_to_member", {"task": "go", "member_id": m}) for m in members])


ALL = uses(ToolUse("all", "delegate_task_to_members", {"task": "go"}))
LONG = uses(*[ToolUse(f"t{number}", "long", {}) for number in range(4)])
CUT = Turn("one two three", error_after=ErrorEvent(2))

SPARE = "spare"
"""In the place of a purpose: the model that steps in when another one is refused."""

AUXILIARY: dict[str, Turn] = {
    "memory_model": Turn("nothing to remember"),
    "session_summary_model": Turn('{"summary": "They met.", "topics": []}'),
    "compression_model": Turn("short"),
    "followup_model": Turn('{"suggestions": ["Go on"]}'),
    "parser_model": Turn('{"word": "x"}'),
    "output_model": Turn("final"),
    "reasoning_model": Turn([Thinking("Let me see."), Text("So.")]),
}

SIGNS = {
    "memory_model": "Memory Manager",
    "session_summary_model": "Analyze the following conversation",
    "followup_model": "follow-up suggestions",
}
"""How Agno asks for what it has no model of its own for."""


def replies(case: Case) -> Callable[[Recorded], Reply]:
    def reply(record: Recorded) -> Reply:
        account, kind = record.headers["x-account"], record.headers.get("x-kind", "")
        if "You are expert." in record.system:
            account = "expert"  # it shares the model of the agent whose tool it is
        spare, kind = kind == SPARE, kind.removeprefix(SPARE)
        if not kind and re.search(r"You are \w+\.", record.system) is None:
            kind = next((kind for kind, sign in SIGNS.items() if sign in record.system), "compression_model")
        if kind:
            return Reply(account, kind, AUXILIARY[kind])
        step = sum(
            message["role"] == "assistant" and "'tool_use'" in str(message["content"])
            for message in record.messages
        )
        says = [one for one in case.says.get(account, ()) if not (spare and isinstance(one, HttpError))]
        answer = says[step] if step < len(says) else Turn(f"{account} is done")
        return Reply(account, "model", _with_task_ids(answer, record))

    return reply


def _with_task_ids(answer: Turn | HttpError, record: Recorded) -> Turn | HttpError:
    """Tasks have ids that only the conversation tells."""
    if isinstance(answer, Turn) and any(
        getattr(b, "name", "") == "execute_tasks_parallel" for b in answer.blocks
    ):
        ids = re.findall(r"Task created: \[([0-9a-f-]+)\]", str(record.messages))
        return uses(ToolUse("go", "execute_tasks_parallel", {"task_ids": ids}))
    return answer


def db() -> InMemoryDb:
    return InMemoryDb()  # type: ignore[no-untyped-call]  # Agno leaves it without annotations


def long() -> str:
    """Says much."""
    return "x" * 1000


def shape(models: Models, account: str, *names: str) -> dict[str, Any]:
    """Settings of an agent or team that asks models for more than its answer."""
    known: dict[str, Callable[[], dict[str, Any]]] = {
        "parser": lambda: {"parser_model": models(account, "parser_model"), "output_schema": Answer},
        "output": lambda: {"output_model": models(account, "output_model")},
        "reasoning": lambda: {
            "reasoning_model": models(
                account, "reasoning_model", thinking={"type": "enabled", "budget_tokens": 1024}
            )
        },
        "compression": lambda: {
            "compression_manager": CompressionManager(
                model=models(account, "compression_model"), compress_tool_results=True
            ),
            "tools": [long],
        },
        "compression, own model": lambda: {"compress_tool_results": True, "tools": [long]},
        "memories": lambda: {
            "memory_manager": MemoryManager(model=models(account, "memory_model")),
            "update_memory_on_run": True,
        },
        "memories, own model": lambda: {"update_memory_on_run": True},
        "summaries": lambda: {
            "session_summary_manager": SessionSummaryManager(model=models(account, "session_summary_model")),
            "enable_session_summaries": True,
        },
        "summaries, own model": lambda: {"enable_session_summaries": True},
        "followups": lambda: {"followups": True, "followup_model": models(account, "followup_model")},
        "followups, own model": lambda: {"followups": True},
        "fallback": lambda: {"fallback_models": [models(account, SPARE)]},
    }
    found: dict[str, Any] = {"db": db()} if any(n.startswith(("memor", "summar")) for n in names) else {}
    for name in names:
        found |= known[name]()
    return found


def agent(models: Models, account: str, *names: str, **more: Any) -> Agent:
    settings: dict[str, Any] = {
        "name": account,
        "id": account,
        "model": models(account),
        "instructions": f"You are {account}.",
        "telemetry": False,
    }
    return Agent(**settings, **shape(models, account, *names), **more)


def team(models: Models, account: str, members: list[Agent | Team], *names: str, **more: Any) -> Team:
    settings: dict[str, Any] = {
        "name": account,
        "id": account,
        "model": models(account),
        "members": members,
        "instructions": f"You are {account}.",
    }
    return Team(**settings, **shape(models, account, *names), **more)


def pair(models: Models, **more: Any) -> Team:
    return team(models, "agent", [agent(models, "one"), agent(models, "two")], **more)


def one_that_asks(models: Models) -> Agent:
    """A member with a tool that runs another agent, with the member's own model."""
    model = models("one")

    async def ask() -> str:
        """Asks an expert."""
        expert = Agent(name="expert", model=model, instructions="You are expert.", telemetry=False)
        return str((await expert.arun("?")).content)

    return Agent(name="one", id="one", model=model, instructions="You are one.", tools=[ask])


ASK = uses(ToolUse("a1", "ask", {}))
BOTH = {"one": "agent", "two": "agent"}


def kinds(account: str, *names: str) -> frozenset[tuple[str, str]]:
    return frozenset((account, name) for name in names)


SLOTS = ("parser_model", "output_model")
MANAGED = ("memory_model", "session_summary_model", "followup_model")

AGENTS = [
    Case("plain", lambda m: agent(m, "agent")),
    Case(
        "parser and output model",
        lambda m: agent(m, "agent", "parser", "output"),
        kinds=kinds("agent", *SLOTS),
    ),
    Case(
        "reasoning model",
        lambda m: agent(m, "agent", "reasoning"),
        kinds=kinds("agent", "reasoning_model"),
    ),
    Case(
        "fallback",
        lambda m: agent(m, "agent", "fallback"),
        {"agent": [HttpError(529)]},
        failed=frozenset({"agent"}),
    ),
    Case(
        "managers with models of their own",
        lambda m: agent(m, "agent", "memories", "summaries", "followups"),
        kinds=kinds("agent", *MANAGED),
    ),
    Case(
        "managers with the agent's model",
        lambda m: agent(m, "agent", "memories, own model", "summaries, own model", "followups, own model"),
        kinds=kinds("agent", *MANAGED),
    ),
    Case(
        "compression",
        lambda m: agent(m, "agent", "compression"),
        {"agent": [LONG]},
        kinds=kinds("agent", "compression_model"),
    ),
    Case(
        "compression with the agent's model",
        lambda m: agent(m, "agent", "compression, own model"),
        {"agent": [LONG]},
        kinds=kinds("agent", "compression_model"),
    ),
    Case(
        "cut off after a tool",
        lambda m: agent(m, "agent", tools=[long]),
        {"agent": [LONG, CUT]},
        failed=frozenset({"agent"}),
    ),
    Case(
        "everything",
        lambda m: agent(
            m, "agent", "reasoning", "output", "compression", "memories", "summaries", "followups"
        ),
        {"agent": [LONG]},
        kinds=kinds("agent", "reasoning_model", "output_model", "compression_model", *MANAGED),
    ),
]

TASKS = [
    uses(*[ToolUse(n, "create_task", {"title": n, "description": "d", "assignee": n}) for n in BOTH]),
    uses(ToolUse("go", "execute_tasks_parallel", {})),
    uses(ToolUse("end", "mark_all_complete", {"summary": "ok"})),
]

TEAMS = [
    Case("coordinate", lambda m: pair(m), {"agent": [delegates("one"), delegates("one")]}, BOTH),
    Case("coordinate, at once", lambda m: pair(m), {"agent": [delegates("one", "two")]}, BOTH),
    Case("route", lambda m: pair(m, mode="route"), {"agent": [delegates("two")]}, BOTH),
    Case("broadcast", lambda m: pair(m, mode="broadcast"), {"agent": [ALL]}, BOTH),
    Case("tasks in parallel", lambda m: pair(m, mode="tasks"), {"agent": TASKS}, BOTH),
    Case(
        "hidden members",
        lambda m: pair(m, stream_member_events=False),
        {"agent": [delegates("one", "two")]},
        BOTH,
    ),
    Case(
        "a member refused",
        lambda m: pair(m),
        {"agent": [delegates("one", "two")], "one": [HttpError(400)]},
        BOTH,
        failed=frozenset({"one"}),
    ),
    Case(
        "a member cut off",
        lambda m: pair(m, mode="broadcast"),
        {"agent": [ALL], "two": [CUT]},
        BOTH,
        failed=frozenset({"two"}),
    ),
    Case(
        "a hidden member cut off",
        lambda m: pair(m, stream_member_events=False),
        {"agent": [delegates("one")], "one": [CUT]},
        BOTH,
        failed=frozenset({"one"}),
    ),
    Case(
        "a task cut off",
        lambda m: pair(m, mode="tasks"),
        {"agent": TASKS, "one": [CUT]},
        BOTH,
        failed=frozenset({"one"}),
    ),
    Case(
        "the leader cut off after its members",
        lambda m: pair(m),
        {"agent": [delegates("one", "two"), CUT]},
        BOTH,
        failed=frozenset({"agent"}),
    ),
    Case(
        "a team within a team, whose member fails",
        lambda m: team(m, "agent", [team(m, "inner", [agent(m, "leaf"), agent(m, "twig")]), agent(m, "two")]),
        {"agent": [delegates("inner", "two")], "inner": [delegates("leaf", "twig")], "leaf": [CUT]},
        {"inner": "agent", "two": "agent", "leaf": "inner", "twig": "inner"},
        failed=frozenset({"leaf"}),
    ),
    Case(
        "a leader that asks for everything",
        lambda m: team(
            m,
            "agent",
            [agent(m, "one")],
            "reasoning",
            "output",
            "memories",
            "summaries",
            "followups",
            "compression",
        ),
        {"agent": [LONG, delegates("one")]},
        BOTH,
        kinds("agent", "reasoning_model", "output_model", "compression_model", *MANAGED),
    ),
    Case(
        "a leader with a parser model",
        lambda m: team(m, "agent", [agent(m, "one")], "parser", "output"),
        {"agent": [delegates("one")]},
        BOTH,
        kinds("agent", *SLOTS),
    ),
    Case(
        "a leader that falls back",
        lambda m: team(m, "agent", [agent(m, "one")], "fallback"),
        {"agent": [HttpError(529), delegates("one")]},
        BOTH,
        failed=frozenset({"agent"}),
    ),
    Case(
        "members that ask for everything",
        lambda m: team(
            m,
            "agent",
            [
                agent(m, "one", "reasoning", "output", "compression, own model", "followups, own model"),
                agent(m, "two", "parser", "memories, own model", "compression"),
            ],
        ),
        {"agent": [delegates("one", "two")], "one": [LONG], "two": [LONG]},
        BOTH,
        kinds("one", "reasoning_model", "output_model", "compression_model", "followup_model")
        | kinds("two", "parser_model", "compression_model"),
    ),
    Case(
        "a member whose tool asks another agent",
        lambda m: team(m, "agent", [one_that_asks(m)]),
        {"agent": [delegates("one")], "one": [ASK]},
        {"one": "agent", "expert": "one"},
    ),
    Case(
        "a member that falls back",
        lambda m: team(m, "agent", [agent(m, "one", "fallback")]),
        {"agent": [delegates("one")], "one": [HttpError(529)]},
        BOTH,
        failed=frozenset({"one"}),
    ),
]


@pytest.fixture(autouse=True)
def without_openai(monkeypatch: pytest.MonkeyPatch) -> None:
    """Agno cannot tell a Claude that reasons without the packages of others, which it asks first."""
    for name in ("openai", "openrouter", "moonshot"):
        module = ModuleType(f"agno.reasoning.{name}")
        vars(module)[f"is_{name}_reasoning_model"] = lambda _model: False
        monkeypatch.setitem(sys.modules, module.__name__, module)


@pytest.fixture
def models(fake: FakeAnthropic) -> Models:
    def make(account: str, kind: str = "", **settings: object) -> Claude:
        headers = {"x-account": account} | ({"x-kind": kind} if kind else {})
        return claude(fake, HAIKU, default_headers=headers, **settings)

    return make


def check_family(case: Case, calls: Sequence[ModelCall]) -> None:
    """Who works for whom, by the ids of runs."""
    names = {call.run_id: call.agent_name for call in calls}
    for call in calls:
        parent = names[call.parent_run_id] if call.parent_run_id is not None else None
        reasons = call.kind == "reasoning_model"
        assert parent == (call.agent_name if reasons else case.parents.get(call.agent_name)), call


@pytest.mark.parametrize("case", [*AGENTS, *TEAMS], ids=lambda case: case.name)
async def test_every_request_is_one_row(case: Case, fake: FakeAnthropic, models: Models) -> None:
    bill = Bill(fake, replies(case))
    component = case.build(models)
    async with bench(lambda: component) as b:
        outcome = (await b.turn("Hi")).outcome
        bill.check(outcome.calls)
        check_family(case, outcome.calls)
        assert case.kinds <= {(call.agent_name, call.kind) for call in outcome.calls}
        failed = {call.agent_name for call in outcome.calls if call.status is not CallStatus.COMPLETED}
        assert failed == case.failed
        ended = "failed" if "agent" in case.failed and "fall" not in case.name else "completed"
        assert outcome.status == ended, outcome.error


HANGS = Turn("one two three", hang_after=2)

INTERRUPTED = [
    (Case("the agent", lambda m: agent(m, "agent"), {"agent": [HANGS]}), 1),
    (Case("the agent after a tool", lambda m: agent(m, "agent", tools=[long]), {"agent": [LONG, HANGS]}), 1),
    (
        Case(
            "the leader after its members",
            lambda m: pair(m),
            {"agent": [delegates("one", "two"), HANGS]},
            BOTH,
        ),
        1,
    ),
    (Case("a member", lambda m: pair(m), {"agent": [delegates("one")], "one": [HANGS]}, BOTH), 1),
    (
        Case(
            "members at once",
            lambda m: pair(m, mode="broadcast"),
            {"agent": [ALL], "one": [HANGS], "two": [HANGS]},
            BOTH,
        ),
        2,
    ),
    (
        Case(
            "a hidden member",
            lambda m: pair(m, stream_member_events=False),
            {"agent": [delegates("one")], "one": [HANGS]},
            BOTH,
        ),
        1,
    ),
    (
        Case(
            "tasks in parallel",
            lambda m: pair(m, mode="tasks"),
            {"agent": TASKS, "one": [HANGS], "two": [HANGS]},
            BOTH,
        ),
        2,
    ),
    (
        Case(
            "an agent in a member's tool",
            lambda m: team(m, "agent", [one_that_asks(m)]),
            {"agent": [delegates("one")], "one": [ASK], "expert": [HANGS]},
            {"one": "agent", "expert": "one"},
        ),
        1,
    ),
    (
        Case(
            "a member of a member",
            lambda m: team(m, "agent", [team(m, "inner", [agent(m, "leaf")])]),
            {"agent": [delegates("inner")], "inner": [delegates("leaf")], "leaf": [HANGS]},
            {"inner": "agent", "leaf": "inner"},
        ),
        1,
    ),
]


async def all_is_told(ran: Ran, fake: FakeAnthropic, hanging: int) -> None:
    """Waits until the answers hang, and the server has read what was sent of them."""
    async with asyncio.timeout(60):
        while True:
            told = sum((call.usage for call in ran.outcome.calls), TokenUsage())
            if sum(r.hanging.is_set() for r in fake.requests) == hanging and told == fake.billed:
                return
            await asyncio.sleep(0.01)


async def nothing_is_open(fake: FakeAnthropic) -> None:
    """Waits until every request has ended, and then long enough for one that would be made because of that."""
    async with asyncio.timeout(60):
        seen = -1
        while seen != len(fake.requests):
            seen = len(fake.requests)
            for record in [*fake.requests]:
                await record.ended.wait()
            await asyncio.sleep(0.3)


async def iterate(ran: Ran) -> None:
    async with aclosing(ran.run.events()) as events:
        async for event in events:
            ran.events.append(event)


@pytest.mark.parametrize("ending", ["stopped", "cancelled"])
@pytest.mark.parametrize(("case", "hanging"), INTERRUPTED, ids=[case.name for case, _ in INTERRUPTED])
async def test_what_is_interrupted_is_billed_on_who_was_at_work(
    case: Case, hanging: int, ending: str, fake: FakeAnthropic, models: Models
) -> None:
    """If the process dies, what the meter was told (it keeps the crash journal) is the bill; if not, the outcome is."""
    bill = Bill(fake, replies(case))
    component = case.build(models)
    async with bench(lambda: component) as b:
        b.meter.recording = True
        ran = Ran(b.begin("Hi"))
        task = asyncio.create_task(iterate(ran))
        await all_is_told(ran, fake, hanging)
        journal = list({call.id: call for call, _ in b.meter.noted}.values())
        bill.check(journal, billed=True)
        check_family(case, journal)
        requests = len(fake.requests)
        if ending == "stopped":
            await ran.run.stop()
        task.cancel()
        await asyncio.wait({task})
        await nothing_is_open(fake)
        rows = ran.outcome.calls
        bill.check(rows)
        check_family(case, rows)
        ended = Counter(call.status for call in rows)
        assert ended[CallStatus.INTERRUPTED] == hanging
        assert ended[CallStatus.COMPLETED] == requests - hanging
