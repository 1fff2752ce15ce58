"""Media that are read from the server."""

from typing import Any

import pytest
from support.statuses import over_limit

from dragoman.client import Dragoman, NotFound, RetryPolicy, Unavailable
from dragoman.v1 import session_service_pb2

MEDIA_ID, MEDIUM = "ab" * 32, bytes(range(30))


async def read(client: Dragoman, media_id: str = MEDIA_ID, **options: Any) -> bytes:
    return b"".join([piece async for piece in client.get_media(media_id, **options)])


async def test_the_bytes_of_a_medium(services: Any) -> None:
    async with Dragoman(services.address) as client:
        assert await read(client) == MEDIUM
        assert await read(client, offset=7) == MEDIUM[7:]
        with pytest.raises(NotFound):
            await read(client, "cd" * 32)


@pytest.mark.parametrize("place", [0, 8, 28])
async def test_a_stream_that_breaks_is_taken_up_where_it_broke(services: Any, place: int) -> None:
    services.sessions.media_break = place
    async with Dragoman(services.address, retry=RetryPolicy(initial_backoff=0.01)) as client:
        assert await read(client) == MEDIUM
    asked: list[session_service_pb2.GetMediaRequest] = services.sessions.media_requests
    assert [request.offset for request in asked] == [0, place]
    assert len(set(services.sessions.media_peers)) == 2


@pytest.mark.parametrize("place", [0, 8])
async def test_who_is_over_a_limit_comes_back_on_the_same_connection(services: Any, place: int) -> None:
    services.sessions.media_break, services.sessions.media_failure = place, over_limit(0.05)
    async with Dragoman(services.address) as client:
        assert await read(client) == MEDIUM
    asked: list[session_service_pb2.GetMediaRequest] = services.sessions.media_requests
    assert [request.offset for request in asked] == [0, place]
    assert len(set(services.sessions.media_peers)) == 1


async def test_without_retries_it_is_told(services: Any) -> None:
    services.sessions.media_break = 8
    async with Dragoman(services.address, retry=None) as client:
        with pytest.raises(Unavailable):
            await read(client)
