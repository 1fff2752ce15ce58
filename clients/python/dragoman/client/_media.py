"""Media that come with a message: from bytes, from a file, from the server's own store, or from the net."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from dragoman.client._errors import from_rpc
from dragoman.client._link import Link
from dragoman.client._retry import Attempts, is_break, is_over_limit
from dragoman.v1 import message_pb2, session_service_pb2


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


def stored_media(medium: message_pb2.Media | str, *, name: str = "") -> message_pb2.MediaInput:
    """A medium that the server has already, by its id or as a message or an event shows it; nothing is sent twice.

    `name` is shown to the model; that of the medium is taken when there is none. Raises ValueError for a medium without id.
    """
    media_id = medium if isinstance(medium, str) else medium.id
    if not media_id:
        raise ValueError("the medium has no id: the server does not have its bytes")
    shown = name if isinstance(medium, str) else name or medium.name
    return message_pb2.MediaInput(media_id=media_id, name=shown)


def linked_media(uri: str, *, mime_type: str = "", name: str = "") -> message_pb2.MediaInput:
    """A medium at an http or https URL, which the server fetches before the run if its operator allows the host.

    `mime_type` wins over what the host says of it; the bytes must agree either way.
    """
    return message_pb2.MediaInput(uri=uri, mime_type=mime_type, name=name)


async def read_media(link: Link, media_id: str, offset: int) -> AsyncIterator[bytes]:
    """The pieces of a medium; see `Dragoman.get_media`."""
    patience = 0.0 if link.retry is None else link.retry.call_patience
    attempts, proof = Attempts(link.retry, patience, None), link.proof()
    while True:
        metadata = await proof.metadata(None)
        request = session_service_pb2.GetMediaRequest(media_id=media_id, offset=offset)
        stubs, call = link.follow(lambda stubs: stubs.sessions.GetMedia, request, None, metadata)
        try:
            async for response in call:
                proof.accepted()
                if response.HasField("data"):
                    offset += len(response.data)
                    attempts.progress(patience)
                    yield response.data
        except grpc.aio.AioRpcError as failure:
            error = from_rpc(failure)
        else:
            return
        finally:
            call.cancel()
        if proof.renewable(error):
            continue
        if is_break(error):
            link.renew(stubs)
        elif not is_over_limit(error):
            raise error
        if not await attempts.again(error):
            raise error
