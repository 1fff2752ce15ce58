"""Media: whether bytes are what they claim to be, and how Agno's pictures, files, sounds and films are made and shown.

A medium is looked at once, when a caller sends it. Its MIME type follows from its bytes; what the caller claims must
agree. A picture's structure is checked with Pillow, in a thread, and one that would unpack to a huge bitmap is
refused by its header. A file without a signature must be UTF-8 text. Nothing is fetched from anywhere.
"""

import asyncio
import hashlib
import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, Final, TypeAlias

import filetype
from agno.media import Audio, File, Image, Video
from PIL import Image as Picture
from PIL import UnidentifiedImageError

from dragoman.engine.ports import InputMedia, MediaKind
from dragoman.errors import InvalidMedia, MediaTooLarge, Violation
from dragoman.v1 import message_pb2

logger = logging.getLogger(__name__)

AgnoMedia: TypeAlias = Image | File | Audio | Video

INLINE_BELOW: Final = 16 * 1024
"""Media of fewer bytes stay inside of their message; larger ones are kept apart, by hash."""

MAX_PIXELS: Final = 64_000_000
"""Of a picture: what a model sees is scaled down to a few million."""

THREAD_BYTES: Final = 64 * 1024
"""From so many bytes on, hashing and checking is done in a thread."""

UNKNOWN_TYPE: Final = "application/octet-stream"

_PICTURES: Final[Mapping[str, str]] = {
    "image/png": "PNG",
    "image/jpeg": "JPEG",
    "image/gif": "GIF",
    "image/webp": "WEBP",
}

_SAME: Final[Mapping[str, str]] = {
    "image/jpg": "image/jpeg",
    "image/pjpeg": "image/jpeg",
    "application/x-pdf": "application/pdf",
    "audio/mp3": "audio/mpeg",
    "audio/wave": "audio/wav",
    "audio/x-wav": "audio/wav",
    "audio/vnd.wave": "audio/wav",
    "audio/x-flac": "audio/flac",
    "audio/x-aac": "audio/aac",
    "audio/m4a": "audio/mp4",
    "audio/x-m4a": "audio/mp4",
    "application/ogg": "audio/ogg",
    "video/x-m4v": "video/mp4",
    "application/rtf": "text/rtf",
    "application/x-zip-compressed": "application/zip",
}
"""Other names of a type."""

_CONTAINERS: Final = (
    frozenset({"audio/mp4", "video/mp4", "video/quicktime"}),
    frozenset({"audio/webm", "video/webm", "video/x-matroska"}),
    frozenset({"audio/ogg", "video/ogg"}),
)
"""Types that share a signature: only their maker knows which it is."""

_TEXTS: Final = frozenset({"application/json", "application/x-javascript", "application/x-python"})
"""Types of text that do not begin with `text/`."""

_FILE_TYPES: Final = frozenset(File.valid_mime_types())
"""What Agno takes as a file; it drops others without a word."""

_KINDS: Final[Mapping[MediaKind, message_pb2.MediaKind.ValueType]] = {
    MediaKind.IMAGE: message_pb2.MEDIA_KIND_IMAGE,
    MediaKind.FILE: message_pb2.MEDIA_KIND_FILE,
    MediaKind.AUDIO: message_pb2.MEDIA_KIND_AUDIO,
    MediaKind.VIDEO: message_pb2.MEDIA_KIND_VIDEO,
}
_WORDS: Final = {
    MediaKind.IMAGE: "a picture",
    MediaKind.FILE: "a file that agents can read",
    MediaKind.AUDIO: "a sound",
    MediaKind.VIDEO: "a film",
}


class SniffingInspector:
    """Looks at the bytes. `max_bytes`: of one medium."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes

    async def inspect(
        self, kind: MediaKind | None, mime_type: str, name: str, data: bytes, path: str
    ) -> InputMedia:
        """The medium with its true kind and MIME type.

        Raises InvalidMedia, or MediaTooLarge, with violations at `path`.data or `path`.mime_type.
        """
        if not data:
            raise InvalidMedia([Violation(f"{path}.data", "is empty")])
        if len(data) > self._max_bytes:
            text = f"has {len(data)} bytes; the limit is {self._max_bytes}"
            raise MediaTooLarge([Violation(f"{path}.data", text)], max_bytes=str(self._max_bytes))
        claimed = _canonical(mime_type)
        if len(data) < THREAD_BYTES:
            actual, flaw = _examine(claimed, data)
        else:
            actual, flaw = await asyncio.to_thread(_examine, claimed, data)
        kind = kind or _kind_of(claimed or actual)
        if flaw:
            raise InvalidMedia([Violation(f"{path}.data", flaw)])
        if not _fits(kind, actual):
            found = f"is {actual}" if actual != UNKNOWN_TYPE else "is of no known type"
            raise InvalidMedia([Violation(f"{path}.data", f"{found}, not {_WORDS[kind]}")])
        if claimed and claimed != actual:
            text = f"says {mime_type[:100]}, but the bytes are {actual}"
            raise InvalidMedia([Violation(f"{path}.mime_type", text)])
        return InputMedia(kind, actual, name, data)


def for_agno(media: Sequence[InputMedia]) -> dict[str, list[Any]]:
    """The media as arguments of Agno's `arun`. Their ids are their hashes, so that they stay what they are."""
    arguments: dict[str, list[Any]] = {}
    for medium in media:
        identity = hashlib.sha256(medium.data).hexdigest()
        metadata = {"name": medium.name} if medium.name else None
        common: dict[str, Any] = {"id": identity, "content": medium.data, "mime_type": medium.mime_type}
        match medium.kind:
            case MediaKind.IMAGE:
                arguments.setdefault("images", []).append(Image(**common, metadata=metadata))
            case MediaKind.FILE:
                name = medium.name or None
                arguments.setdefault("files", []).append(File(**common, filename=name, name=name))
            case MediaKind.AUDIO:
                sound = medium.mime_type.partition("/")[2]
                arguments.setdefault("audio", []).append(Audio(**common, format=sound, metadata=metadata))
            case MediaKind.VIDEO:
                film = medium.mime_type.partition("/")[2]
                arguments.setdefault("videos", []).append(Video(**common, format=film, metadata=metadata))
    return arguments


