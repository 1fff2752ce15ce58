"""Agno's messages as rows of `chat_events`, and back: both directions in one place.

`Message.parts` is one JSON object: Agno's own fields under their own names, those that its `to_dict()` leaves out
included, and fields that its author added under `extra`. A field that has its default is not written. The order of
keys is kept, and numbers of any size are exact, since a history must go back to the provider byte for byte. (That is
why it is the standard library's JSON: faster ones read large integers as floats.)

A medium's bytes, in `content`, are one of

    {"base64": ...}                          below `INLINE_BELOW`
    {"text": ...}                            a file whose content is a `str`, likewise
    {"sha256": ..., "size": ...}             else: in the media table; with `"text": true` for a `str`

What JSON cannot hold is never stored as something else in silence: `encode` raises `Unstorable` for whatever would not be
read back equal: NaN and infinities, lone surrogates, cycles, objects, tuples, keys that are no strings. When it need not
be strict it writes those, and nothing else, as `values.plain` shows them.
"""

import base64
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from agno.media import Audio, File, Image, Video
from agno.media.reference import MediaReference
from agno.metrics import MessageMetrics
from agno.models.message import Citations, Message, MessageReferences
from pydantic import BaseModel, ValidationError

from dragoman.adapter import media as looks
from dragoman.adapter.media import AgnoMedia
from dragoman.adapter.values import CUT, clean, plain
from dragoman.records import Media

MAX_PLAIN_BYTES: Final = 64 * 1024 * 1024

MAX_DEPTH: Final = 100
"""Levels of nesting that are kept of a message that is stored as near as JSON comes."""
MAX_BITS: Final = 10_000
"""Of an integer in one: Python does not write longer ones in digits."""

_MANY: Final[Mapping[str, type[BaseModel]]] = {
    "images": Image,
    "audio": Audio,
    "videos": Video,
    "files": File,
}
_ONE: Final[Mapping[str, type[BaseModel]]] = {
    "image_output": Image,
    "audio_output": Audio,
    "video_output": Video,
    "file_output": File,
}
_MODELS: Final[Mapping[str, type[BaseModel]]] = {"citations": Citations, "references": MessageReferences}

_DEFAULTS: Final = {
    name: field.default for name, field in Message.model_fields.items() if field.default_factory is None
}


class Unstorable(ValueError):
    """The message holds what JSON cannot: it would be read back as something else, or not at all."""


class MediaMissing(LookupError):
    """A medium that a stored message refers to is not there."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A message as it is stored."""

    parts: bytes
    media: tuple[Media, ...]
    """All of its media that have bytes, in order."""
    apart: tuple[Media, ...]
    """Those of them that are not in `parts`, which refers to them."""


def encode(message: Message, *, strict: bool = True) -> Encoded:
    """The message as JSON, its large media apart. Raises Unstorable, unless it need not be `strict`."""
    media: list[Media] = []
    document: dict[str, Any] = {}
    for name in Message.model_fields:
        value = getattr(message, name)
        if name in _DEFAULTS and value is _DEFAULTS[name]:
            continue
        if name in _MANY and value is not None:
            value = [_medium(medium, media, strict) for medium in value]
        elif name in _ONE and value is not None:
            value = _medium(value, media, strict)
        elif name in _MODELS and value is not None:
            value = _fields(value)
        elif name == "metrics":
            value = _metrics(value)
        document[name] = value
    if message.model_extra:
        document["extra"] = message.model_extra
    apart = tuple(medium for medium in media if len(medium.data) >= looks.INLINE_BELOW)
    return Encoded(_dumps(document if strict else _nearest(document, 0, set())), tuple(media), apart)


def decode(parts: bytes, media: Mapping[bytes, Media]) -> Message:
    """The message that was stored. Raises MediaMissing when a medium that it refers to is not in `media`."""
    document: dict[str, Any] = json.loads(parts)
    extra: dict[str, Any] = document.pop("extra", {})
    for name, value in document.items():
        if value is None:
            continue
        if name in _MANY:
            document[name] = [_restored(_MANY[name], medium, media) for medium in value]
        elif name in _ONE:
            document[name] = _restored(_ONE[name], value, media)
        elif name == "metrics":
            document[name] = MessageMetrics(**value)
        elif name == "citations":
            document[name] = Citations.model_validate(value)
        elif name == "references":
            document[name] = MessageReferences.model_validate(value)
    document |= extra
    try:
        # Checked, it is made in a quarter of the time. Strictly: what is there is taken as it is, or refused.
        return Message.model_validate(document, strict=True)
    except ValidationError:  # its author has set what the field is not meant for
        return Message.model_construct(**document)


def hash_of(data: bytes) -> bytes:
    """The hash by which a medium is kept."""
    return hashlib.sha256(data).digest()


