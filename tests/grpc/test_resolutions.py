"""Answers to what a paused run waits for: every way in which they can be wrong, with its path."""

from collections.abc import Sequence
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st
from referencing.exceptions import Unresolvable

from dragoman.errors import InvalidInput, Violation
from dragoman.transport import schema
from dragoman.transport.resolutions import MAX_NOTE, THREAD_BYTES, check_answers
from dragoman.transport.validation import Checks
from dragoman.v1 import event_pb2
from dragoman.v1 import run_service_pb2 as pb


def struct(values: dict[str, Any]) -> Struct:
    made = Struct()
    made.update(values)
    return made


FIELDS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"type": "string", "minLength": 2, "maxLength": 5},
        "days": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        "mood": {"enum": ["good", "bad"]},
        "stops": {"type": "array", "maxItems": 2, "items": {"$ref": "#/$defs/Stop"}},
    },
    "required": ["city"],
    "additionalProperties": False,
    "$defs": {"Stop": {"type": "object", "properties": {"km": {"minimum": 1}}, "required": ["km"]}},
}
NEEDS: dict[str, dict[str, Any]] = {
    "yes": {"confirmation": event_pb2.ConfirmationNeed()},
    "fields": {"user_input": event_pb2.UserInputNeed(schema=struct(FIELDS))},
    "tool": {"external_execution": event_pb2.ExternalExecutionNeed()},
    "ask": {
        "user_feedback": event_pb2.UserFeedbackNeed(
            questions=[
                event_pb2.UserQuestion(
                    question="Which?",
                    options=[event_pb2.UserQuestionOption(label=label) for label in ("a", "b")],
                ),
                event_pb2.UserQuestion(
                    question="What else?",
                    options=[event_pb2.UserQuestionOption(label=label) for label in ("c", "d")],
                    multi_select=True,
                ),
                event_pb2.UserQuestion(question="Anything?"),
            ]
        )
    },
    "future": {},
}


def requirements(*names: str) -> list[event_pb2.Requirement]:
    return [event_pb2.Requirement(id=name, **NEEDS[name]) for name in names]


def confirm(requirement_id: str = "yes") -> pb.Resolution:
    return pb.Resolution(requirement_id=requirement_id, confirmation=pb.Confirmation(confirmed=True))


def fill(**values: Any) -> pb.Resolution:
    return pb.Resolution(requirement_id="fields", user_input=pb.UserInput(values=struct(values)))


def result(text: str = "", requirement_id: str = "tool") -> pb.Resolution:
    return pb.Resolution(requirement_id=requirement_id, external_execution=pb.ExternalExecution(result=text))


def choose(*choices: tuple[str, list[str]]) -> pb.Resolution:
    made = [pb.UserChoice(question=question, labels=labels) for question, labels in choices]
    return pb.Resolution(requirement_id="ask", user_feedback=pb.UserFeedback(choices=made))


WHICH, ELSE, ANY = ("Which?", ["a"]), ("What else?", ["d", "c"]), ("Anything?", ["free text"])
VALUES = "resolutions[0].user_input.values"
CHOICES = "resolutions[0].user_feedback.choices"

