"""Any Python object as JSON, and JSON as `google.protobuf.Struct`. Nothing here raises.

What agents, tools and custom events carry is whatever their authors had at hand. Each object is first read into plain
JSON by these rules, and only that becomes a proto or a text:

    None, bool, str, int, float    themselves; a lone surrogate in a text becomes U+FFFD
    ints beyond 2**53              their decimal digits as a string: a double, which Struct has, would round them
    NaN and the infinities         "NaN", "Infinity", "-Infinity", as proto's own JSON spells them
    Decimal, UUID, Path            their text
    datetime, date, time           ISO 8601
    timedelta                      seconds, for example "1.5s"
    Enum                           its value
    bytes                          base64
    Pydantic models, dataclasses   objects of their fields
    mappings                       objects; a key that is no string becomes its JSON text; of equal keys the last wins
    sequences, sets                arrays; a set is sorted by its elements' JSON text
    exceptions, classes            their name: what an exception says is for the log only
    anything else                  its `str()`

Nesting over `MAX_DEPTH`, cycles, and all that comes after `MAX_BYTES` are left out, each marked by `CUT`.
"""

import base64
import dataclasses
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import PurePath
from typing import TypeAlias
from uuid import UUID

from google.protobuf.struct_pb2 import Struct, Value
from pydantic import BaseModel

JsonValue: TypeAlias = "bool | int | float | str | list[JsonValue] | dict[str, JsonValue] | None"

MAX_DEPTH = 24
"""Levels of nesting that are kept. A parser of protos stops at 100 messages, and an object's level costs three."""

MAX_BYTES = 1 << 20
"""About how large a value may become: an event must fit into one gRPC message of 4 MiB."""

CUT = "\N{HORIZONTAL ELLIPSIS}"
"""Stands where something is left out."""

_EXACT = 1 << 53
_NODE_BYTES = 8


def plain(value: object, *, max_bytes: int = MAX_BYTES) -> JsonValue:
    """The value as JSON: only None, bool, int, float, str, list and dict with string keys. Never raises."""
    return _Reader(max_bytes).read(value, 0)


def to_json(value: object, *, max_bytes: int = MAX_BYTES) -> str:
    """The value as JSON text of at most `max_bytes` bytes.

    When there is more, it is `{"truncated": "..."}` with the beginning of the text: still JSON.
    """
    text = json.dumps(plain(value, max_bytes=max_bytes), ensure_ascii=False)
    keep = max_bytes
    whole = text
    while keep and len(whole.encode()) > max_bytes:
        keep //= 2
        whole = json.dumps({"truncated": cut(text, keep)[0]}, ensure_ascii=False)
    return whole


def to_value(value: object) -> Value:
    """The value as `google.protobuf.Value`. Never raises."""
    message = Value()
    _fill(message, plain(value))
    return message


def to_struct(value: object) -> Struct:
    """The value as `google.protobuf.Struct`; what is no object comes as its only field `value`. Never raises."""
    content = plain(value)
    message = Struct()
    for key, item in (content if isinstance(content, dict) else {"value": content}).items():
        _fill(message.fields[key], item)
    return message


def to_text(value: object) -> str:
    """A text as it is, cleaned; None as the empty text; anything else as JSON. Never raises."""
    if value is None:
        return ""
    return clean(value) if isinstance(value, str) else to_json(value)


def clean(text: str) -> str:
    """The text with surrogate pairs joined and lone surrogates replaced by U+FFFD: what UTF-8 can encode."""
    if text.isascii():
        return text
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text


def cut(text: str, max_bytes: int) -> tuple[str, bool]:
    """The longest beginning of a clean text that UTF-8 encodes in `max_bytes`, and whether it is not the whole."""
    if len(text) * 4 <= max_bytes:
        return text, False
    data = text.encode()
    if len(data) <= max_bytes:
        return text, False
    return data[:max_bytes].decode(errors="ignore"), True


