"""The beginning and the end of runs and of requests to models.

Only a member's run begins and ends by an event here: the run's own beginning and end are the engine's.
"""

from agno.run import agent, team

from dragoman import status, wire
from dragoman.adapter.events.content import outputs, sound_of
from dragoman.adapter.events.registry import A, T, on
from dragoman.adapter.events.sources import Source
from dragoman.adapter.values import clean, to_text
from dragoman.v1 import event_pb2
from dragoman.v1.event_pb2 import RunEvent


@on(A.model_request_started, T.model_request_started, fills=["model_request_started"])
def _model_request_started(
    event: agent.ModelRequestStartedEvent | team.ModelRequestStartedEvent, _: Source
) -> list[RunEvent]:
    message = event_pb2.ModelRequestStarted(
        model=clean(event.model or ""), provider=clean(event.model_provider or "")
    )
    return [RunEvent(model_request_started=message)]


@on(A.model_request_completed, T.model_request_completed, fills=["model_request_completed"])
def _model_request_completed(
    event: agent.ModelRequestCompletedEvent | team.ModelRequestCompletedEvent, source: Source
) -> list[RunEvent]:
    made = source.accounts.finish_call(event)
    return [] if made is None else [made]


@on(A.run_started, T.run_started, fills=["member_run_started"])
def _run_started(event: agent.RunStartedEvent | team.RunStartedEvent, source: Source) -> list[RunEvent]:
    source.provider = clean(event.model_provider or "")
    if source.member is None or source.begun:
        return []
    message = event_pb2.MemberRunStarted(model=clean(event.model or ""), provider=source.provider)
    return [RunEvent(member_run_started=message)]


@on(A.run_completed, T.run_completed, fills=["member_run_completed"])
def _run_completed(event: agent.RunCompletedEvent | team.RunCompletedEvent, source: Source) -> list[RunEvent]:
    """Agno completes also a run that was cancelled. Media that no event has brought yet come with the end."""
    made = sound_of(source) + outputs(source.fresh(event.images, event.videos, event.audio, event.files))
    if source.member is None or source.cancelled:
        return made
    spent = source.accounts.spent(source.member.run_id)
    message = event_pb2.MemberRunCompleted(
        content=to_text(event.content), usage=wire.token_usage(spent.usage), cost=wire.total_cost(spent)
    )
    return [*made, RunEvent(member_run_completed=message)]


@on(A.run_error, T.run_error, fills=["member_run_failed"])
def _run_error(event: agent.RunErrorEvent | team.RunErrorEvent, source: Source) -> list[RunEvent]:
    if source.member is None:
        return []
    spent = source.accounts.spent(source.member.run_id)
    message = event_pb2.MemberRunFailed(
        error=status.to_status(source.accounts.classify(event, source.name, source.provider)),
        usage=wire.token_usage(spent.usage),
        cost=wire.total_cost(spent),
    )
    return [RunEvent(member_run_failed=message)]


@on(A.run_cancelled, T.run_cancelled, fills=["member_run_cancelled"])
def _run_cancelled(_: object, source: Source) -> list[RunEvent]:
    source.cancelled = True
    return _of_member(source, RunEvent(member_run_cancelled=event_pb2.MemberRunCancelled()))


@on(A.run_paused, T.run_paused, fills=["member_run_paused"])
def _run_paused(_: object, source: Source) -> list[RunEvent]:
    return _of_member(source, RunEvent(member_run_paused=event_pb2.MemberRunPaused()))


@on(A.run_continued, T.run_continued, fills=["member_run_continued"])
def _run_continued(_: object, source: Source) -> list[RunEvent]:
    return _of_member(source, RunEvent(member_run_continued=event_pb2.MemberRunContinued()))


def _of_member(source: Source, event: RunEvent) -> list[RunEvent]:
    return [] if source.member is None else [event]