def show(medium: AgnoMedia) -> message_pb2.Media:
    """One of Agno's media as its proto: by hash where there are bytes, which are inline when they are few."""
    data = bytes_of(medium)
    shown = message_pb2.Media(
        kind=_KINDS[kind_of(medium)],
        mime_type=medium.mime_type or (_signature(data) if data else ""),
        name=name_of(medium),
        uri=medium.url or "",
        transcript=(medium.transcript or "") if isinstance(medium, Audio) else "",
    )
    if data:
        shown.id = hashlib.sha256(data).hexdigest()
        shown.size_bytes = len(data)
        if len(data) < INLINE_BELOW:
            shown.data = data
    return shown


def kind_of(medium: AgnoMedia) -> MediaKind:
    """What sort of medium it is."""
    match medium:
        case Image():
            return MediaKind.IMAGE
        case Audio():
            return MediaKind.AUDIO
        case Video():
            return MediaKind.VIDEO
        case _:
            return MediaKind.FILE


def proto_kind(kind: MediaKind) -> message_pb2.MediaKind.ValueType:
    """The same as its proto."""
    return _KINDS[kind]


def bytes_of(medium: AgnoMedia) -> bytes:
    """Its bytes; none when it is known by its address only. Reads no file and fetches nothing."""
    content = medium.content
    if isinstance(content, str):
        return content.encode("utf-8", "replace")
    return bytes(content) if isinstance(content, bytes | bytearray | memoryview) else b""


def name_of(medium: AgnoMedia) -> str:
    """Its file name; empty when it has none."""
    if isinstance(medium, File):
        return medium.filename or medium.name or ""
    name = (medium.metadata or {}).get("name")
    return name if isinstance(name, str) else ""


def type_of(medium: AgnoMedia) -> str:
    """Its MIME type, from its bytes where it does not say."""
    return medium.mime_type or _signature(bytes_of(medium))


def _examine(claimed: str, data: bytes) -> tuple[str, str]:
    """The type of the bytes, and what is wrong with them (empty: nothing)."""
    actual = _signature(data)
    if actual in _PICTURES:
        return actual, _flaw_of_picture(actual, data)
    if any({claimed, actual} <= container for container in _CONTAINERS):
        return claimed, ""
    if actual == UNKNOWN_TYPE and _is_text(data):
        is_type_of_text = claimed.startswith("text/") or claimed in _TEXTS
        return (claimed if is_type_of_text and claimed in _FILE_TYPES else "text/plain"), ""
    return actual, ""


def _signature(data: bytes) -> str:
    if data[:3] == b"\xff\xd8\xff":
        return "image/jpeg"
    if b"%PDF-" in data[:1024]:
        return "application/pdf"
    found = filetype.guess_mime(data[:8192])
    return _canonical(found) if found else UNKNOWN_TYPE


def _flaw_of_picture(mime_type: str, data: bytes) -> str:
    try:
        with Picture.open(io.BytesIO(data), formats=[_PICTURES[mime_type]]) as picture:
            width, height = picture.size
            if width * height > MAX_PIXELS:
                return f"has {width} x {height} pixels; the limit is {MAX_PIXELS} in all"
            picture.verify()
    except (Picture.DecompressionBombError, Picture.DecompressionBombWarning):
        return f"has too many pixels; the limit is {MAX_PIXELS}"
    except UnidentifiedImageError:
        return f"is not a readable {mime_type}"
    except Exception as error:  # noqa: BLE001 - Pillow's readers raise what the bytes lead them to
        logger.info("a picture was refused", extra={"mime_type": mime_type, "error": type(error).__name__})
        return f"is a damaged {mime_type}"
    return ""


def _is_text(data: bytes) -> bool:
    if b"\0" in data:
        return False
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _fits(kind: MediaKind, mime_type: str) -> bool:
    if kind is MediaKind.IMAGE:
        return mime_type in _PICTURES
    if kind is MediaKind.FILE:
        return mime_type in _FILE_TYPES
    return mime_type.startswith(f"{kind}/")


def _kind_of(mime_type: str) -> MediaKind:
    with suppress(ValueError):
        return MediaKind(mime_type.partition("/")[0])
    return MediaKind.FILE


def _canonical(mime_type: str) -> str:
    plain = mime_type.partition(";")[0].strip().lower()
    return _SAME.get(plain, plain)


def _teach_imghdr() -> None:
    """Lets Agno know every JPEG.

    Agno asks `imghdr` for the type of a picture, where Python still has it, and leaves out a picture of unknown type
    without a word; `imghdr` knows only JPEGs that begin with a JFIF or Exif segment, which many do not.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import imghdr
        except ImportError:  # since Python 3.13; there Agno uses `filetype`
            return
    imghdr.tests.append(lambda data, _: "jpeg" if data[:3] == b"\xff\xd8\xff" else None)


_teach_imghdr()
