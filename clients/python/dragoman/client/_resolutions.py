"""Answers to what a paused run waits for, one for each requirement in `RunStream.paused.requirements`.

    answers = [confirm(each) for each in run.paused.requirements]
    async for event in client.continue_run(run.run_id, answers): ...

A requirement is named by itself or by its id. The server checks that the answer is of the kind that is needed.
"""

from collections.abc import Mapping, Sequence

from dragoman.client._requests import struct
from dragoman.v1 import event_pb2, run_service_pb2


def confirm(requirement: event_pb2.Requirement | str) -> run_service_pb2.Resolution:
    """Yes: the tool is called."""
    return run_service_pb2.Resolution(
        requirement_id=_id(requirement), confirmation=run_service_pb2.Confirmation(confirmed=True)
    )


def reject(requirement: event_pb2.Requirement | str, note: str = "") -> run_service_pb2.Resolution:
    """No: the tool is not called; the model is told so, and why."""
    return run_service_pb2.Resolution(
        requirement_id=_id(requirement), confirmation=run_service_pb2.Confirmation(note=note)
    )


def provide_input(
    requirement: event_pb2.Requirement | str, values: Mapping[str, object]
) -> run_service_pb2.Resolution:
    """Values for the fields of the requirement's schema. Raises TypeError for what is not JSON."""
    return run_service_pb2.Resolution(
        requirement_id=_id(requirement), user_input=run_service_pb2.UserInput(values=struct(values))
    )


def give_result(requirement: event_pb2.Requirement | str, result: str) -> run_service_pb2.Resolution:
    """The result of the tool, which the caller has executed."""
    return run_service_pb2.Resolution(
        requirement_id=_id(requirement), external_execution=run_service_pb2.ExternalExecution(result=result)
    )


def choose(
    requirement: event_pb2.Requirement | str, choices: Mapping[str, str | Sequence[str]]
) -> run_service_pb2.Resolution:
    """For each question, word for word, the label that was chosen, or several."""
    feedback = run_service_pb2.UserFeedback(
        choices=[
            run_service_pb2.UserChoice(
                question=question, labels=[labels] if isinstance(labels, str) else labels
            )
            for question, labels in choices.items()
        ]
    )
    return run_service_pb2.Resolution(requirement_id=_id(requirement), user_feedback=feedback)


def _id(requirement: event_pb2.Requirement | str) -> str:
    return requirement if isinstance(requirement, str) else requirement.id