def _dumps(document: object) -> bytes:
    try:
        text = json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        data, same = text.encode(), json.loads(text) == document
    except (ValueError, TypeError, RecursionError) as error:
        raise Unstorable(type(error).__name__) from error
    if not same:  # JSON makes lists of tuples, and strings of all keys
        raise Unstorable("not equal")
    return data


def _nearest(value: object, depth: int, above: set[int]) -> object:
    """The value with what JSON has no form for as `plain` shows it. `above`: the containers around it, by identity."""
    kind = type(value)
    if value is None or kind is bool:
        return value
    if isinstance(value, float) and kind is float and math.isfinite(value):
        return value
    if isinstance(value, int) and kind is int and value.bit_length() <= MAX_BITS:
        return value
    if isinstance(value, str) and kind is str:
        return clean(value)
    if not isinstance(value, dict | list | tuple):
        return plain(value, max_bytes=MAX_PLAIN_BYTES)
    if id(value) in above or depth > MAX_DEPTH:
        return CUT
    above.add(id(value))
    nearest: object
    if isinstance(value, dict):
        nearest = {_key(key): _nearest(item, depth + 1, above) for key, item in value.items()}
    else:
        nearest = [_nearest(item, depth + 1, above) for item in value]
    above.discard(id(value))
    return nearest


def _key(key: object) -> str:
    named = plain({key: None}, max_bytes=MAX_PLAIN_BYTES)
    return next(iter(named)) if isinstance(named, dict) and named else CUT


def _fields(model: BaseModel) -> dict[str, Any]:
    """A Pydantic model's own fields and extras, those with their defaults left out."""
    fields = type(model).model_fields
    document: dict[str, Any] = {}
    for name, value in {**vars(model), **(model.model_extra or {})}.items():
        if name in fields and value is fields[name].default:
            continue
        if isinstance(value, BaseModel):
            document[name] = _fields(value)
        elif isinstance(value, list):
            document[name] = [_fields(item) if isinstance(item, BaseModel) else item for item in value]
        else:
            document[name] = value
    return document


def _metrics(metrics: MessageMetrics) -> dict[str, Any]:
    """All but the timer, which is of this process."""
    return {
        field.name: value
        for field in dataclasses.fields(metrics)
        if field.name != "timer" and (value := getattr(metrics, field.name)) != field.default
    }


def _medium(medium: AgnoMedia, found: list[Media], strict: bool) -> dict[str, Any]:
    document = _fields(medium)
    content = document.pop("content", None)
    if isinstance(document.get("filepath"), Path):
        document["filepath"] = {"path": str(document["filepath"])}
    if content is None:
        return document
    if isinstance(content, str):
        content = content if strict else clean(content)
        try:
            data = content.encode()
        except UnicodeEncodeError as error:
            raise Unstorable(type(error).__name__) from error
        small: dict[str, Any] = {"text": content}
    elif isinstance(content, bytes):
        data = content
        small = {"base64": base64.b64encode(content).decode()} if len(data) < looks.INLINE_BELOW else {}
    else:
        return {**document, "content": {"value": content}}
    stored = Media(hash_of(data), looks.type_of(medium), data)
    found.append(stored)
    if len(data) < looks.INLINE_BELOW:
        return {**document, "content": small}
    reference: dict[str, Any] = {"sha256": stored.id, "size": len(data)}
    if isinstance(content, str):
        reference["text"] = True
    return {**document, "content": reference}


def _restored(model: type[BaseModel], document: dict[str, Any], media: Mapping[bytes, Media]) -> BaseModel:
    fields = dict(document)
    if isinstance(fields.get("filepath"), dict):
        fields["filepath"] = Path(fields["filepath"]["path"])
    if isinstance(fields.get("media_reference"), dict):
        fields["media_reference"] = MediaReference(**fields["media_reference"])
    if (content := fields.get("content")) is not None:
        fields["content"] = content_of(content, media)
    return model.model_construct(**fields)


def content_of(content: Mapping[str, Any], media: Mapping[bytes, Media]) -> Any:
    """A stored medium's content: bytes, or what else it was. Raises MediaMissing."""
    if "sha256" in content:
        sha256 = bytes.fromhex(content["sha256"])
        if sha256 not in media:
            raise MediaMissing(content["sha256"])
        data = media[sha256].data
        return data.decode() if content.get("text") else data
    if "base64" in content:
        return base64.b64decode(content["base64"])
    return content["text"] if "text" in content else content["value"]


def apart(parts: bytes) -> list[bytes]:
    """The hashes of the media that a stored message refers to: what `decode` needs."""
    if b'"sha256"' not in parts:
        return []
    contents = (medium.get("content") for _, medium in references(json.loads(parts)))
    return [bytes.fromhex(content["sha256"]) for content in contents if content and "sha256" in content]


def references(document: Mapping[str, Any]) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The media in a stored message, as (field, document), in order."""
    for name in _MANY:
        yield from ((name, medium) for medium in document.get(name) or ())
    for name in _ONE:
        if (medium := document.get(name)) is not None:
            yield name, medium
