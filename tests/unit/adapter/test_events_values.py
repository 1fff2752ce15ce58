"""Any object as JSON and as Struct: by the written rules, without raising, and readable by every proto parser."""

import json
import math
import uuid
from collections import OrderedDict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from fractions import Fraction
from pathlib import PurePosixPath
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, SecretStr

from dragoman.adapter.values import CUT, MAX_DEPTH, clean, cut, plain, to_json, to_struct, to_text, to_value
from dragoman.v1 import event_pb2


class Colour(Enum):
    RED = "red"


class Word(StrEnum):
    YES = "yes"


class Level(IntEnum):
    HIGH = 3


class Point(BaseModel):
    x: int
    at: datetime = datetime(2024, 2, 29, 12, tzinfo=UTC)
    secret: SecretStr = SecretStr("hush")


class Node(BaseModel):
    name: str
    next: "Node | None" = None


@dataclass
class Part:
    size: Decimal
    tags: set[str] = field(default_factory=set)


class Rude:
    def __str__(self) -> str:
        raise RuntimeError("no")


class Keyless(dict[str, Any]):
    def items(self) -> Any:
        raise OSError("gone")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (True, True),
        (0, 0),
        (-1.5, -1.5),
        ("", ""),
        (2**53, 2**53),
        (2**53 + 1, "9007199254740993"),
        (-(2**64), "-18446744073709551616"),
        (float("nan"), "NaN"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (Decimal("1.10"), "1.10"),
        (Fraction(1, 3), "1/3"),
        (uuid.UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (PurePosixPath("a/b"), "a/b"),
        (datetime(2024, 2, 29, 12, 30, tzinfo=UTC), "2024-02-29T12:30:00+00:00"),
        (date(2024, 2, 29), "2024-02-29"),
        (timedelta(seconds=90, microseconds=500_000), "90.5s"),
        (timedelta(0), "0s"),
        (Colour.RED, "red"),
        (Word.YES, "yes"),
        (Level.HIGH, 3),
        (b"\x00\xff", "AP8="),
        (bytearray(b"a"), "YQ=="),
        (Point(x=1), {"x": 1, "at": "2024-02-29T12:00:00+00:00", "secret": "**********"}),
        (Part(Decimal(2), {"b", "a"}), {"size": "2", "tags": ["a", "b"]}),
        ((1, [2, deque([3])]), [1, [2, [3]]]),
        (frozenset({3, 1, 2}), [1, 2, 3]),
        (OrderedDict(a=1), {"a": 1}),
        ({2: "a", "2": "b", None: "c", True: "d"}, {"2": "b", "null": "c", "true": "d"}),
        ({(1, "x"): 1, Colour.RED: 2, b"k": 3}, {'[1, "x"]': 1, "red": 2, "aw==": 3}),
        (ValueError("what went wrong"), "ValueError"),
        (Point, "Point"),
        (Rude(), "<Rude>"),
        (Keyless(a=1), "<Keyless>"),
        (complex(1, 2), "(1+2j)"),
        ("\ud83d\ude42 \ud83d", "🙂 \ufffd"),
        ({"\ud800": "\udfff"}, {"\ufffd": "\ufffd"}),
    ],
    ids=lambda each: type(each).__name__,  # the same in every process, unlike a set's order
)
def test_rules(value: object, expected: object) -> None:
    assert plain(value) == expected
    assert type(plain(value)) is type(expected)


def test_an_int_of_more_digits_than_python_writes() -> None:
    assert str(plain(10**5000)).startswith("0x")


def test_cycles_are_cut() -> None:
    ring: list[Any] = [1]
    ring.append(ring)
    table: dict[str, Any] = {"again": ring}
    table["self"] = table
    node = Node(name="a")
    node.next = node

    assert plain(ring) == [1, CUT]
    assert plain(table) == {"again": [1, CUT], "self": CUT}
    assert plain(node) == {"name": "a", "next": CUT}


def test_the_same_object_twice_is_no_cycle() -> None:
    shared = {"a": 1}

    assert plain([shared, shared]) == [{"a": 1}, {"a": 1}]


