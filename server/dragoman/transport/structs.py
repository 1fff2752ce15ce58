"""`google.protobuf.Struct` to plain JSON values and back.

Numbers stay floats, as they are on the wire. What JSON cannot say (NaN, Infinity, a value that is nothing at all) and
what is nested too deeply is refused with the path to it; every such place is reported.
"""

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias, cast

from google.protobuf.struct_pb2 import ListValue, Struct, Value

from dragoman.engine.ports import JsonObject

MAX_DEPTH = 32
"""Objects and lists within each other, the outermost object included."""

Report: TypeAlias = Callable[[str, str], None]
"""Takes the path of a violation and its description."""

_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def from_struct(struct: Struct, path: str, report: Report) -> JsonObject:
    """The object as a dict. What is refused is reported and stands as None in the result."""
    return _object(struct, path, 1, report)


def to_struct(value: Mapping[str, object]) -> Struct:
    """A JSON object as a Struct. Raises ValueError for what is not JSON."""
    struct = Struct()
    struct.update(cast("Mapping[str, Any]", value))
    return struct


def child(path: str, key: str) -> str:
    """The path of a member: `inputs.topic`, or `inputs["a b"]` for a key that is not an identifier."""
    return f"{path}.{key}" if _PLAIN_KEY.fullmatch(key) else f"{path}[{json.dumps(key, ensure_ascii=False)}]"


def _object(struct: Struct, path: str, depth: int, report: Report) -> JsonObject:
    result: JsonObject = {}
    for key, value in struct.fields.items():
        kind = value.WhichOneof("kind")
        if kind == "string_value":
            result[key] = value.string_value
        else:
            result[key] = _value(value, kind, child(path, key), depth, report)
    return result


def _list(values: ListValue, path: str, depth: int, report: Report) -> list[object]:
    return [
        _value(value, value.WhichOneof("kind"), f"{path}[{index}]", depth, report)
        for index, value in enumerate(values.values)
    ]


def _value(value: Value, kind: str | None, path: str, depth: int, report: Report) -> object:
    match kind:
        case "string_value":
            return value.string_value
        case "number_value":
            if not math.isfinite(value.number_value):
                report(path, "must be a finite number: JSON has no NaN and no infinity")
                return None
            return value.number_value
        case "bool_value":
            return value.bool_value
        case "null_value":
            return None
        case None:
            report(path, "must have a value; null is one")
            return None
        case _:
            if depth == MAX_DEPTH:
                report(path, f"must not be nested more than {MAX_DEPTH} levels deep")
                return None
            if kind == "struct_value":
                return _object(value.struct_value, path, depth + 1, report)
            return _list(value.list_value, path, depth + 1, report)
