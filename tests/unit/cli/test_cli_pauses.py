"""A run that waits for somebody is answered from the terminal; runs are followed, continued and cancelled by id."""

from collections.abc import Iterable
from typing import Any

import pytest
from google.protobuf import json_format
from google.rpc import code_pb2
from support.cli_server import COST, RUN_ID, SESSION_ID, USAGE, conversation, error

from dragoman.cli._ask import ask
from dragoman.cli._console import stdout
from dragoman.client import choose, confirm, give_result, provide_input, reject
from dragoman.v1 import event_pb2, message_pb2, run_service_pb2

Event = event_pb2.RunEvent
STARTED = Event(sequence=1, run_started=event_pb2.RunStarted(run_id=RUN_ID, session_id=SESSION_ID))


def needing(identifier: str, **need: Any) -> event_pb2.Requirement:
    call = message_pb2.ToolCall(id="t1", name="refund")
    call.arguments["amount"] = 3
    return event_pb2.Requirement(id=identifier, tool_call=call, **need)


def form(schema: dict[str, Any]) -> event_pb2.Requirement:
    need = event_pb2.UserInputNeed()
    json_format.ParseDict(schema, need.schema)
    return needing("r1", user_input=need)


YES = needing("r1", confirmation=event_pb2.ConfirmationNeed())
TOOL = needing("r1", external_execution=event_pb2.ExternalExecutionNeed())
FORM = form(
    {
        "type": "object",
        "properties": {
            "days": {"type": "integer", "description": "how long"},
            "city": {"type": "string", "enum": ["Paris", "7"]},
            "note": {"type": "string"},
        },
        "required": ["days", "city"],
    }
)
OPTIONS = [event_pb2.UserQuestionOption(label=label) for label in ("red", "green", "2")]
ONE = event_pb2.UserQuestion(question="Which?", options=OPTIONS)
MANY = event_pb2.UserQuestion(question="Which ones?", options=OPTIONS, multi_select=True)
CHOICE = needing("r1", user_feedback=event_pb2.UserFeedbackNeed(questions=[ONE, MANY]))


def paused(*requirements: event_pb2.Requirement, sequence: int = 2) -> Event:
    return Event(
        sequence=sequence,
        run_paused=event_pb2.RunPaused(requirements=requirements, usage=USAGE, cost=COST, model_calls=1),
    )


def continued(text: str, sequence: int = 3) -> list[Event]:
    completed = event_pb2.RunCompleted(content=text, usage=USAGE, cost=COST, model_calls=2)
    return [
        Event(sequence=sequence, run_continued=event_pb2.RunContinued(resolved_requirements=1)),
        Event(sequence=sequence + 1, content_delta=event_pb2.ContentDelta(text=text)),
        Event(sequence=sequence + 2, run_completed=completed),
    ]


def continuations(services: Any) -> list[run_service_pb2.ContinueRunRequest]:
    return [each for each in services.requests if isinstance(each, run_service_pb2.ContinueRunRequest)]


@pytest.mark.parametrize(
    ("requirement", "lines", "answer"),
    [
        (YES, ["yes"], confirm("r1")),
        (YES, ["what?", "", "Y"], confirm("r1")),
        (YES, ["n"], reject("r1")),
        (YES, ["no, too dear"], reject("r1", "too dear")),
        (TOOL, ["17 degrees"], give_result("r1", "17 degrees")),
        (FORM, ["7", "soon", "3", ""], provide_input("r1", {"days": 3, "city": "7"})),
        (FORM, ["Paris", "3", "hi"], provide_input("r1", {"days": 3, "city": "Paris", "note": "hi"})),
        (CHOICE, ["4", "1", "1, 2"], choose("r1", {"Which?": "red", "Which ones?": ["red", "2"]})),
        (CHOICE, ["green", "3"], choose("r1", {"Which?": "green", "Which ones?": ["2"]})),
    ],
    ids=["yes", "asked-again", "no", "no-and-why", "result", "fields", "all-fields", "numbers", "labels"],
)
def test_answers(
    requirement: event_pb2.Requirement, lines: Iterable[str], answer: run_service_pb2.Resolution
) -> None:
    given = iter(lines)
    assert ask(stdout(), [requirement], lambda _: next(given, None)) == [answer]


def test_no_more_lines() -> None:
    answers = iter(["yes"])
    assert ask(stdout(), [YES, TOOL], lambda _: next(answers, None)) is None


def test_a_chat_asks_and_goes_on(services: Any, dragoman: Any) -> None:
    services.plays = [[STARTED, paused(YES)], continued("Done."), conversation("Bye.")]
    result = dragoman("chat", "example", "-s", services.address, lines=["refund me", "no too dear", "bye"])
    assert result.exit_code == 0, result.output
    assert "paused: it waits for 1 answer\n" in result.output
    assert "  ? refund(amount=3)\nDone.\n" in result.output
    assert "2 turns" in result.output  # an answer is no turn of its own
    (request,) = continuations(services)
    assert (request.run_id, list(request.resolutions)) == (RUN_ID, [reject("r1", "too dear")])


def test_an_answer_that_the_server_refuses_is_asked_for_again(services: Any, dragoman: Any) -> None:
    refused = error(code_pb2.INVALID_ARGUMENT, "bad", "INVALID_INPUT", ("resolutions[0]", "is not one"))
    services.plays = [[STARTED, paused(TOOL)], refused, continued("Done.")]
    result = dragoman("chat", "example", "-s", services.address, lines=["a", "first", "second"])
    assert result.exit_code == 0, result.output
    assert "resolutions[0]: is not one" in result.stderr
    assert [list(each.resolutions) for each in continuations(services)] == [
        [give_result("r1", "first")],
        [give_result("r1", "second")],
    ]


