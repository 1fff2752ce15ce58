"""Any message of Agno's: Hypothesis strategies for every field of `Message` and of all that it may hold."""

from collections.abc import Callable, Mapping
from itertools import count
from pathlib import Path
from typing import Any, TypeVar

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
from hypothesis import strategies as st

from dragoman.adapter.media import INLINE_BELOW

T = TypeVar("T")
Fields = dict[str, st.SearchStrategy[Any]]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
"""Any Unicode, beyond the basic plane and control characters too; no halves of characters, which nobody can encode."""
NAMES = st.none() | TEXTS
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(TEXTS, JSON, max_size=4)
BYTES = st.binary(min_size=1, max_size=40) | st.binary(min_size=1, max_size=8).map(lambda b: b * INLINE_BELOW)
SIZES = st.none() | st.integers(0, 2**40)
SPANS = st.none() | st.floats(0, 1e6)
FLAGS = st.none() | st.booleans()

MEDIA_REFERENCE: Fields = {
    "media_id": TEXTS,
    "storage_key": TEXTS,
    "session_id": NAMES,
    "storage_backend": TEXTS,
    "bucket": NAMES,
    "region": NAMES,
    "url": NAMES,
    "mime_type": NAMES,
    "filename": NAMES,
    "size": SIZES,
    "content_hash": NAMES,
    "media_type": NAMES,
    "metadata": st.none() | OBJECTS,
}
_SOURCES: Fields = {
    "url": TEXTS,
    "filepath": TEXTS | TEXTS.map(Path),
    "content": BYTES,
    "media_reference": st.builds(MediaReference, **MEDIA_REFERENCE),
}
_COMMON: Fields = {
    "id": TEXTS.filter(bool),
    "format": NAMES,
    "mime_type": NAMES,
    "metadata": st.none() | OBJECTS,
}
IMAGE: Fields = {
    **_COMMON,
    **dict.fromkeys(("detail", "original_prompt", "revised_prompt", "alt_text"), NAMES),
}
AUDIO: Fields = {
    **_COMMON,
    "duration": SPANS,
    "sample_rate": st.none() | st.integers(1, 96000),
    "channels": st.none() | st.integers(1, 8),
    "transcript": NAMES,
    "expires_at": SIZES,
}
VIDEO: Fields = {
    **_COMMON,
    "duration": SPANS,
    "width": SIZES,
    "height": SIZES,
    "fps": SPANS,
    "eta": NAMES,
    "original_prompt": NAMES,
    "revised_prompt": NAMES,
}
FILE: Fields = {
    **_COMMON,
    "mime_type": st.none() | st.sampled_from(File.valid_mime_types()),
    "file_type": NAMES,
    "filename": NAMES,
    "size": SIZES,
    "external": JSON,
    "name": NAMES,
    "citations": FLAGS,
}


def _media(of: Callable[..., T], fields: Fields, sources: Fields = _SOURCES) -> st.SearchStrategy[T]:
    """With exactly one of its sources."""
    one_source = st.one_of(*(st.fixed_dictionaries({name: value}) for name, value in sources.items()))
    return st.builds(lambda source, rest: of(**source, **rest), one_source, st.fixed_dictionaries(fields))


IMAGES = _media(Image, IMAGE)
SOUNDS = _media(Audio, AUDIO)
FILMS = _media(Video, VIDEO)
FILES = _media(File, FILE, {**_SOURCES, "content": BYTES | TEXTS | st.just("\u00e4" * INLINE_BELOW)})

