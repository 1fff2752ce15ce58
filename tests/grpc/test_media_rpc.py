"""GetMedia: pieces in order, from any offset, for the owner alone."""

from typing import Any

import grpc
import pytest
from support.served import Served, refusal

from dragoman.transport.sessions import PIECE
from dragoman.v1 import message_pb2
from dragoman.v1 import session_service_pb2 as pb

SMALL, LARGE = b"small", bytes(range(256)) * (3 * PIECE // 256) + b"rest"


async def responses(served: Served, media_id: str, offset: int = 0) -> list[pb.GetMediaResponse]:
    return [
        each async for each in served.sessions.GetMedia(pb.GetMediaRequest(media_id=media_id, offset=offset))
    ]


@pytest.mark.parametrize("data", [SMALL, LARGE, LARGE[: 2 * PIECE]], ids=["small", "large", "whole pieces"])
async def test_first_what_it_is_then_its_bytes(served: Served, data: bytes) -> None:
    media_id = served.store.add_medium(data).hex()
    first, *pieces = await responses(served, media_id)
    assert (first.media.id, first.media.size_bytes, first.media.data) == (media_id, len(data), b"")
    assert first.media.mime_type
    assert first.media.kind in (message_pb2.MEDIA_KIND_IMAGE, message_pb2.MEDIA_KIND_FILE)
    assert b"".join(piece.data for piece in pieces) == data
    assert max(len(piece.data) for piece in pieces) <= PIECE


@pytest.mark.parametrize("offset", [1, PIECE - 1, PIECE, PIECE + 1, len(LARGE) - 1, len(LARGE)])
async def test_from_an_offset(served: Served, offset: int) -> None:
    media_id = served.store.add_medium(LARGE).hex()
    _, *pieces = await responses(served, media_id, offset)
    assert b"".join(piece.data for piece in pieces) == LARGE[offset:]


@pytest.mark.parametrize(
    ("media_id", "offset", "reason", "fields"),
    [
        ("", 0, "INVALID_INPUT", ["media_id"]),
        ("AB" * 32, 0, "INVALID_INPUT", ["media_id"]),
        ("zz" * 32, -1, "INVALID_INPUT", ["media_id", "offset"]),
        ("ab" * 32, 0, "MEDIA_NOT_FOUND", []),
        (None, len(SMALL) + 1, "INVALID_INPUT", ["offset"]),
    ],
)
async def test_refusals(served: Served, media_id: Any, offset: int, reason: str, fields: list[str]) -> None:
    known = served.store.add_medium(SMALL).hex()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await responses(served, known if media_id is None else media_id, offset)
    told = await refusal(refused.value)
    assert (told.reason, told.fields) == (reason, fields)
