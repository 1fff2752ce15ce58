"""Every event of Agno is mapped, and each mapping is pinned by a golden file.

A golden file per field of RunEvent's oneof shows what becomes of Agno's event from the run's own agent, from a team's
leader, and from a member. Together the samples cover Agno's registries and enums, and every field has a producer.
"""

import base64
from collections.abc import Callable
from collections.abc import Mapping as Table
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

import pytest
from agno.db.schemas.memory import UserMemory
from agno.media import Image
from agno.metrics import RunMetrics, ToolCallMetrics
from agno.models.message import Citations, DocumentCitation, UrlCitation
from agno.models.response import ToolExecution
from agno.reasoning.step import NextAction, ReasoningStep, ReasoningSteps
from agno.run import agent, team
from agno.session.summary import SessionSummary
from google.protobuf import text_format
from pydantic import BaseModel
from support.accounts import accounts

from dragoman.adapter.events import FIELDS, HANDLERS, Mapping
from dragoman.records import TokenUsage, Totals
from dragoman.v1 import event_pb2, message_pb2, usage_pb2
from dragoman.v1.event_pb2 import RunEvent

ROOT = "run-root"
MEMBER = "run-member"

SPENT = Totals(TokenUsage(100, 20, 3), Decimal("0.0002003"), Decimal("0.0035"), "ZAR", 2)
"""What the member has come to by the end of its run."""

ENGINE = {
    "run_started": "the engine, when the run has its turn",
    "run_queued": "the engine, of a run that waits for its session",
    "run_continued": "the engine, when requirements are resolved",
    "run_paused": "the engine, of the runner's requirements",
    "run_completed": "the engine, of the runner's outcome",
    "run_failed": "the engine, of the runner's outcome",
    "run_cancelled": "the engine, of who ended it and why",
    "heartbeat": "the transport's side of the log, on a quiet stream",
}
"""Fields that the adapter does not fill -> who does."""

ELSEWHERE = {"unmapped": "Mapping, for all that has no function"}
"""Fields that the adapter fills without a registered function."""

IGNORED: dict[str, str] = {}
"""Agno's events that are left out on purpose -> why."""


class Weather(BaseModel):
    city: str
    degrees: float


class Progress(agent.CustomEvent):
    percent: int = 0


def _tool(**more: Any) -> ToolExecution:
    values = {"tool_call_id": "call_1", "tool_name": "add", "tool_args": {"a": 1, "b": [2.5, None]}, **more}
    return ToolExecution(**values, created_at=0)


def _picture() -> Image:
    return Image(content=b"png", id="picture-1", mime_type="image/png")


@dataclass
class Sample:
    """How Agno tells of one thing: its event classes, and what they carry."""

    agent: type | None
    team: type | None
    values: Callable[[], dict[str, Any]] = dict
    before: Callable[[], list[tuple[type, dict[str, Any]]]] = list
    """Events of the same run that come first and whose mapping is not shown."""
    variants: tuple[str, ...] = field(default=("agent", "team", "member"))


_LIFE = ("member", "nested team")


