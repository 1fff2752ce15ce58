"""A caller's inputs as Pydantic models: numbers, paths, every violation at once, and the way through the database."""

import json
from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, Literal
from uuid import UUID

import pytest
from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from dragoman.catalog import inputs
from dragoman.errors import InvalidInput, Violation


class Topic(BaseModel):
    name: Annotated[str, Field(max_length=3)]


class Circle(BaseModel):
    shape: Literal["circle"]
    radius: float


class Square(BaseModel):
    shape: Literal["square"]
    side: float


class Span(TypedDict):
    start: int


@dataclass
class Weight:
    grams: int


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    known: int = 0


class Everything(BaseModel):
    topics: list[Topic] = []
    count: int = 0
    ratio: float = 0.0
    span: Span | None = None
    weight: Weight | None = None
    figure: Annotated[Circle | Square, Field(discriminator="shape")] | None = None
    either: int | Topic | None = None
    by_code: dict[Annotated[str, Field(max_length=2)], int] = {}
    renamed: int = Field(0, alias="newName")
    open: Open | None = None
    strict_count: Annotated[int, Field(strict=True)] = 0
    pair: tuple[int, str] | None = None
    day: date | None = None
    anything: Any = None


EXTRA = "is not a field of this agent's inputs"


@pytest.mark.parametrize(
    ("given_inputs", "violations"),
    [
        ({"count": 3.5}, [("inputs.count", "got a number with a fractional part")]),
        ({"count": "many"}, [("inputs.count", "valid integer")]),
        ({"what": 1}, [("inputs.what", EXTRA)]),
        ({"a b": 1}, [('inputs["a b"]', EXTRA)]),
        ({"topics": [{"name": "ok"}, {}, {"name": "abcd"}]}, [
            ("inputs.topics[1].name", "Field required"),
            ("inputs.topics[2].name", "at most 3 characters"),
        ]),
        ({"topics": [{"name": "ok", "more": 1}]}, [("inputs.topics[0].more", EXTRA)]),
        ({"topics": {"name": "ok"}}, [("inputs.topics", "valid array")]),
        ({"span": {"start": 1, "end": 2}}, [("inputs.span.end", EXTRA)]),
        ({"weight": {"grams": 1, "kilos": 2}}, [("inputs.weight.kilos", EXTRA)]),
        ({"open": {"known": 1, "unknown": 2}}, [("inputs.open.unknown", EXTRA)]),
        ({"figure": {"shape": "circle"}}, [("inputs.figure.radius", "Field required")]),
        ({"figure": {"shape": "square", "side": "x"}}, [("inputs.figure.side", "valid number")]),
        ({"figure": {"shape": "line"}}, [("inputs.figure", "expected tags")]),
        ({"either": {"name": "abcd"}}, [("inputs.either", "valid integer"), ("inputs.either.name", "at most 3")]),
        ({"by_code": {"abc": 1, "a b": "x"}}, [
            ("inputs.by_code.abc", "at most 2 characters"),
            ('inputs.by_code["a b"]', "at most 2 characters"),
            ('inputs.by_code["a b"]', "valid integer"),
        ]),
        ({"newName": "x"}, [("inputs.newName", "valid integer")]),
        ({"renamed": 1}, [("inputs.renamed", EXTRA)]),
        ({"pair": [1, 2]}, [("inputs.pair[1]", "valid string")]),
        ({"pair": [1]}, [("inputs.pair[1]", "Field required")]),
        ({"day": "tomorrow"}, [("inputs.day", "valid date")]),
        ({"count": float("nan"), "topics": [{"name": float("inf")}]}, [
            ("inputs.count", "finite"),
            ("inputs.topics[0].name", "finite"),
        ]),
        ({"count": "x", "ratio": "y", "what": 1}, [
            ("inputs.count", "valid integer"),
            ("inputs.ratio", "valid number"),
            ("inputs.what", EXTRA),
        ]),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)  # fmt: skip
def test_every_violation_is_told_with_its_path(
    given_inputs: dict[str, object], violations: list[tuple[str, str]]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        inputs.parse(Everything, _through_struct(given_inputs))
    told = caught.value.violations
    assert sorted(violation.field for violation in told) == sorted(field for field, _ in violations)
    for field, words in violations:
        assert any(violation.field == field and words in violation.description for violation in told)


def test_violations_quote_neither_the_value_nor_a_web_address() -> None:
    with pytest.raises(InvalidInput) as caught:
        inputs.parse(Everything, {"count": "a-secret", "topics": [{"name": "a-secret"}], "day": "a-secret"})
    text = repr(caught.value.violations) + str(caught.value)
    assert "a-secret" not in text
    assert "http" not in text
    assert len(caught.value.violations) == 3


@pytest.mark.parametrize(
    ("field", "sent", "accepted"),
    [
        ("count", 3.0, 3),
        ("strict_count", 3.0, 3),
        ("ratio", 3.0, 3.0),
        ("ratio", 0.1, 0.1),
        ("anything", 3.0, 3),
        ("anything", [1.0, {"a": 2.5}], [1, {"a": 2.5}]),
        ("anything", float(2**53), 2**53),
        ("anything", 1e300, 1e300),
        ("anything", True, True),
        ("anything", None, None),
        ("pair", [1.0, "a"], (1, "a")),
        ("day", "2026-05-04", date(2026, 5, 4)),
    ],
)
def test_numbers_of_a_struct_are_json_numbers(field: str, sent: object, accepted: object) -> None:
    value = getattr(inputs.parse(Everything, _through_struct({field: sent})), field)
    assert value == accepted
    assert type(value) is type(accepted)


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    count: int = 0
    day: date = date(2000, 1, 1)
    tags: set[str] = set()
    id: UUID = UUID(int=0)


def test_a_strict_model_is_strict_as_for_json() -> None:
    accepted = inputs.parse(
        Strict, _through_struct({"count": 3, "day": "2026-05-04", "tags": ["a"], "id": str(UUID(int=7))})
    )
    assert accepted == Strict(count=3, day=date(2026, 5, 4), tags={"a"}, id=UUID(int=7))
    with pytest.raises(InvalidInput) as caught:
        inputs.parse(Strict, {"count": "3"})
    assert [violation.field for violation in caught.value.violations] == ["inputs.count"]


def test_an_authors_own_words_are_passed_on() -> None:
    class Even(BaseModel):
        number: int = 0

        def model_post_init(self, context: object, /) -> None:
            if self.number % 2:
                raise ValueError("must be even")

    with pytest.raises(InvalidInput) as caught:
        inputs.parse(Even, {"number": 3.0})
    assert caught.value.violations == (Violation("inputs", "must be even"),)


class Kept(BaseModel):
    name: str = Field("", alias="theName")
    price: Decimal = Decimal(0)
    topics: list[Topic] = []
    day: date | None = None
    ratio: float = 0.0


kept = st.builds(
    Kept,
    theName=st.text(),
    price=st.decimals(allow_nan=False, allow_infinity=False, places=4),
    topics=st.lists(st.builds(Topic, name=st.text(max_size=3))),
    day=st.none() | st.dates(),
    ratio=st.floats(allow_nan=False, allow_infinity=False),
)


@given(kept)
def test_what_was_accepted_comes_back_from_the_database(accepted: Kept) -> None:
    document = json.loads(json.dumps(inputs.stored(accepted)))
    assert inputs.restore(Kept, document) == accepted


def test_fields_that_a_model_has_lost_are_dropped_and_new_ones_get_their_default() -> None:
    assert inputs.restore(Kept, {"name": "a", "gone": 1}) == Kept(theName="a")
    with pytest.raises(ValidationError):
        inputs.restore(Kept, {"topics": "none"})


steps = st.integers(min_value=0) | st.text()


@given(st.lists(steps))
def test_a_path_can_be_read_back(location: list[str | int]) -> None:
    assert _parsed(inputs.path(location)) == location


@given(
    st.recursive(
        st.floats() | st.text() | st.none() | st.booleans(), lambda inner: st.lists(inner, max_size=3)
    )
)
def test_whatever_a_struct_holds_is_accepted_as_it_is_or_refused_for_its_numbers(value: object) -> None:
    violations: tuple[Violation, ...] = ()
    accepted = None
    try:
        accepted = inputs.parse(Everything, {"anything": value})
    except InvalidInput as error:
        violations = error.violations
    assert accepted is None or accepted.anything == value
    assert bool(violations) == (accepted is None)
    assert all(violation.description == "must be a finite number" for violation in violations)


def _through_struct(given_inputs: dict[str, object]) -> dict[str, object]:
    """As they arrive: every number a double."""
    try:
        return MessageToDict(ParseDict(given_inputs, Struct()))
    except (ParseError, ValueError):  # the JSON form refuses NaN and infinity, which a Struct can hold
        return given_inputs


def _parsed(path: str) -> list[str | int]:
    """The inverse of `inputs.path`, written as a client would."""
    rest = path.removeprefix("inputs")
    found: list[str | int] = []
    while rest:
        if rest.startswith("."):
            name = rest[1:].replace("[", ".").split(".")[0]
            found.append(name)
            rest = rest[1 + len(name) :]
        else:
            value, end = json.JSONDecoder().raw_decode(rest, 1)
            found.append(value)
            assert rest[end] == "]"
            rest = rest[end + 1 :]
    return found