def _fill(message: Value, content: JsonValue) -> None:
    match content:
        case None:
            message.null_value = 0  # type: ignore[assignment]  # NULL_VALUE is the only value there is
        case bool():
            message.bool_value = content
        case int() | float():
            message.number_value = content
        case str():
            message.string_value = content
        case list():
            message.list_value.SetInParent()
            for item in content:
                _fill(message.list_value.values.add(), item)
        case dict():
            message.struct_value.SetInParent()
            for key, item in content.items():
                _fill(message.struct_value.fields[key], item)


class _Reader:
    """Reads one value. Knows what is being read, to see cycles, and how many bytes are left."""

    def __init__(self, max_bytes: int) -> None:
        self._left = max_bytes
        self._open: set[int] = set()

    def read(self, value: object, depth: int) -> JsonValue:
        self._left -= _NODE_BYTES
        if value is None or isinstance(value, bool):
            return value
        if self._left <= 0:
            return CUT
        if isinstance(value, str) and not isinstance(value, Enum):
            return self._text(value)
        if id(value) in self._open or depth > MAX_DEPTH:
            return CUT
        self._open.add(id(value))
        try:
            return self._read(value, depth)
        except Exception:  # noqa: BLE001  the object is foreign: its properties, iterators or str() may raise anything
            return self._text(f"<{type(value).__qualname__}>")
        finally:
            self._open.discard(id(value))

    def _read(self, value: object, depth: int) -> JsonValue:
        """What is neither None, nor a bool, nor a text."""
        if isinstance(value, Enum):
            return self.read(value.value, depth + 1)
        if isinstance(value, int | float):
            return _number(value)
        if isinstance(value, bytes | bytearray | memoryview):
            return self._text(base64.b64encode(bytes(value)[: self._left]).decode())
        for kinds, show in _TEXTS:
            if isinstance(value, kinds):
                return self._text(show(value))
        if isinstance(value, BaseModel):
            return self.read(_fields_of_model(value), depth)
        if dataclasses.is_dataclass(value):
            names = [field.name for field in dataclasses.fields(value)]
            return self._object(
                ((name, getattr(value, name)) for name in names if hasattr(value, name)), depth
            )
        if isinstance(value, Mapping):
            return self._object(value.items(), depth)
        if isinstance(value, Set):
            return sorted(self._array(value, depth), key=json.dumps)
        if isinstance(value, Sequence):
            return self._array(value, depth)
        return self._text(str(value))

    def _object(self, items: Iterable[tuple[object, object]], depth: int) -> JsonValue:
        content: dict[str, JsonValue] = {}
        for key, item in items:
            if self._left <= 0:
                content[CUT] = CUT
                break
            content[self._key(key, depth)] = self.read(item, depth + 1)
        return content

    def _array(self, items: Iterable[object], depth: int) -> list[JsonValue]:
        content: list[JsonValue] = []
        for item in items:
            if self._left <= 0:
                content.append(CUT)
                break
            content.append(self.read(item, depth + 1))
        return content

    def _key(self, key: object, depth: int) -> str:
        if isinstance(key, str) and not isinstance(key, Enum):
            return self._text(key)
        name = self.read(key, depth + 1)
        return name if isinstance(name, str) else json.dumps(name, ensure_ascii=False)

    def _text(self, text: str) -> str:
        kept, truncated = cut(clean(str.__str__(text)), max(self._left, 0))
        self._left -= len(kept) if kept.isascii() else len(kept.encode())
        return kept + CUT if truncated else kept


def _number(value: int | float) -> JsonValue:
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if -_EXACT <= value <= _EXACT:
        return int(value)
    try:
        return str(int(value))
    except ValueError:  # more digits than the interpreter is willing to write
        return hex(value)


def _fields_of_model(model: BaseModel) -> object:
    try:
        return model.model_dump(warnings=False)
    except Exception:  # noqa: BLE001  serializers are the author's code, and a cycle is a ValueError
        return dict(vars(model))


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():.6f}".rstrip("0").rstrip(".") + "s"


_TEXTS: Sequence[tuple[type | tuple[type, ...], Callable[..., str]]] = (
    ((datetime, date, time), lambda value: value.isoformat()),
    (timedelta, _seconds),
    ((Decimal, Fraction, UUID, PurePath), str),
    (BaseException, lambda value: type(value).__qualname__),
    (type, lambda value: value.__qualname__),
)