SAMPLES: Table[str, Sample] = {
    "content_delta": Sample(agent.RunContentEvent, team.RunContentEvent, lambda: {"content": "Grüße, 世界"}),
    "reasoning_delta": Sample(
        agent.ReasoningContentDeltaEvent,
        team.ReasoningContentDeltaEvent,
        lambda: {"reasoning_content": "Let me see."},
    ),
    "structured_content": Sample(
        agent.RunContentEvent,
        team.RunContentEvent,
        lambda: {"content": Weather(city="Cape Town", degrees=21.5), "content_type": "Weather"},
    ),
    "content_completed": Sample(agent.RunContentCompletedEvent, team.RunContentCompletedEvent),
    "citations": Sample(
        agent.RunContentEvent,
        team.RunContentEvent,
        lambda: {
            "content": "",
            "citations": Citations(
                raw=[{"ignored": True}],
                search_queries=["dragoman"],
                urls=[UrlCitation(url="https://example.org/a", title="A page")],
                documents=[
                    DocumentCitation(document_title="A paper", cited_text="so it is", file_name="a.pdf")
                ],
            ),
        },
    ),
    "media_output": Sample(agent.RunContentEvent, team.RunContentEvent, lambda: {"image": _picture()}),
    "intermediate_content": Sample(
        agent.IntermediateRunContentEvent, team.IntermediateRunContentEvent, lambda: {"content": "A draft"}
    ),
    "reasoning_started": Sample(agent.ReasoningStartedEvent, team.ReasoningStartedEvent),
    "reasoning_step": Sample(
        agent.ReasoningStepEvent,
        team.ReasoningStepEvent,
        lambda: {
            "content": ReasoningStep(
                title="Count",
                action="I will count",
                result="I got 3",
                reasoning="One after the other",
                next_action=NextAction.VALIDATE,
                confidence=0.75,
            ),
            "content_type": "ReasoningStep",
            "reasoning_content": "all steps so far",
        },
    ),
    "reasoning_completed": Sample(
        agent.ReasoningCompletedEvent,
        team.ReasoningCompletedEvent,
        lambda: {
            "content": ReasoningSteps(reasoning_steps=[ReasoningStep(title="a"), ReasoningStep(title="b")])
        },
    ),
    "tool_call_started": Sample(
        agent.ToolCallStartedEvent, team.ToolCallStartedEvent, lambda: {"tool": _tool()}
    ),
    "tool_call_completed": Sample(
        agent.ToolCallCompletedEvent,
        team.ToolCallCompletedEvent,
        lambda: {
            "tool": _tool(result="3.5", tool_call_error=False, metrics=ToolCallMetrics(duration=0.25)),
            "content": "add(a=1, b=2) completed in 0.25s",
            "images": [_picture()],
        },
    ),
    "tool_call_failed": Sample(
        agent.ToolCallErrorEvent,
        team.ToolCallErrorEvent,
        lambda: {
            "tool": _tool(
                result="psycopg: password rejected",
                tool_call_error=True,
                metrics=ToolCallMetrics(duration=2.0),
            ),
            "error": "psycopg: password rejected",
        },
    ),
    "model_request_started": Sample(
        agent.ModelRequestStartedEvent,
        team.ModelRequestStartedEvent,
        lambda: {"model": "claude-x", "model_provider": "Anthropic"},
    ),
    "model_request_completed": Sample(
        agent.ModelRequestCompletedEvent,
        team.ModelRequestCompletedEvent,
        lambda: {"model": "claude-x", "model_provider": "Anthropic", "input_tokens": 7, "output_tokens": 3},
    ),
    "member_run_started": Sample(
        agent.RunStartedEvent,
        team.RunStartedEvent,
        lambda: {"model": "claude-x", "model_provider": "Anthropic"},
        variants=_LIFE,
    ),
    "member_run_completed": Sample(
        agent.RunCompletedEvent,
        team.RunCompletedEvent,
        lambda: {
            "content": "It is done.",
            "metrics": RunMetrics(
                input_tokens=10,
                output_tokens=4,
                cache_read_tokens=100,
                cache_write_tokens=6,
                reasoning_tokens=2,
            ),
        },
        variants=_LIFE,
    ),
    "member_run_failed": Sample(
        agent.RunErrorEvent,
        team.RunErrorEvent,
        lambda: {
            "content": "Error code: 529 - {'type': 'error', 'error': {'type': 'overloaded_error'}}",
            "error_type": "model_provider_error",
        },
        before=lambda: [(agent.RunStartedEvent, {"model": "claude-x", "model_provider": "Anthropic"})],
        variants=_LIFE,
    ),
    "member_run_cancelled": Sample(
        agent.RunCancelledEvent, team.RunCancelledEvent, lambda: {"reason": "enough"}, variants=_LIFE
    ),
    "member_run_paused": Sample(agent.RunPausedEvent, team.RunPausedEvent, variants=_LIFE),
    "member_run_continued": Sample(agent.RunContinuedEvent, team.RunContinuedEvent, variants=_LIFE),
    "task_created": Sample(
        None,
        team.TaskCreatedEvent,
        lambda: {
            "task_id": "t2",
            "title": "Write",
            "description": "Write it all down",
            "assignee": "writer",
            "status": "pending",
            "dependencies": ["t1"],
        },
    ),
    "task_updated": Sample(
        None,
        team.TaskUpdatedEvent,
        lambda: {
            "task_id": "t1",
            "title": "Read",
            "status": "completed",
            "previous_status": "in_progress",
            "result": "read",
            "assignee": "reader",
        },
    ),
    "task_state_updated": Sample(
        None,
        team.TaskStateUpdatedEvent,
        lambda: {
            "task_summary": "1 of 2 done",
            "goal_complete": False,
            "tasks": [
                team.TaskData(id="t1", title="Read", status="completed", assignee="reader", result="read"),
                team.TaskData(id="t2", title="Write", status="blocked", dependencies=["t1"]),
                team.TaskData(id="t3", title="Sing", status="on_stage"),
            ],
            "completion_summary": "not yet",
        },
    ),
    "task_iteration_started": Sample(
        None, team.TaskIterationStartedEvent, lambda: {"iteration": 1, "max_iterations": 10}
    ),
    "task_iteration_completed": Sample(
        None,
        team.TaskIterationCompletedEvent,
        lambda: {"iteration": 1, "max_iterations": 10, "task_summary": "1 of 2 done"},
    ),
    "pre_hook_started": Sample(
        agent.PreHookStartedEvent, team.PreHookStartedEvent, lambda: {"pre_hook_name": "check_input"}
    ),
    "pre_hook_completed": Sample(
        agent.PreHookCompletedEvent, team.PreHookCompletedEvent, lambda: {"pre_hook_name": "check_input"}
    ),
    "post_hook_started": Sample(
        agent.PostHookStartedEvent, team.PostHookStartedEvent, lambda: {"post_hook_name": "check_output"}
    ),
    "post_hook_completed": Sample(
        agent.PostHookCompletedEvent, team.PostHookCompletedEvent, lambda: {"post_hook_name": "check_output"}
    ),
    "memory_update_started": Sample(agent.MemoryUpdateStartedEvent, team.MemoryUpdateStartedEvent),
    "memory_update_completed": Sample(
        agent.MemoryUpdateCompletedEvent,
        team.MemoryUpdateCompletedEvent,
        lambda: {
            "memories": [UserMemory(memory="Likes tea", created_at=1), {"memory": "Has a dog"}, "Is tall"]
        },
    ),
    "session_summary_started": Sample(agent.SessionSummaryStartedEvent, team.SessionSummaryStartedEvent),
    "session_summary_completed": Sample(
        agent.SessionSummaryCompletedEvent,
        team.SessionSummaryCompletedEvent,
        lambda: {"session_summary": SessionSummary(summary="They spoke of tea.", topics=["tea", "dogs"])},
    ),
    "parser_model_started": Sample(
        agent.ParserModelResponseStartedEvent, team.ParserModelResponseStartedEvent
    ),
    "parser_model_completed": Sample(
        agent.ParserModelResponseCompletedEvent, team.ParserModelResponseCompletedEvent
    ),
    "output_model_started": Sample(
        agent.OutputModelResponseStartedEvent, team.OutputModelResponseStartedEvent
    ),
    "output_model_completed": Sample(
        agent.OutputModelResponseCompletedEvent, team.OutputModelResponseCompletedEvent
    ),
    "compression_started": Sample(agent.CompressionStartedEvent, team.CompressionStartedEvent),
    "compression_completed": Sample(
        agent.CompressionCompletedEvent,
        team.CompressionCompletedEvent,
        lambda: {"tool_results_compressed": 2, "original_size": 9000, "compressed_size": 700},
    ),
    "compaction_started": Sample(agent.CompactionStartedEvent, None),
    "compaction_completed": Sample(
        agent.CompactionCompletedEvent,
        None,
        lambda: {"messages_compacted": 12, "tokens_before": 90000, "tokens_after": 4000, "archived": True},
    ),
    "followups_started": Sample(agent.FollowupsStartedEvent, team.FollowupsStartedEvent),
    "followups_completed": Sample(
        agent.FollowupsCompletedEvent,
        team.FollowupsCompletedEvent,
        lambda: {"followups": ["Ask for the price", "Ask for the colour"]},
    ),
    "custom": Sample(
        Progress,
        team.CustomEvent,
        lambda: {"percent": 40, "detail": {"done": [1, 2]}, "tool_call_id": "call_1"},
    ),
}