Case = tuple[str, list[str], list[pb.Resolution], list[str]]
CASES: list[Case] = [
    ("a yes", ["yes"], [confirm()], []),
    ("a result, also an empty one", ["tool"], [result()], []),
    ("values", ["fields"], [fill(city="Oslo", days=3, mood="bad", stops=[{"km": 1}])], []),
    ("values, as few as may be", ["fields"], [fill(city="Oslo", days=None)], []),
    ("choices, in any order", ["ask"], [choose(ELSE, ANY, WHICH)], []),
    ("all, in any order", ["yes", "tool", "ask"], [result("x"), choose(WHICH, ELSE, ANY), confirm()], []),
    ("unknown", ["yes"], [confirm(), confirm("no")], ["resolutions[1].requirement_id"]),
    ("twice", ["yes"], [confirm(), confirm()], ["resolutions[1].requirement_id"]),
    ("missing", ["yes", "tool", "ask"], [confirm()], ["resolutions"]),
    ("wrong kind", ["yes"], [result("", "yes")], ["resolutions[0].external_execution"]),
    (
        "wrong kinds",
        ["tool", "fields"],
        [confirm("fields"), confirm("tool")],
        [
            "resolutions[0].confirmation",
            "resolutions[1].confirmation",
        ],
    ),
    ("a kind of the future", ["future"], [confirm("future")], ["resolutions[0]"]),
    ("a value is missing", ["fields"], [fill(days=1)], [f"{VALUES}.city"]),
    (
        "no values",
        ["fields"],
        [pb.Resolution(requirement_id="fields", user_input=pb.UserInput())],
        [f"{VALUES}.city"],
    ),
    ("too short", ["fields"], [fill(city="x")], [f"{VALUES}.city"]),
    ("not whole", ["fields"], [fill(city="Oslo", days=1.5)], [f"{VALUES}.days"]),
    (
        "more values",
        ["fields"],
        [fill(city="Oslo", **{"a b": 1}, z=2)],
        [
            f"{VALUES}.z",
            f'{VALUES}["a b"]',
        ],
    ),
    (
        "deep values",
        ["fields"],
        [fill(city="Oslo", stops=[{"km": 0}, {}])],
        [
            f"{VALUES}.stops[0].km",
            f"{VALUES}.stops[1].km",
        ],
    ),
    ("not JSON", ["fields"], [fill(city=float("nan"))], [f"{VALUES}.city"]),
    ("no choice", ["ask"], [choose()], [CHOICES]),
    ("a choice is missing", ["ask"], [choose(WHICH, ANY)], [CHOICES]),
    ("unknown question", ["ask"], [choose(WHICH, ELSE, ANY, ("Why?", ["a"]))], [f"{CHOICES}[3].question"]),
    ("answered twice", ["ask"], [choose(WHICH, ELSE, ANY, WHICH)], [f"{CHOICES}[3].question"]),
    ("unknown option", ["ask"], [choose(("Which?", ["c"]), ELSE, ANY)], [f"{CHOICES}[0].labels[0]"]),
    ("several options", ["ask"], [choose(("Which?", ["a", "b"]), ELSE, ANY)], [f"{CHOICES}[0].labels"]),
    ("no option", ["ask"], [choose(WHICH, ("What else?", []), ANY)], [f"{CHOICES}[1].labels"]),
    (
        "an option twice",
        ["ask"],
        [choose(WHICH, ("What else?", ["c", "c"]), ANY)],
        [f"{CHOICES}[1].labels[1]"],
    ),
    (
        "a long answer",
        ["ask"],
        [choose(WHICH, ELSE, ("Anything?", ["x" * (MAX_NOTE + 1)]))],
        [f"{CHOICES}[2].labels[0]"],
    ),
    (
        "all at once",
        ["yes", "fields", "tool"],
        [fill(city="x", mood="so so"), confirm("tool"), confirm("other")],
        [
            f"{VALUES}.city",
            f"{VALUES}.mood",
            "resolutions[1].confirmation",
            "resolutions[2].requirement_id",
            "resolutions",
        ],
    ),
]


async def wrong(names: Sequence[str], resolutions: Sequence[pb.Resolution]) -> list[Violation]:
    checks = Checks()
    await check_answers(requirements(*names), resolutions, checks)
    try:
        checks.done()
    except InvalidInput as error:
        return list(error.violations)
    return []


@pytest.mark.parametrize(
    ("names", "resolutions", "fields"), [c[1:] for c in CASES], ids=[c[0] for c in CASES]
)
async def test_answers(names: list[str], resolutions: list[pb.Resolution], fields: list[str]) -> None:
    found = await wrong(names, resolutions)
    assert [violation.field for violation in found] == fields
    assert all(violation.description for violation in found)