@pytest.mark.parametrize("wrap", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_nesting_is_cut_before_parsers_refuse_it(wrap: Any) -> None:
    value: Any = "deep"
    for _ in range(MAX_DEPTH):
        value = wrap(value)
    assert "deep" in json.dumps(plain(value))
    for _ in range(5000):
        value = wrap(value)
    assert CUT in json.dumps(plain(value), ensure_ascii=False)

    event = event_pb2.RunEvent()
    event.tool_call_started.tool_call.arguments.CopyFrom(to_struct(value))
    assert event_pb2.RunEvent.FromString(event.SerializeToString()) == event
    paused = event_pb2.RunEvent()
    paused.run_paused.requirements.add().user_input.schema.CopyFrom(to_struct(value))
    assert event_pb2.RunEvent.FromString(paused.SerializeToString()) == paused


@pytest.mark.parametrize(
    "value",
    [
        "x" * 5_000_000,
        ["x" * 100] * 50_000,
        {str(n): n for n in range(300_000)},
        list(range(1_000_000)),
        b"x" * 5_000_000,
    ],
    ids=["text", "texts", "object", "numbers", "bytes"],
)
def test_size_is_bounded_and_marked(value: object) -> None:
    struct = to_struct(value)

    assert struct.ByteSize() < 3 * 1024 * 1024
    assert CUT in json.dumps(json_format.MessageToDict(struct), ensure_ascii=False)


def test_what_is_no_object_becomes_the_field_value() -> None:
    assert json_format.MessageToDict(to_struct([1, "a"])) == {"value": [1, "a"]}
    assert not to_struct({}).fields
    assert to_value({}).WhichOneof("kind") == "struct_value"
    assert to_value([]).WhichOneof("kind") == "list_value"
    assert to_value(None).WhichOneof("kind") == "null_value"


@pytest.mark.parametrize(
    ("value", "expected"), [(None, ""), ("a", "a"), ({"a": "ü"}, '{"a": "ü"}'), (1, "1")]
)
def test_text(value: object, expected: str) -> None:
    assert to_text(value) == expected


@pytest.mark.parametrize("limit", [0, 1, 16, 17, 100, 1000])
def test_json_over_the_limit_is_still_json(limit: int) -> None:
    text = to_json({"quotes": '"\\' * 500}, max_bytes=limit)

    json.loads(text)
    assert len(text.encode()) <= max(limit, len('{"truncated": ""}'))


@given(st.text(), st.integers(0, 40))
def test_cut_keeps_the_longest_beginning(text: str, limit: int) -> None:
    kept, truncated = cut(text, limit)

    assert text.startswith(kept)
    assert truncated == (kept != text)
    assert len(kept.encode()) <= limit or not truncated
    assert not truncated or len(text[: len(kept) + 1].encode()) > limit


@given(st.text(alphabet=st.characters(codec=None)))
def test_clean_text_is_what_utf8_can_say(text: str) -> None:
    cleaned = clean(text)

    assert cleaned.encode().decode() == cleaned
    assert clean(cleaned) == cleaned


LEAVES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(alphabet=st.characters(codec=None)),
    st.binary(),
    st.decimals(),
    st.datetimes(),
    st.timedeltas(),
    st.uuids(),
    st.sampled_from([Colour.RED, Level.HIGH, Word.YES, Rude(), Point(x=1), Keyless()]),
)
TREES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.tuples(inner, inner),
        st.dictionaries(st.one_of(st.text(), st.integers(), st.none(), st.booleans()), inner, max_size=4),
        st.builds(lambda x: Node.model_construct(name=x), inner),
    ),
    max_leaves=25,
)


@given(TREES)
def test_any_tree_round_trips(value: object) -> None:
    content = plain(value)
    assert plain(content) == content, "JSON stays as it is"

    message = to_value(value)
    parsed = Value.FromString(message.SerializeToString())
    assert parsed == message
    assert json_format.MessageToDict(parsed) == json.loads(json.dumps(content), parse_int=float)
    assert Struct.FromString(to_struct(value).SerializeToString()) == to_struct(value)
    assert json.loads(to_json(value)) == content