def finish_call(event: Any) -> RunEvent:
    """Stands for the runner's bookkeeping of calls."""
    return RunEvent(
        model_request_completed=event_pb2.ModelRequestCompleted(
            model=event.model,
            provider=event.model_provider,
            usage=usage_pb2.TokenUsage(input_tokens=event.input_tokens, output_tokens=event.output_tokens),
            stop_reason="end_turn",
        )
    )


def show_media(medium: Any) -> message_pb2.Media:
    """Stands for the runner's store of media: content and all."""
    return message_pb2.Media(
        id=base64.b16encode(medium.content).decode(),
        mime_type=medium.mime_type,
        size_bytes=len(medium.content),
    )


def mapping() -> Mapping:
    return Mapping(root_run_id=ROOT, agent_name="lead", accounts=accounts(finish_call, show_media, SPENT))


def make(kind: type, variant: str, values: dict[str, Any]) -> object:
    """Agno's event as the variant's run would send it."""
    ids: dict[str, Any] = {"run_id": ROOT, "session_id": "session-1"}
    if variant in ("member", "nested team"):
        ids |= {"run_id": MEMBER, "parent_run_id": ROOT}
    name = "writer" if variant == "member" else "desk" if variant == "nested team" else "lead"
    of_team = issubclass(kind, team.BaseTeamRunEvent)
    ids |= (
        {"team_id": f"{name}-id", "team_name": name}
        if of_team
        else {"agent_id": f"{name}-id", "agent_name": name}
    )
    return kind(**ids, **values)


