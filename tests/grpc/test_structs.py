"""Struct to JSON and back."""

from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from dragoman.transport.structs import MAX_DEPTH, from_struct, to_struct

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALAR = st.none() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
JSON = st.recursive(
    SCALAR, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4)
)


def refuse(path: str, description: str) -> None:
    raise AssertionError(f"{path}: {description}")


@given(st.dictionaries(TEXT, JSON, max_size=5))
def test_json_goes_there_and_back(value: dict[str, Any]) -> None:
    struct = to_struct(value)
    assert from_struct(struct, "inputs", refuse) == value
    assert json_format.MessageToDict(struct) == value


def test_numbers_stay_floats() -> None:
    result = from_struct(to_struct({"n": 1, "list": [2]}), "inputs", refuse)
    assert isinstance(result["n"], float)
    assert isinstance(result["list"], list)
    assert isinstance(result["list"][0], float)


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for _ in range(levels - 1):
        value = {"a": value}
    return value


@pytest.mark.parametrize(("levels", "refused"), [(MAX_DEPTH, 0), (MAX_DEPTH + 1, 1)])
def test_depth(levels: int, refused: int) -> None:
    seen: list[str] = []
    from_struct(to_struct(nested(levels)), "inputs", lambda path, _description: seen.append(path))
    assert seen == ["inputs" + ".a" * MAX_DEPTH][:refused]


def test_every_bad_place_is_reported_with_its_path() -> None:
    struct = to_struct({"a": [1.0, {"b-c": float("inf")}], "": float("nan"), 'q"': [float("-inf")]})
    struct.fields["unset"].CopyFrom(Value())
    seen: dict[str, str] = {}
    from_struct(struct, "inputs", seen.__setitem__)
    assert set(seen) == {'inputs.a[1]["b-c"]', 'inputs[""]', 'inputs["q\\""][0]', "inputs.unset"}


def test_what_is_not_json_is_no_struct() -> None:
    with pytest.raises(ValueError):
        to_struct({"a": object()})


def test_an_empty_struct_is_an_empty_object() -> None:
    assert from_struct(Struct(), "inputs", refuse) == {}
