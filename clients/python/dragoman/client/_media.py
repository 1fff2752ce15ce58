"""Media that come with a message, from bytes or from a file."""

import os
from pathlib import Path

from dragoman.v1 import message_pb2


def image(
    source: bytes | str | os.PathLike[str], *, mime_type: str = "", name: str = ""
) -> message_pb2.MediaInput:
    """A picture from its bytes or from a file (read at once); the server checks what it is.

    `name` is shown to the model; a file's own name is taken when there is none. Raises OSError for an unreadable file.
    """
    picture = media(source, mime_type=mime_type, name=name)
    picture.kind = message_pb2.MEDIA_KIND_IMAGE
    return picture


def media(
    source: bytes | str | os.PathLike[str], *, mime_type: str = "", name: str = ""
) -> message_pb2.MediaInput:
    """A picture, document, sound or film, as `image`; the server tells by the bytes and `mime_type` which it is."""
    if isinstance(source, bytes):
        return message_pb2.MediaInput(data=source, mime_type=mime_type, name=name)
    path = Path(source)
    return message_pb2.MediaInput(data=path.read_bytes(), mime_type=mime_type, name=name or path.name)