def class_of(sample: Sample, variant: str) -> type | None:
    """Agno's class for a variant; a member that has no agent's class is a nested team."""
    if variant in ("team", "nested team"):
        return sample.team
    return sample.agent or (sample.team if variant == "member" else None)


def parts(sample: Sample) -> dict[str, list[RunEvent]]:
    """What becomes of the sample, by variant."""
    made = {}
    for variant in sample.variants:
        kind = class_of(sample, variant)
        if kind is not None:
            mapper = mapping()
            if variant in _LIFE and sample is not SAMPLES["member_run_started"]:
                begun = (
                    team.RunStartedEvent if issubclass(kind, team.BaseTeamRunEvent) else agent.RunStartedEvent
                )
                mapper.map(make(begun, variant, {}))
            for before, values in sample.before():
                mapper.map(make(before, variant, values))
            made[variant] = mapper.map(make(kind, variant, sample.values()))
            assert not mapper.unmapped
    return made


@pytest.mark.parametrize("name", SAMPLES)
def test_golden(name: str, golden_file: Any) -> None:
    text = "# proto-file: protos/dragoman/v1/event.proto\n# proto-message: dragoman.v1.RunEvent\n"
    for variant, events in parts(SAMPLES[name]).items():
        assert [event.WhichOneof("event") for event in events] == [name], variant
        assert events[0].HasField("member") == (variant in ("member", "nested team"))
        assert RunEvent.FromString(events[0].SerializeToString()) == events[0]
        text += f"\n# {variant}\n{text_format.MessageToString(events[0], as_utf8=True)}"
    golden_file.check(f"{name}.textproto", text)


def test_every_event_of_agno_is_mapped_or_left_out_with_a_reason() -> None:
    known = set(agent.RUN_EVENT_TYPE_REGISTRY) | set(team.TEAM_RUN_EVENT_TYPE_REGISTRY)
    known |= {kind.value for kind in agent.RunEvent} | {kind.value for kind in team.TeamRunEvent}

    assert known == set(HANDLERS) | set(IGNORED)
    assert not set(HANDLERS) & set(IGNORED)
    assert all(reason.strip() for reason in IGNORED.values())


def test_every_event_class_of_agno_has_a_sample() -> None:
    shown = {kind for sample in SAMPLES.values() for kind in (sample.agent, sample.team)}
    shown = {agent.CustomEvent if kind is Progress else kind for kind in shown}
    known = set(agent.RUN_EVENT_TYPE_REGISTRY.values()) | set(team.TEAM_RUN_EVENT_TYPE_REGISTRY.values())

    assert known <= shown


def test_every_field_has_exactly_one_producer() -> None:
    fields = {field.name for field in RunEvent.DESCRIPTOR.oneofs_by_name["event"].fields}

    assert fields == set(FIELDS) | set(ENGINE) | set(ELSEWHERE)
    assert not set(FIELDS) & (set(ENGINE) | set(ELSEWHERE))
    assert set(FIELDS) == set(SAMPLES)


@pytest.mark.parametrize("module", [agent, team])
@pytest.mark.parametrize(
    "name",
    [
        "RunStartedEvent",
        "RunCompletedEvent",
        "RunErrorEvent",
        "RunCancelledEvent",
        "RunPausedEvent",
        "RunContinuedEvent",
    ],
)
def test_the_runs_own_beginning_and_end_are_the_engines(module: Any, name: str) -> None:
    assert mapping().map(getattr(module, name)(run_id=ROOT)) == []
