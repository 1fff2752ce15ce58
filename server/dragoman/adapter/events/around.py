"""What happens around the answer: hooks, memories, summaries, further models, compression, suggestions."""

from agno.run import agent, team

from dragoman.adapter.events.registry import A, T, on
from dragoman.adapter.events.sources import Source
from dragoman.adapter.values import clean, to_text
from dragoman.v1 import event_pb2
from dragoman.v1.event_pb2 import RunEvent


@on(A.pre_hook_started, T.pre_hook_started, fills=["pre_hook_started"])
def _pre_hook_started(
    event: agent.PreHookStartedEvent | team.PreHookStartedEvent, _: Source
) -> list[RunEvent]:
    return [RunEvent(pre_hook_started=event_pb2.PreHookStarted(name=clean(event.pre_hook_name or "")))]


@on(A.pre_hook_completed, T.pre_hook_completed, fills=["pre_hook_completed"])
def _pre_hook_completed(
    event: agent.PreHookCompletedEvent | team.PreHookCompletedEvent, _: Source
) -> list[RunEvent]:
    return [RunEvent(pre_hook_completed=event_pb2.PreHookCompleted(name=clean(event.pre_hook_name or "")))]


@on(A.post_hook_started, T.post_hook_started, fills=["post_hook_started"])
def _post_hook_started(
    event: agent.PostHookStartedEvent | team.PostHookStartedEvent, _: Source
) -> list[RunEvent]:
    return [RunEvent(post_hook_started=event_pb2.PostHookStarted(name=clean(event.post_hook_name or "")))]


@on(A.post_hook_completed, T.post_hook_completed, fills=["post_hook_completed"])
def _post_hook_completed(
    event: agent.PostHookCompletedEvent | team.PostHookCompletedEvent, _: Source
) -> list[RunEvent]:
    return [RunEvent(post_hook_completed=event_pb2.PostHookCompleted(name=clean(event.post_hook_name or "")))]


@on(A.memory_update_started, T.memory_update_started, fills=["memory_update_started"])
def _memory_update_started(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(memory_update_started=event_pb2.MemoryUpdateStarted())]


@on(A.memory_update_completed, T.memory_update_completed, fills=["memory_update_completed"])
def _memory_update_completed(
    event: agent.MemoryUpdateCompletedEvent | team.MemoryUpdateCompletedEvent, _: Source
) -> list[RunEvent]:
    message = event_pb2.MemoryUpdateCompleted(memories=[_memory(memory) for memory in event.memories or ()])
    return [RunEvent(memory_update_completed=message)]


def _memory(memory: object) -> str:
    """A memory's words: Agno gives UserMemory objects, and dicts when they were stored."""
    words = memory.get("memory") if isinstance(memory, dict) else getattr(memory, "memory", None)
    return to_text(memory if words is None else words)


@on(A.session_summary_started, T.session_summary_started, fills=["session_summary_started"])
def _session_summary_started(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(session_summary_started=event_pb2.SessionSummaryStarted())]


@on(A.session_summary_completed, T.session_summary_completed, fills=["session_summary_completed"])
def _session_summary_completed(
    event: agent.SessionSummaryCompletedEvent | team.SessionSummaryCompletedEvent, _: Source
) -> list[RunEvent]:
    message = event_pb2.SessionSummaryCompleted()
    if event.session_summary is not None:
        message.summary = clean(event.session_summary.summary or "")
        message.topics.extend(clean(topic) for topic in event.session_summary.topics or ())
    return [RunEvent(session_summary_completed=message)]


@on(A.parser_model_response_started, T.parser_model_response_started, fills=["parser_model_started"])
def _parser_model_started(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(parser_model_started=event_pb2.ParserModelStarted())]


@on(A.parser_model_response_completed, T.parser_model_response_completed, fills=["parser_model_completed"])
def _parser_model_completed(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(parser_model_completed=event_pb2.ParserModelCompleted())]


@on(A.output_model_response_started, T.output_model_response_started, fills=["output_model_started"])
def _output_model_started(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(output_model_started=event_pb2.OutputModelStarted())]


@on(A.output_model_response_completed, T.output_model_response_completed, fills=["output_model_completed"])
def _output_model_completed(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(output_model_completed=event_pb2.OutputModelCompleted())]


@on(A.compression_started, T.compression_started, fills=["compression_started"])
def _compression_started(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(compression_started=event_pb2.CompressionStarted())]


@on(A.compression_completed, T.compression_completed, fills=["compression_completed"])
def _compression_completed(
    event: agent.CompressionCompletedEvent | team.CompressionCompletedEvent, _: Source
) -> list[RunEvent]:
    message = event_pb2.CompressionCompleted(
        tool_results=event.tool_results_compressed or 0,
        original_size=event.original_size or 0,
        compressed_size=event.compressed_size or 0,
    )
    return [RunEvent(compression_completed=message)]


@on(A.compaction_started, fills=["compaction_started"])
def _compaction_started(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(compaction_started=event_pb2.CompactionStarted())]


@on(A.compaction_completed, fills=["compaction_completed"])
def _compaction_completed(event: agent.CompactionCompletedEvent, _: Source) -> list[RunEvent]:
    message = event_pb2.CompactionCompleted(
        messages=event.messages_compacted or 0,
        tokens_before=event.tokens_before or 0,
        tokens_after=event.tokens_after or 0,
        archived=bool(event.archived),
    )
    return [RunEvent(compaction_completed=message)]


@on(A.followups_started, T.followups_started, fills=["followups_started"])
def _followups_started(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(followups_started=event_pb2.FollowupsStarted())]


@on(A.followups_completed, T.followups_completed, fills=["followups_completed"])
def _followups_completed(
    event: agent.FollowupsCompletedEvent | team.FollowupsCompletedEvent, _: Source
) -> list[RunEvent]:
    suggestions = [clean(suggestion) for suggestion in event.followups or ()]
    return [RunEvent(followups_completed=event_pb2.FollowupsCompleted(suggestions=suggestions))]