def test_a_run_may_pause_again(services: Any, dragoman: Any) -> None:
    services.plays = [
        [STARTED, paused(YES)],
        [Event(sequence=3, run_continued=event_pb2.RunContinued()), paused(TOOL, sequence=4)],
        continued("Done.", 5),
    ]
    result = dragoman("chat", "example", "-s", services.address, lines=["a", "yes", "42"])
    assert result.exit_code == 0, result.output
    assert [list(each.resolutions) for each in continuations(services)] == [
        [confirm("r1")],
        [give_result("r1", "42")],
    ]


def test_without_an_answer_the_run_stays_paused(services: Any, dragoman: Any) -> None:
    services.plays = [[STARTED, paused(YES)]]
    result = dragoman("chat", "example", "-s", services.address, lines=["a"])
    assert result.exit_code == 1
    assert f"dragoman runs continue {RUN_ID}" in result.output
    assert continuations(services) == []


def test_limits_and_conflict_reach_the_server(services: Any, dragoman: Any) -> None:
    services.plays = [conversation("one")]
    dragoman(
        *("chat", "example", "-s", services.address, "--max-cost", "0.5", "--max-tokens", "100"),
        *("--max-seconds", "1.5", "--conflict", "queue"),
        lines=["a"],
    )
    request = next(each for each in services.requests if isinstance(each, run_service_pb2.RunRequest))
    assert (request.limits.max_cost.nanos, request.limits.max_total_tokens) == (500_000_000, 100)
    assert (request.limits.max_duration.seconds, request.limits.max_duration.nanos) == (1, 500_000_000)
    assert request.session_conflict == run_service_pb2.SESSION_CONFLICT_QUEUE


def test_attach(services: Any, dragoman: Any) -> None:
    services.plays = [continued("Done.", 8)]
    result = dragoman("runs", "attach", RUN_ID, "--after", "7", "-s", services.address)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("Done.\n")
    (request,) = services.requests
    assert (request.run_id, request.after_sequence) == (RUN_ID, 7)


def test_attach_tells_how_a_run_ends(services: Any, dragoman: Any) -> None:
    cancelled = event_pb2.RunCancelled(reason=event_pb2.CANCEL_REASON_ABANDONED, usage=USAGE, cost=COST)
    services.plays = [[STARTED, Event(sequence=9000, run_cancelled=cancelled)], [STARTED, paused(YES)]]
    result = dragoman("runs", "attach", RUN_ID, "-s", services.address)
    assert (result.exit_code, "cancelled (abandoned)" in result.stdout) == (1, True)
    result = dragoman("runs", "attach", RUN_ID, "-s", services.address)
    assert (result.exit_code, "waits    r1  confirmation for refund(amount=3)" in result.stdout) == (0, True)


def test_attach_to_events_that_are_gone(services: Any, dragoman: Any) -> None:
    trimmed = error(
        code_pb2.OUT_OF_RANGE, "no longer kept", "EVENTS_TRIMMED", metadata={"oldest_sequence": "8"}
    )
    services.plays = [trimmed]
    result = dragoman("runs", "attach", RUN_ID, "-s", services.address)
    assert result.exit_code == 1
    assert result.stderr == "error: no longer kept; try --after 7 [EVENTS_TRIMMED]\n"


def test_continue(services: Any, dragoman: Any) -> None:
    services.plays = [continued("Done.")]
    result = dragoman(
        *("runs", "continue", RUN_ID, "-s", services.address, "--confirm", "a", "--reject", "b=too = dear"),
        *("--reject", "c", "--input", 'd={"days": 3}', "--result", "e=17 = x", "--choose", 'f={"Q?": "red"}'),
    )
    assert result.exit_code == 0, result.output
    (request,) = continuations(services)
    assert list(request.resolutions) == [
        confirm("a"),
        reject("b", "too = dear"),
        reject("c"),
        provide_input("d", {"days": 3}),
        give_result("e", "17 = x"),
        choose("f", {"Q?": "red"}),
    ]


def test_cancel(services: Any, dragoman: Any) -> None:
    result = dragoman("runs", "cancel", RUN_ID, "--note", "enough", "-s", services.address)
    assert result.exit_code == 0, result.output
    assert services.requests == [run_service_pb2.CancelRunRequest(run_id=RUN_ID, note="enough")]
    assert RUN_ID in result.stdout


def test_show_tells_what_a_run_waits_for(services: Any, dragoman: Any, a_run: run_service_pb2.Run) -> None:
    a_run.status = run_service_pb2.RUN_STATUS_PAUSED
    a_run.paused.requirements.append(YES)
    services.runs = [a_run]
    result = dragoman("runs", "show", RUN_ID, "-s", services.address)
    assert "status   paused" in result.stdout
    assert "waits    r1  confirmation for refund(amount=3)" in result.stdout


def test_queued_runs_can_be_listed(services: Any, dragoman: Any) -> None:
    services.runs = [run_service_pb2.Run(id=RUN_ID, status=run_service_pb2.RUN_STATUS_QUEUED)]
    result = dragoman("runs", "list", "--status", "queued", "-s", services.address)
    assert "queued" in result.stdout
    assert services.requests[0].status == run_service_pb2.RUN_STATUS_QUEUED
