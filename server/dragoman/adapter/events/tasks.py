"""The tasks of a team that works through a list of them."""

from typing import Final

from agno.run import team

from dragoman.adapter.events.registry import T, on
from dragoman.adapter.events.sources import Source
from dragoman.adapter.values import clean
from dragoman.v1 import event_pb2
from dragoman.v1.event_pb2 import RunEvent

_TASK_STATUS: Final = {
    "pending": event_pb2.TASK_STATUS_PENDING,
    "in_progress": event_pb2.TASK_STATUS_IN_PROGRESS,
    "completed": event_pb2.TASK_STATUS_COMPLETED,
    "failed": event_pb2.TASK_STATUS_FAILED,
    "blocked": event_pb2.TASK_STATUS_BLOCKED,
}


_EXCEPTIONS: Final = ("Member execution error:", "Unexpected error:")
"""How Agno begins a result that is the text of an exception."""

FAILED: Final = "the task failed"


def _result(text: str | None) -> str:
    """What came of a task; what an exception says is for the log only."""
    return FAILED if (text or "").startswith(_EXCEPTIONS) else clean(text or "")


def _task_status(word: str | None) -> event_pb2.TaskStatus.ValueType:
    return _TASK_STATUS.get(word or "", event_pb2.TASK_STATUS_UNSPECIFIED)


@on(T.task_created, fills=["task_created"])
def _task_created(event: team.TaskCreatedEvent, _: Source) -> list[RunEvent]:
    task = event_pb2.Task(
        id=clean(event.task_id),
        title=clean(event.title),
        description=clean(event.description),
        status=_task_status(event.status),
        assignee=clean(event.assignee or ""),
        dependencies=[clean(task_id) for task_id in event.dependencies],
    )
    return [RunEvent(task_created=event_pb2.TaskCreated(task=task))]


@on(T.task_updated, fills=["task_updated"])
def _task_updated(event: team.TaskUpdatedEvent, _: Source) -> list[RunEvent]:
    task = event_pb2.Task(
        id=clean(event.task_id),
        title=clean(event.title),
        status=_task_status(event.status),
        assignee=clean(event.assignee or ""),
        result=_result(event.result),
    )
    message = event_pb2.TaskUpdated(task=task, previous_status=_task_status(event.previous_status))
    return [RunEvent(task_updated=message)]


@on(T.task_state_updated, fills=["task_state_updated"])
def _task_state_updated(event: team.TaskStateUpdatedEvent, _: Source) -> list[RunEvent]:
    message = event_pb2.TaskStateUpdated(
        tasks=[_task(task) for task in event.tasks],
        summary=clean(event.task_summary or ""),
        goal_complete=event.goal_complete,
        completion_summary=clean(event.completion_summary or ""),
    )
    return [RunEvent(task_state_updated=message)]


def _task(task: team.TaskData) -> event_pb2.Task:
    return event_pb2.Task(
        id=clean(task.id),
        title=clean(task.title),
        description=clean(task.description),
        status=_task_status(task.status),
        assignee=clean(task.assignee or ""),
        dependencies=[clean(task_id) for task_id in task.dependencies],
        result=_result(task.result),
    )


@on(T.task_iteration_started, fills=["task_iteration_started"])
def _task_iteration_started(event: team.TaskIterationStartedEvent, _: Source) -> list[RunEvent]:
    message = event_pb2.TaskIterationStarted(iteration=event.iteration, max_iterations=event.max_iterations)
    return [RunEvent(task_iteration_started=message)]


@on(T.task_iteration_completed, fills=["task_iteration_completed"])
def _task_iteration_completed(event: team.TaskIterationCompletedEvent, _: Source) -> list[RunEvent]:
    message = event_pb2.TaskIterationCompleted(
        iteration=event.iteration,
        max_iterations=event.max_iterations,
        summary=clean(event.task_summary or ""),
    )
    return [RunEvent(task_iteration_completed=message)]