METRICS: Fields = {
    **{
        name: st.integers(0, 10**6)
        for name in (
            "input_tokens",
            "output_tokens",
            "total_tokens",
            "audio_input_tokens",
            "audio_output_tokens",
            "audio_total_tokens",
            "cache_read_tokens",
            "cache_write_tokens",
            "reasoning_tokens",
        )
    },
    "cost": SPANS,
    "duration": SPANS,
    "time_to_first_token": SPANS,
    "provider_metrics": st.none() | OBJECTS,
}
"""All but the timer, which belongs to one process."""
URL_CITATION: Fields = {"url": NAMES, "title": NAMES}
DOCUMENT_CITATION: Fields = dict.fromkeys(("document_title", "cited_text", "file_name"), NAMES)
CITATIONS: Fields = {
    "raw": JSON,
    "search_queries": st.none() | st.lists(TEXTS, max_size=2),
    "urls": st.none() | st.lists(st.builds(UrlCitation, **URL_CITATION), max_size=2),
    "documents": st.none() | st.lists(st.builds(DocumentCitation, **DOCUMENT_CITATION), max_size=2),
}
REFERENCES: Fields = {
    "query": TEXTS,
    "references": st.none() | st.lists(OBJECTS | TEXTS, max_size=2),
    "time": SPANS,
}
TOOL_CALLS = st.lists(
    st.fixed_dictionaries(
        {
            "id": TEXTS,
            "type": st.just("function"),
            "function": st.fixed_dictionaries({"name": TEXTS, "arguments": TEXTS}),
        },
        optional={"index": st.integers(0, 9), "nested": OBJECTS, "calls": st.lists(OBJECTS, max_size=2)},
    ),
    max_size=3,
)
_ids = count(1)
MESSAGE: Fields = {
    "id": st.builds(lambda: f"message-{next(_ids)}"),
    "role": st.sampled_from(["user", "assistant", "tool"]),
    "content": st.none() | TEXTS | st.lists(JSON, max_size=3),
    "compressed_content": NAMES,
    "name": NAMES,
    "tool_call_id": NAMES,
    "tool_calls": st.none() | TOOL_CALLS,
    "images": st.none() | st.lists(IMAGES, max_size=2),
    "audio": st.none() | st.lists(SOUNDS, max_size=2),
    "videos": st.none() | st.lists(FILMS, max_size=2),
    "files": st.none() | st.lists(FILES, max_size=2),
    "image_output": st.none() | IMAGES,
    "audio_output": st.none() | SOUNDS,
    "video_output": st.none() | FILMS,
    "file_output": st.none() | FILES,
    "provider_data": st.none() | OBJECTS,
    "citations": st.none() | st.builds(Citations, **CITATIONS),
    "reasoning_content": NAMES,
    "redacted_reasoning_content": NAMES,
    "tool_name": NAMES,
    "tool_args": JSON,
    "tool_call_error": FLAGS,
    "stop_after_tool_call": st.booleans(),
    "add_to_agent_memory": st.booleans(),
    "temporary": st.booleans(),
    "from_history": st.booleans(),
    "metrics": st.builds(MessageMetrics, **METRICS),
    "references": st.none() | st.builds(MessageReferences, **REFERENCES),
    "created_at": st.integers(0, 2**33),
    "checkpoint_status": NAMES,
    "checkpoint_created_at": SIZES,
}
EXTRAS = st.dictionaries(TEXTS.map(lambda text: f"extra_{text}"), JSON, max_size=2)
"""Fields that an author of agents adds."""


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Any message. Of its thirty fields some are left at their defaults, so that it does not become too large."""
    given = draw(st.sets(st.sampled_from(sorted(MESSAGE)), max_size=12))
    message = Message(**{name: draw(MESSAGE[name]) for name in sorted({"id", "role", *given})})
    for name, value in draw(EXTRAS).items():
        setattr(message, name, value)
    return message


EVERY_FIELD: Mapping[type[Any], set[str]] = {
    Message: set(MESSAGE),
    Image: {*IMAGE, *_SOURCES},
    Audio: {*AUDIO, *_SOURCES},
    Video: {*VIDEO, *_SOURCES},
    File: {*FILE, *_SOURCES},
    MediaReference: set(MEDIA_REFERENCE),
    MessageMetrics: {*METRICS, "timer"},
    Citations: set(CITATIONS),
    UrlCitation: set(URL_CITATION),
    DocumentCitation: set(DOCUMENT_CITATION),
    MessageReferences: set(REFERENCES),
}
"""What the strategies know; a test compares it with what Agno has."""


def typed(value: Any) -> Any:
    """The value with its types and its order of keys: 1, 1.0 and True are equal in Python."""
    if isinstance(value, dict):
        return [(key, typed(item)) for key, item in value.items()]
    if isinstance(value, list):
        return [typed(item) for item in value]
    return type(value).__name__, repr(value)


def dumped(message: Message) -> Any:
    """All fields, typed, but for metrics; also those that hold what they are not meant for."""
    return typed(message.model_dump(exclude={"metrics"}, warnings=False))


def assert_same(restored: Message, message: Message) -> None:
    """Equal in every field, types and order of keys included."""
    assert restored == message
    assert dumped(restored) == dumped(message)
    assert restored.metrics == message.metrics