async def test_what_is_missing_is_named() -> None:
    (missing,) = await wrong(["yes", "tool", "ask"], [confirm()])
    assert missing.description.endswith("tool, ask")


@pytest.mark.parametrize("city", ["Oslo", "O" * (2 * THREAD_BYTES)], ids=["small", "large"])
async def test_the_size_makes_no_difference(city: str) -> None:
    fields = [violation.field for violation in await wrong(["fields"], [fill(city=city, mood="x")])]
    assert fields == ([f"{VALUES}.mood"] if city == "Oslo" else [f"{VALUES}.city", f"{VALUES}.mood"])


SENTENCES: list[tuple[dict[str, Any], Any, str]] = [
    ({"type": "string"}, 1.0, "must be of type string"),
    ({"type": ["string", "null"]}, 1.0, "must be of type string or null"),
    ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "x", "must be of type integer or null"),
    ({"oneOf": [{"const": 1}, {"type": "null"}]}, "x", "is none of what the schema allows"),
    ({"enum": ["a", 1.0, 1.5, None]}, "x", 'must be one of "a", 1, 1.5, null'),
    ({"const": 3.0}, 4.0, "must be 3"),
    ({"minLength": 3.0}, "x", "must have at least 3 characters"),
    ({"maxLength": 3.0}, "long", "must have at most 3 characters"),
    ({"pattern": "^a"}, "x", "must match the pattern ^a"),
    ({"format": "uuid"}, "x", "must be a uuid"),
    ({"format": "date"}, "2026-02-30", "must be a date"),
    ({"minimum": 3.0}, 2.0, "must be at least 3"),
    ({"maximum": 2.5}, 3.0, "must be at most 2.5"),
    ({"exclusiveMinimum": 3.0}, 3.0, "must be more than 3"),
    ({"exclusiveMaximum": 3.0}, 3.0, "must be less than 3"),
    ({"multipleOf": 2.0}, 3.0, "must be a multiple of 2"),
    ({"minItems": 1.0}, [], "must have at least 1 items"),
    ({"maxItems": 1.0}, [1.0, 2.0], "must have at most 1 items"),
    ({"uniqueItems": True}, [1.0, 1.0], "must not repeat an item"),
    ({"not": {"type": "string"}}, "x", "breaks the rule not of the schema"),
]


@pytest.mark.parametrize(("rule", "value", "text"), SENTENCES, ids=[str(case[2]) for case in SENTENCES])
def test_sentences(rule: dict[str, Any], value: object, text: str) -> None:
    whole = {"type": "object", "properties": {"a": rule}}
    assert schema.violations({"a": value}, whole, "p") == [Violation("p.a", text)]


def test_a_value_never_comes_back_in_a_sentence() -> None:
    secret = "hunter2"
    for rule, _, _ in SENTENCES:
        whole = {"type": "object", "properties": {"a": rule}}
        for found in schema.violations({"a": secret}, whole, "p"):
            assert secret not in found.description


def test_nothing_is_fetched() -> None:
    with pytest.raises(Unresolvable):
        schema.violations({}, {"$ref": "http://127.0.0.1:9/schema.json"}, "p")


def test_a_value_with_a_thousand_faults_is_told_of_some() -> None:
    whole = {"type": "object", "properties": {"a": {"items": {"type": "string"}}}}
    assert len(schema.violations({"a": [1.0] * 5000}, whole, "p")) == schema.MAX_VIOLATIONS


@given(st.lists(st.sampled_from(["yes", "tool", "ask"]), unique=True), st.data())
async def test_only_exactly_one_answer_each_is_right(names: list[str], data: st.DataObject) -> None:
    answers = {"yes": confirm(), "tool": result("x"), "ask": choose(WHICH, ELSE, ANY)}
    given_names = data.draw(st.lists(st.sampled_from(sorted(answers)), max_size=4))
    found = await wrong(names, [answers[name] for name in given_names])
    assert (not found) == (sorted(given_names) == sorted(names))
