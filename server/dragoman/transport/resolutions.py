"""What a caller answers to a paused run, against what the run waits for. Either all is right or nothing happens.

Every requirement has exactly one resolution of the kind that it needs:

    confirmation           a yes, or a no with a note
    user_input             an object that satisfies the requirement's JSON Schema
    external_execution     the tool's result as text
    user_feedback          a choice for each question: one of its options, or several where it allows that

All that is wrong is noted at once, with paths such as `resolutions[1].user_input.values.city`.
"""

import asyncio
from collections.abc import Sequence
from typing import Final

from google.protobuf.json_format import MessageToDict

from dragoman.errors import Violation
from dragoman.transport import schema
from dragoman.transport.structs import from_struct
from dragoman.transport.validation import Checks
from dragoman.v1 import event_pb2
from dragoman.v1 import run_service_pb2 as pb

MAX_RESOLUTIONS: Final = 1000
MAX_NOTE: Final = 4096
"""Characters of the note with a no, and of a free answer to a question without options."""

MAX_RESULT_BYTES: Final = 1024 * 1024
"""UTF-8 of a tool's result; also the size of the values for fields."""

THREAD_BYTES: Final = 16 * 1024
"""Size of resolutions from which on they are checked in a thread: a schema takes milliseconds over large values."""


def check_shape(resolutions: Sequence[pb.Resolution], checks: Checks) -> None:
    """What can be said before the run is known: each names a requirement, has an answer, and is not too large."""
    if not resolutions:
        checks.add("resolutions", "is required")
    if len(resolutions) > MAX_RESOLUTIONS:
        checks.add("resolutions", f"must be at most {MAX_RESOLUTIONS}, are {len(resolutions)}")
        return
    for index, resolution in enumerate(resolutions):
        path = f"resolutions[{index}]"
        checks.required(f"{path}.requirement_id", resolution.requirement_id)
        match resolution.WhichOneof("answer"):
            case None:
                checks.add(f"{path}.answer", "is required")
            case "confirmation":
                _check_text(f"{path}.confirmation.note", resolution.confirmation.note, checks)
            case "external_execution":
                size = len(resolution.external_execution.result.encode())
                _check_size(f"{path}.external_execution.result", size, checks)
            case "user_input":
                _check_size(f"{path}.user_input.values", resolution.user_input.values.ByteSize(), checks)
            case "user_feedback":
                pass


async def check_answers(
    requirements: Sequence[event_pb2.Requirement], resolutions: Sequence[pb.Resolution], checks: Checks
) -> None:
    """Everything else; their shape is known to be right."""
    if sum(resolution.ByteSize() for resolution in resolutions) < THREAD_BYTES:
        _check_answers(requirements, resolutions, checks)
    else:
        await asyncio.to_thread(_check_answers, requirements, resolutions, checks)


def _check_answers(
    requirements: Sequence[event_pb2.Requirement], resolutions: Sequence[pb.Resolution], checks: Checks
) -> None:
    waiting = {requirement.id: requirement for requirement in requirements}
    resolved: set[str] = set()
    for index, resolution in enumerate(resolutions):
        path = f"resolutions[{index}]"
        requirement = waiting.get(resolution.requirement_id)
        if requirement is None:
            checks.add(f"{path}.requirement_id", "is not a requirement that the run waits for")
        elif requirement.id in resolved:
            checks.add(f"{path}.requirement_id", "is resolved twice")
        else:
            resolved.add(requirement.id)
            _check_answer(path, requirement, resolution, checks)
    missing = [requirement_id for requirement_id in waiting if requirement_id not in resolved]
    if missing:
        checks.add(
            "resolutions", f"must resolve everything that the run waits for, also {', '.join(missing)}"
        )


def _check_answer(
    path: str, requirement: event_pb2.Requirement, resolution: pb.Resolution, checks: Checks
) -> None:
    need, answer = requirement.WhichOneof("need"), resolution.WhichOneof("answer")
    if need is None:
        checks.add(path, "the requirement is of a kind that this server does not know")
    elif need != answer:
        checks.add(f"{path}.{answer}", f"the requirement needs {need}")
    elif resolution.HasField("user_input"):
        _check_values(f"{path}.user_input.values", requirement.user_input, resolution.user_input, checks)
    elif resolution.HasField("user_feedback"):
        _check_feedback(f"{path}.user_feedback", requirement.user_feedback, resolution.user_feedback, checks)


def _check_values(path: str, need: event_pb2.UserInputNeed, given: pb.UserInput, checks: Checks) -> None:
    # What is no JSON is not compared with a schema.
    found: list[Violation] = []
    values = from_struct(given.values, path, lambda field, text: found.append(Violation(field, text)))
    for violation in found or schema.violations(values, MessageToDict(need.schema), path):
        checks.add(violation.field, violation.description)


def _check_feedback(
    path: str, need: event_pb2.UserFeedbackNeed, given: pb.UserFeedback, checks: Checks
) -> None:
    questions = {question.question: question for question in need.questions}
    answered: set[str] = set()
    for index, choice in enumerate(given.choices):
        at = f"{path}.choices[{index}]"
        question = questions.get(choice.question)
        if question is None:
            checks.add(f"{at}.question", "is not a question of the requirement")
        elif choice.question in answered:
            checks.add(f"{at}.question", "is answered twice")
        else:
            answered.add(choice.question)
            _check_labels(f"{at}.labels", question, choice.labels, checks)
    missing = [text for text in questions if text not in answered]
    if missing:
        checks.add(f"{path}.choices", f"must answer every question, also: {' / '.join(missing)}")


def _check_labels(path: str, question: event_pb2.UserQuestion, labels: Sequence[str], checks: Checks) -> None:
    if not labels:
        checks.add(path, "must name an option")
    elif len(labels) > 1 and not question.multi_select:
        checks.add(path, f"must name one option, names {len(labels)}")
    options = {option.label for option in question.options}
    seen: set[str] = set()
    for index, label in enumerate(labels):
        if label in seen:
            checks.add(f"{path}[{index}]", "is named twice")
        elif not options:
            # A question without options takes any text.
            _check_text(f"{path}[{index}]", label, checks)
        elif label not in options:
            checks.add(f"{path}[{index}]", "is not an option of the question")
        seen.add(label)


def _check_text(path: str, text: str, checks: Checks) -> None:
    if len(text) > MAX_NOTE:
        checks.add(path, f"must have at most {MAX_NOTE} characters, has {len(text)}")


def _check_size(path: str, size: int, checks: Checks) -> None:
    if size > MAX_RESULT_BYTES:
        checks.add(path, f"must have at most {MAX_RESULT_BYTES} bytes, has {size}")
