"""Agno's messages as rows: what goes in comes out, in everything."""

import json
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from agno.media import Audio, File, Image, Video
from agno.media.reference import MediaReference
from agno.metrics import MessageMetrics
from agno.models.message import (
    Citations,
    DocumentCitation,
    Message,
    MessageReferences,
    UrlCitation,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from dragoman.adapter.media import INLINE_BELOW
from dragoman.adapter.messages import MediaMissing, Unstorable, decode, encode
from dragoman.records import Media

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
NAMES = st.none() | TEXTS
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=4)
BYTES = st.binary(min_size=1, max_size=40) | st.binary(min_size=1, max_size=8).map(lambda b: b * INLINE_BELOW)
METADATA = st.none() | OBJECTS


def sources(draw: st.DrawFn) -> dict[str, Any]:
    """Exactly one of the sources of a medium."""
    name, value = draw(
        st.tuples(st.just("content"), BYTES)
        | st.tuples(st.just("url"), TEXTS)
        | st.tuples(st.just("filepath"), TEXTS | TEXTS.map(Path))
    )
    return {name: value}


@st.composite
def images(draw: st.DrawFn) -> Image:
    extra = {name: draw(NAMES) for name in ("format", "mime_type", "detail", "alt_text", "revised_prompt")}
    return Image(**sources(draw), **extra, metadata=draw(METADATA))


@st.composite
def sounds(draw: st.DrawFn) -> Audio:
    return Audio(
        **sources(draw),
        mime_type=draw(NAMES),
        duration=draw(st.none() | st.floats(0, 1e6)),
        sample_rate=draw(st.none() | st.integers(1, 96000)),
        transcript=draw(NAMES),
        expires_at=draw(st.none() | st.integers(0, 2**40)),
        metadata=draw(METADATA),
    )


@st.composite
def films(draw: st.DrawFn) -> Video:
    size = st.none() | st.integers(1, 8000)
    return Video(
        **sources(draw),
        width=draw(size),
        height=draw(size),
        fps=draw(st.none() | st.floats(0, 100)),
        eta=draw(NAMES),
    )


@st.composite
def files(draw: st.DrawFn) -> File:
    content = draw(BYTES | TEXTS | st.just("\u00e4" * INLINE_BELOW))
    return File(
        id=draw(TEXTS.filter(bool)),
        content=content,
        mime_type=draw(st.none() | st.sampled_from(File.valid_mime_types())),
        filename=draw(NAMES),
        size=draw(st.none() | st.integers(0, 2**40)),
        citations=draw(st.none() | st.booleans()),
        metadata=draw(METADATA),
    )


CITATIONS = st.builds(
    Citations,
    raw=JSON,
    search_queries=st.none() | st.lists(TEXTS, max_size=2),
    urls=st.none() | st.lists(st.builds(UrlCitation, url=NAMES, title=NAMES), max_size=2),
    documents=st.none()
    | st.lists(
        st.builds(DocumentCitation, document_title=NAMES, cited_text=NAMES, file_name=NAMES), max_size=2
    ),
)
METRICS = st.builds(
    MessageMetrics,
    input_tokens=st.integers(0, 10**6),
    output_tokens=st.integers(0, 10**6),
    cost=st.none() | st.floats(0, 10),
    duration=st.none() | st.floats(0, 10),
    provider_metrics=st.none() | OBJECTS,
)
TOOL_CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS}),
        }
    ),
    max_size=3,
)
MESSAGES = st.builds(
    Message,
    role=st.sampled_from(["user", "assistant", "tool"]),
    content=st.none() | TEXTS | st.lists(JSON, max_size=3),
    compressed_content=NAMES,
    name=NAMES,
    tool_call_id=NAMES,
    tool_calls=st.none() | TOOL_CALLS,
    images=st.none() | st.lists(images(), max_size=2),
    audio=st.none() | st.lists(sounds(), max_size=2),
    videos=st.none() | st.lists(films(), max_size=2),
    files=st.none() | st.lists(files(), max_size=2),
    image_output=st.none() | images(),
    audio_output=st.none() | sounds(),
    video_output=st.none() | films(),
    file_output=st.none() | files(),
    provider_data=st.none() | OBJECTS,
    citations=st.none() | CITATIONS,
    reasoning_content=NAMES,
    redacted_reasoning_content=NAMES,
    tool_name=NAMES,
    tool_args=JSON,
    tool_call_error=st.none() | st.booleans(),
    stop_after_tool_call=st.booleans(),
    add_to_agent_memory=st.booleans(),
    temporary=st.booleans(),
    from_history=st.booleans(),
    metrics=METRICS,
    references=st.none()
    | st.builds(MessageReferences, query=TEXTS, references=st.none() | st.lists(OBJECTS, max_size=2)),
    created_at=st.integers(0, 2**33),
)


def back(message: Message, *, strict: bool = True) -> Message:
    encoded = encode(message, strict=strict)
    return decode(encoded.parts, {medium.sha256: medium for medium in encoded.media})


@given(MESSAGES, st.dictionaries(TEXTS.map(lambda text: f"extra_{text}"), JSON, max_size=2))
@settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.large_base_example],
)
def test_round_trip(message: Message, extra: dict[str, Any]) -> None:
    for name, value in extra.items():
        setattr(message, name, value)
    restored = back(message)
    assert restored == message
    assert typed(restored.model_dump(exclude={"metrics"})) == typed(message.model_dump(exclude={"metrics"}))
    assert restored.metrics == message.metrics


def typed(value: Any) -> Any:
    """The value with its types and its order of keys: 1, 1.0 and True are equal in Python."""
    if isinstance(value, dict):
        return [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value).__name__, repr(value)


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
    assert [medium.data for medium in encoded.media] == [large, large]
    assert len({medium.sha256 for medium in encoded.media}) == 1
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


def test_foreign_objects_become_json_in_sight() -> None:
    class Found(BaseModel):
        at: datetime

    when = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    message = Message(role="tool", content=[Found(at=when)], tool_args={"when": when, "raw": b"\x00\xff"})
    document = json.loads(encode(message).parts)
    assert document["content"] == [{"at": "2026-01-02T03:04:00+00:00"}]
    assert document["tool_args"] == {"when": "2026-01-02T03:04:00+00:00", "raw": "AP8="}


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
