"""What the model writes: text, structured answers, citations, media and reasoning."""

from collections.abc import Sequence
from typing import Any

from agno.media import Audio
from agno.models.message import Citations
from agno.reasoning.step import ReasoningStep, ReasoningSteps
from agno.run import agent, team

from dragoman.adapter.events.registry import A, T, on
from dragoman.adapter.events.sources import Source
from dragoman.adapter.values import clean, to_text, to_value
from dragoman.v1 import event_pb2, message_pb2
from dragoman.v1.event_pb2 import RunEvent


@on(A.run_content, T.run_content, fills=["content_delta", "structured_content", "citations"])
def _content(event: agent.RunContentEvent | team.RunContentEvent, source: Source) -> list[RunEvent]:
    """The hot path: nearly always one text, or nothing but the provider's own data."""
    made: list[RunEvent] = []
    if event.reasoning_content:
        made += _reasoning(_readable(event.reasoning_content, event.model_provider_data))
    content = event.content
    if isinstance(content, str):
        if content and (text := source.whole(content)):
            delta = RunEvent()
            delta.content_delta.text = text
            made.append(delta)
    elif content is not None:
        made.append(_structured(content, event.content_type))
    if event.citations is not None:
        made += _citations(event.citations)
    if event.image is not None:
        made += outputs(source.fresh([event.image]))
    if event.response_audio is not None:
        made += _spoken(event.response_audio, source)
    return made


def _structured(content: object, schema_name: str) -> RunEvent:
    name = "" if schema_name in ("str", "dict") else clean(schema_name)
    return RunEvent(structured_content=event_pb2.StructuredContent(schema_name=name, value=to_value(content)))


def _citations(citations: Citations) -> list[RunEvent]:
    message = event_pb2.Citations(search_queries=[clean(query) for query in citations.search_queries or ()])
    for page in citations.urls or ():
        message.citations.add(url=clean(page.url or ""), title=clean(page.title or ""))
    for document in citations.documents or ():
        message.citations.add(
            title=clean(document.document_title or ""),
            cited_text=clean(document.cited_text or ""),
            file_name=clean(document.file_name or ""),
        )
    return [RunEvent(citations=message)] if message.ByteSize() else []


def outputs(media: Sequence[message_pb2.Media]) -> list[RunEvent]:
    """An event per medium."""
    return [RunEvent(media_output=event_pb2.MediaOutput(media=medium)) for medium in media]


def _spoken(piece: Audio, source: Source) -> list[RunEvent]:
    """Sound comes in pieces, and for teams as one object that grows: it is given out whole, when it is over."""
    if piece.content is None:
        return outputs(source.fresh([piece]))
    if not source.sound or source.sound[-1] is not piece:
        source.sound.append(piece)
    return []


def sound_of(source: Source) -> list[RunEvent]:
    """The sound that was spoken since the last call, joined."""
    pieces, source.sound = source.sound, []
    if not pieces:
        return []
    whole = pieces[0].model_copy(
        update={
            "content": b"".join(piece.content or b"" for piece in pieces),
            "transcript": "".join(piece.transcript or "" for piece in pieces),
        }
    )
    return outputs(source.fresh([whole]))


@on(A.run_content_completed, T.run_content_completed, fills=["content_completed", "media_output"])
def _content_completed(_: object, source: Source) -> list[RunEvent]:
    return [*sound_of(source), RunEvent(content_completed=event_pb2.ContentCompleted())]


@on(A.run_intermediate_content, T.run_intermediate_content, fills=["intermediate_content"])
def _intermediate(
    event: agent.IntermediateRunContentEvent | team.IntermediateRunContentEvent, _: Source
) -> list[RunEvent]:
    text = to_text(event.content)
    return [RunEvent(intermediate_content=event_pb2.IntermediateContent(text=text))] if text else []


def _reasoning(text: str) -> list[RunEvent]:
    return [RunEvent(reasoning_delta=event_pb2.ReasoningDelta(text=clean(text)))] if text else []


def _readable(reasoning: str, provider_data: dict[str, Any] | None) -> str:
    """The reasoning without what the provider has encrypted, which Agno appends to it, where the blocks tell."""
    for block in (provider_data or {}).get("content_blocks") or ():
        if isinstance(block, dict) and str(block.get("type", "")).startswith("redacted"):
            reasoning = reasoning.replace(str(block.get("data") or "\0"), "")
    return reasoning


@on(A.reasoning_started, T.reasoning_started, fills=["reasoning_started"])
def _reasoning_started(_: object, __: Source) -> list[RunEvent]:
    return [RunEvent(reasoning_started=event_pb2.ReasoningStarted())]


@on(A.reasoning_content_delta, T.reasoning_content_delta, fills=["reasoning_delta"])
def _reasoning_delta(
    event: agent.ReasoningContentDeltaEvent | team.ReasoningContentDeltaEvent, _: Source
) -> list[RunEvent]:
    return _reasoning(event.reasoning_content)


@on(A.reasoning_step, T.reasoning_step, fills=["reasoning_step"])
def _reasoning_step(event: agent.ReasoningStepEvent | team.ReasoningStepEvent, _: Source) -> list[RunEvent]:
    step = event.content
    if not isinstance(step, ReasoningStep):
        step = ReasoningStep(reasoning=to_text(step) or event.reasoning_content)
    message = event_pb2.ReasoningStep(
        title=clean(step.title or ""),
        action=clean(step.action or ""),
        result=clean(step.result or ""),
        reasoning=clean(step.reasoning or ""),
        next_action=step.next_action.value if step.next_action else "",
        confidence=step.confidence,
    )
    return [RunEvent(reasoning_step=message)]


@on(A.reasoning_completed, T.reasoning_completed, fills=["reasoning_completed"])
def _reasoning_completed(
    event: agent.ReasoningCompletedEvent | team.ReasoningCompletedEvent, _: Source
) -> list[RunEvent]:
    steps = len(event.content.reasoning_steps) if isinstance(event.content, ReasoningSteps) else 0
    return [RunEvent(reasoning_completed=event_pb2.ReasoningCompleted(steps=steps))]
