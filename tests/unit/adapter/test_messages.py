"""Agno's messages as rows: what goes in comes out, in everything."""

import json
import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from agno.media import File, Image
from agno.media.reference import MediaReference
from agno.metrics import MessageMetrics
from agno.models.message import Citations, Message, MessageReferences
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel
from support.agno_messages import EVERY_FIELD, assert_same, messages, typed

from dragoman.adapter.media import INLINE_BELOW
from dragoman.adapter.messages import MediaMissing, Unstorable, apart, decode, encode
from dragoman.records import Media


def back(message: Message, *, strict: bool = True) -> Message:
    encoded = encode(message, strict=strict)
    return decode(encoded.parts, {medium.sha256: medium for medium in encoded.media})


on_messages = settings(
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example, HealthCheck.data_too_large],
)


@given(messages())
@settings(on_messages, max_examples=200)
def test_round_trip(message: Message) -> None:
    restored = back(message)
    assert_same(restored, message)
    # So Agno's own form is the same, too: what its round trip keeps, ours does.
    if all(medium.filepath is None for medium in media_of(message)):  # files are read from the disk
        assert restored.to_dict() == message.to_dict()


def media_of(message: Message) -> list[Any]:
    """All media of a message."""
    found = [each for name in ("images", "audio", "videos", "files") for each in getattr(message, name) or ()]
    found += [getattr(message, f"{name}_output") for name in ("image", "audio", "video", "file")]
    return [each for each in found if each is not None]


@pytest.mark.parametrize("kind", EVERY_FIELD, ids=lambda kind: kind.__name__)
def test_every_field_is_tried(kind: type[Any]) -> None:
    """A release of Agno that adds a field is noticed here."""
    fields = kind.model_fields if issubclass(kind, BaseModel) else kind.__dataclass_fields__
    assert EVERY_FIELD[kind] == set(fields)


class Foreign(BaseModel):
    at: datetime


class Colour(Enum):
    RED = "red"


def cycle() -> list[Any]:
    """A list that holds itself, twice."""
    ring: list[Any] = [1]
    ring += [{"again": ring}, ring]
    return ring


POISONS: list[Callable[[], Any]] = [
    lambda: "\ud800",
    lambda: "text \udfff text",
    lambda: {"\ud800": 1},
    lambda: math.nan,
    lambda: math.inf,
    lambda: -math.inf,
    lambda: 10**5000,
    object,
    lambda: datetime(2026, 1, 2, tzinfo=UTC),
    lambda: Foreign(at=datetime(2026, 1, 2, tzinfo=UTC)),
    lambda: Colour.RED,
    lambda: {1, 2},
    lambda: (1, 2),
    lambda: {1: "one", None: "none"},
    lambda: b"bytes",
    lambda: Decimal("1.5"),
    cycle,
]

PLACES: dict[str, Callable[[Message, Any], None]] = {
    "content": lambda message, value: setattr(message, "content", [value]),
    "tool_args": lambda message, value: setattr(message, "tool_args", value),
    "tool_calls": lambda message, value: setattr(message, "tool_calls", [{"function": {"x": value}}]),
    "provider_data": lambda message, value: setattr(message, "provider_data", {"blocks": [value]}),
    "citations": lambda message, value: setattr(message, "citations", Citations(raw=[value])),
    "metrics": lambda message, value: setattr(
        message, "metrics", MessageMetrics(provider_metrics={"x": value})
    ),
    "references": lambda message, value: setattr(
        message, "references", MessageReferences.model_construct(query="q", references=[{"x": value}])
    ),
    "image_output": lambda message, value: setattr(
        message, "image_output", Image(content=b"x", metadata={"x": value})
    ),
    "files": lambda message, value: setattr(message, "files", [File(url="u", external=value)]),
    "extra_field": lambda message, value: setattr(message, "extra_field", value),
}


def nest(value: Any, ways: Sequence[bool]) -> Any:
    """The value in lists and objects."""
    for way in ways:
        value = {"in": value, "after": 1.5} if way else [2**70, value]
    return value


@given(
    message=messages(),
    place=st.sampled_from(sorted(PLACES)),
    poison=st.sampled_from(POISONS),
    ways=st.lists(st.booleans(), max_size=4),
)
@settings(on_messages, max_examples=200)
def test_what_cannot_be_kept_is_refused_and_the_rest_can_be_kept(
    message: Message, place: str, poison: Callable[[], Any], ways: list[bool]
) -> None:
    message = message.model_copy()
    PLACES[place](message, nest(poison(), ways))
    with pytest.raises(Unstorable):
        encode(message)
    encoded = encode(message, strict=False)
    json.loads(encoded.parts)
    restored = back(message, strict=False)
    for name in {*Message.model_fields, *(message.model_extra or {})} - {place}:
        assert typed(getattr(restored, name)) == typed(getattr(message, name)), name
    # What is near it is as it was: other numbers are not touched.
    if place == "tool_args" and ways:
        outer: Any = restored.tool_args
        assert (outer["after"] == 1.5) if ways[-1] else (outer[0] == 2**70)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("created_at", "7"),
        ("created_at", 7.0),
        ("tool_call_error", 1),
        ("tool_call_error", "yes"),
        ("name", 5),
        ("content", {"no": "list"}),
        ("tool_calls", "none"),
        ("checkpoint_created_at", True),
        ("extra_field", 3),
    ],
)
def test_what_a_field_is_not_meant_for_is_kept_as_it_is(name: str, value: Any) -> None:
    message = Message(role="user", content="Hi", images=[Image(content=b"x", detail="high")])
    setattr(message, name, value)
    assert_same(back(message), message)


