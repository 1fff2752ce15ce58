"""The offline model's rules: what is found in a text for a JSON schema, and where a text is cut."""

import time
from datetime import date, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from dragoman.testing._fill import fill
from dragoman.testing._responder import Conversation, Result, Tool, reply, steps


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Inner(BaseModel):
    count: int = Field(gt=0, lt=9)
    label: Annotated[str, Field(min_length=2, max_length=5)]


class Everything(BaseModel):
    whole: int = Field(ge=-3, le=1000)
    real: float = Field(gt=0.5)
    colour: Colour
    size: Literal["small", "large"]
    sure: bool
    day: date
    moment: datetime
    key: UUID
    inner: Inner
    numbers: Annotated[list[int], Field(min_length=2, max_length=4)]
    inners: list[Inner]
    names: list[str]
    table: dict[str, int]
    maybe: int | None
    note: str
    fixed: Literal[3] = 3
    spare: str | None = None


SCHEMA = Everything.model_json_schema()


@given(st.text() | st.lists(st.sampled_from(
    ["red", "GREEN", "3", "-7.5", "1e9", "99999999999999999999", "2024-02-30", "2024-02-29", "2024-02-29T10:00:00Z", "whole=", "maybe", "5", "days", "'a", "b'", "“c”", "small", "no", "sure", "label:", "key", "Rome", "New", "York", "and", "then", "it", "12:61", "\x00", "1", "(", "2+3", ")."]
)).map(" ".join))  # fmt: skip
def test_values_for_any_text_satisfy_the_schema(text: str) -> None:
    Everything.model_validate(fill(SCHEMA, text, rest=text).values)
    Everything.model_validate(fill(SCHEMA, text).values)


def schema(required: bool = True, **properties: Any) -> dict[str, Any]:
    return {"properties": properties, "required": list(properties) if required else []}


STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}


@pytest.mark.parametrize(
    ("wanted", "text", "values"),
    [
        (schema(a=NUMBER, b=NUMBER), "from 10 to 2.5", {"a": 10, "b": 2.5}),
        (schema(a=NUMBER, b=NUMBER), "b=1 and a: 2", {"a": 2, "b": 1}),
        (schema(city=STRING, days=INTEGER), "3 days in Rome", {"city": "Rome", "days": 3}),
        (schema(city=STRING, day=INTEGER), "days 4, Rome", {"city": "Rome", "day": 4}),
        (schema(city=STRING), "What is it like in São Paulo?", {"city": "São Paulo"}),
        (schema(city=STRING), "London's", {"city": "London"}),
        (schema(city=STRING), "city=oslo", {"city": "oslo"}),
        (schema(query=STRING), "search for blue whales.", {"query": "blue whales"}),
        (schema(query=STRING), "search 'it is' now", {"query": "it is"}),
        (schema(expression=STRING), "what is (2+3) * 4?", {"expression": "(2+3) * 4"}),
        (schema(expression=STRING), "-7 / 2", {"expression": "-7 / 2"}),
        (schema(expression=STRING), "10-7", {"expression": "10-7"}),
        (schema(unit={"enum": ["celsius", "kelvin"]}), "in Kelvin", {"unit": "kelvin"}),
        (schema(loud={"type": "boolean"}), "very loud", {"loud": True}),
        (schema(loud={"type": "boolean"}), "not loud", {"loud": False}),
        (schema(items={"type": "array", "items": INTEGER}), "sort 3, 1 and 2", {"items": [3, 1, 2]}),
        (
            schema(mail={"type": "string", "format": "email"}),
            "to ann@example.org.",
            {"mail": "ann@example.org"},
        ),
        (schema(day={"type": "string", "format": "date"}), "on 2025-03-01", {"day": "2025-03-01"}),
        (schema(n={"type": ["integer", "null"]}), "take 7", {"n": 7}),
        (schema(n={"anyOf": [{"type": "null"}, NUMBER]}), "take 7.5", {"n": 7.5}),
        (schema(n={"type": "integer", "maximum": 5}), "take 7", {"n": 5}),
        ({"properties": {"a": INTEGER, "b": INTEGER}, "required": ["a"]}, "1 or 2", {"a": 1}),
        (schema(required=False, a=INTEGER), "take 7", {"a": 7}),
        (schema(required=False, a=INTEGER), "take some", {}),
    ],
)
def test_arguments_are_found(wanted: dict[str, Any], text: str, values: dict[str, Any]) -> None:
    filled = fill(wanted, text)
    assert filled.values == values
    assert filled.complete


def test_what_is_not_in_the_text_is_made_up_and_told_so() -> None:
    filled = fill(schema(a=INTEGER, b={"type": "string", "default": "x"}), "nothing here")
    assert filled.values == {"a": 0, "b": "x"}
    assert not filled.complete


@pytest.mark.parametrize(
    ("text", "cut"),
    [
        ("", []),
        ("one thing", [["one thing"]]),
        ("a, b and c", [["a", "b", "c"]]),
        ("a and then b, then c; d", [["a"], ["b"], ["c", "d"]]),
        ("Say 'then and' now. After that stop!", [["Say 'then and' now"], ["stop!"]]),
        ("nul \0" + "7\0 stays out", [["nul 7 stays out"]]),
    ],
)
def test_a_text_is_cut_into_steps(text: str, cut: list[list[str]]) -> None:
    assert steps(text) == cut


TOOLS = [
    Tool("add", "Add two numbers.", schema(a=NUMBER, b=NUMBER)),
    Tool("get_weather", "Tell the weather of a city.", schema(city=STRING)),
]


CALCULATOR = Tool("evaluate", "Finds the value.", schema(expression=STRING))


@pytest.mark.parametrize(
    ("text", "expressions"),
    [
        ("What is 6 * 7?", ["6 * 7"]),
        ("what's -7/2", ["-7/2"]),
        ("How much is (2 + 3) * 4 =", ["(2 + 3) * 4"]),
        ("1.5 - 0.5", ["1.5 - 0.5"]),
        ("What is 6 * 7 and 2 + 2?", ["6 * 7", "2 + 2"]),
        ("What is 6?", []),
        ("What is 6 7?", []),
        ("What is open 24/7?", []),
        ("Call me at 555-0100", []),
        ("What is *?", []),
    ],
)
def test_arithmetic_alone_asks_for_a_calculator(text: str, expressions: list[str]) -> None:
    answer = reply(Conversation((text,), (), 0, ()), [*TOOLS, CALCULATOR])
    assert [(call.name, call.arguments) for call in answer.calls] == [
        ("evaluate", {"expression": expression}) for expression in expressions
    ]
    assert reply(Conversation((text,), (), 0, ()), TOOLS).calls == ()


@given(
    text=st.text(), results=st.lists(st.builds(Result, st.just("add"), st.text(), st.booleans()), max_size=3)
)
def test_any_conversation_gets_an_answer(text: str, results: list[Result]) -> None:
    answer = reply(Conversation((text,), (), len(results), tuple(results)), TOOLS)
    assert bool(answer.text) != bool(answer.calls)


@pytest.mark.parametrize(
    "text",
    [
        "in " + "." * 200_000 + "x",
        "“" * 200_000,
        " " * 200_000,
        "add 1 and " * 20_000,
        "1" * 200_000,
        "1 + " * 50_000,
    ],
)
def test_a_long_message_takes_no_long_time_and_gets_no_long_answer(text: str) -> None:
    start = time.thread_time()
    answer = reply(Conversation((text,), (), 0, ()), TOOLS)
    assert time.thread_time() - start < 2
    assert len(answer.text) < 500