def test_media_references_and_empty_values_are_kept() -> None:
    message = Message(
        role="user",
        content=[],
        tool_calls=[],
        images=[Image(media_reference=MediaReference(media_id="m", storage_key="k", storage_backend="s3"))],
        provider_data={},
    )
    assert back(message) == message


def test_encoding_changes_nothing_of_the_message() -> None:
    message = Message(role="user", content=[{"type": "text"}], images=[Image(content=b"x" * INLINE_BELOW)])
    before = message.model_dump()
    encode(message)
    assert message.model_dump() == before


def test_equal_media_are_stored_once_and_large_ones_apart() -> None:
    small, large = b"s" * (INLINE_BELOW - 1), b"l" * INLINE_BELOW
    message = Message(role="user", images=[Image(content=data) for data in (large, small, large)])
    encoded = encode(message)
    assert [medium.data for medium in encoded.media] == [large, small, large]
    assert [medium.data for medium in encoded.apart] == [large, large]
    assert len({medium.sha256 for medium in encoded.apart}) == 1
    assert apart(encoded.parts) == [medium.sha256 for medium in encoded.apart]
    with pytest.raises(MediaMissing):
        decode(encoded.parts, {})


UNSTORABLE = [
    Message(role="user", content="\ud800"),
    Message(role="tool", tool_args={"x": math.nan}),
    Message(role="tool", tool_args={"x": [math.inf]}),
    Message(role="assistant", provider_data={"\udfff": 1}),
    Message(role="user", files=[File(content="\ud800")]),
    Message(role="assistant", citations=Citations(raw={"x": math.nan})),
    Message(role="assistant", metrics=MessageMetrics(provider_metrics={"x": math.nan})),
]


@pytest.mark.parametrize("message", UNSTORABLE, ids=lambda message: message.role)
def test_what_json_cannot_hold_is_refused_and_can_be_made_storable(message: Message) -> None:
    with pytest.raises(Unstorable):
        encode(message)
    restored = back(message, strict=False)
    assert (restored.id, restored.role, restored.created_at) == (message.id, message.role, message.created_at)


def test_foreign_objects_become_json_when_it_need_not_be_strict() -> None:
    when = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    message = Message(
        role="tool",
        content=[Foreign(at=when)],
        tool_args={"when": when, "raw": b"\x00\xff", "large": 2**70, "pair": (1, 2), 3: Colour.RED},
    )
    document = json.loads(encode(message, strict=False).parts)
    assert document["content"] == [{"at": "2026-01-02T03:04:00+00:00"}]
    assert document["tool_args"] == {
        "when": "2026-01-02T03:04:00+00:00",
        "raw": "AP8=",
        "large": 2**70,
        "pair": [1, 2],
        "3": "red",
    }


def test_the_stored_form_is_pinned() -> None:
    """Rows outlive versions: what is stored today must be read tomorrow."""
    message = Message(
        id="m1",
        role="assistant",
        content="Hi",
        tool_calls=[{"id": "t", "type": "function", "function": {"name": "f", "arguments": '{"b":1,"a":2}'}}],
        images=[Image(id="i", content=b"abc", mime_type="image/png")],
        provider_data={"z": 1, "a": 2},
        created_at=7,
    )
    stored = (
        b'{"id":"m1","role":"assistant","content":"Hi","tool_calls":[{"id":"t","type":"function","function":{"name":"f",'
        b'"arguments":"{\\"b\\":1,\\"a\\":2}"}}],"images":[{"id":"i","mime_type":"image/png","content":{"base64":"YWJj"}}],'
        b'"provider_data":{"z":1,"a":2},"metrics":{},"created_at":7}'
    )
    assert encode(message) == encode(decode(stored, {}))
    assert encode(message).parts == stored


def test_media_records_carry_the_type_of_their_bytes() -> None:
    jpeg = b"\xff\xd8\xff\xe2" + bytes(INLINE_BELOW)
    (medium,) = encode(Message(role="user", images=[Image(content=jpeg)])).media
    assert isinstance(medium, Media)
    assert medium.mime_type == "image/jpeg"
