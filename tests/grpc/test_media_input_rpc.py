"""Media of a request that are stored already, or somewhere on the net: when they are looked for, and what becomes of it."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from support.served import Served, refusal, serve, until

from dragoman.engine.ports import FetchedMedium, InputMedia, MediaKind
from dragoman.errors import InvalidMedia, MediaTooLarge, Violation
from dragoman.records import Media
from dragoman.transport.media import FETCHED_AT_ONCE
from dragoman.v1 import message_pb2
from dragoman.v1 import run_service_pb2 as pb

STORED = b"img stored"
STORED_ID = hashlib.sha256(STORED).hexdigest()
UNKNOWN_ID = "0" * 64
SESSION = "01890a5d-ac96-774b-bcce-b302099a8057"


class FakeFetcher:
    """Gives `img <uri>`. URLs with `no` in them are refused, those with `away` fail, those with `huge` are too large;
    those with `wait` wait for `gate`."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.cancelled: list[str] = []
        self.at_work = self.most_at_work = 0
        self.gate = asyncio.Event()
        self.mime_type = ""

    def refusal(self, uri: str) -> str:
        return "is not of a host" if "no" in uri else ""

    async def fetch(self, uri: str, path: str) -> FetchedMedium:
        self.begun.append(uri)
        self.at_work += 1
        self.most_at_work = max(self.most_at_work, self.at_work)
        try:
            if "wait" in uri:
                await self.gate.wait()
            if "away" in uri:
                raise InvalidMedia([Violation(path, "could not be fetched")])
            if "huge" in uri:
                raise MediaTooLarge([Violation(path, "is too large")])
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            self.cancelled.append(uri)
            raise
        finally:
            self.at_work -= 1
        return FetchedMedium(("bad " if "bad" in uri else "img ").encode() + uri.encode(), self.mime_type)


@pytest.fixture
def fetcher() -> FakeFetcher:
    return FakeFetcher()


@pytest.fixture
async def served(fetcher: FakeFetcher) -> AsyncIterator[Served]:
    async with serve(fetcher=fetcher) as served:
        served.store.add_medium(STORED)
        yield served


def by_id(media_id: str = STORED_ID, **fields: Any) -> message_pb2.MediaInput:
    return message_pb2.MediaInput(media_id=media_id, **fields)


def by_uri(uri: str, **fields: Any) -> message_pb2.MediaInput:
    return message_pb2.MediaInput(uri=uri, **fields)


def request(*media: message_pb2.MediaInput, **fields: Any) -> pb.RunRequest:
    return pb.RunRequest(**{"agent_name": "painter", "media": media, **fields})


async def media_of(served: Served, *media: message_pb2.MediaInput) -> tuple[InputMedia, ...]:
    await served.runs.Execute(request(*media))
    return served.engine.runs[-1].draft.media


async def test_media_of_all_sources_keep_their_order(served: Served, fetcher: FakeFetcher) -> None:
    fetcher.mime_type = "IMAGE/webp; q=1"
    media = await media_of(
        served,
        by_uri("http://a/1", name="one"),
        by_id(name="two"),
        message_pb2.MediaInput(data=b"img three"),
        by_uri("http://a/4", mime_type="image/gif"),
    )
    assert media == (
        InputMedia(MediaKind.IMAGE, "image/webp", "one", b"img http://a/1"),
        InputMedia(MediaKind.IMAGE, "image/png", "two", STORED),
        InputMedia(MediaKind.IMAGE, "image/png", "", b"img three"),
        InputMedia(MediaKind.IMAGE, "image/gif", "", b"img http://a/4"),
    )


async def test_a_server_that_knows_only_that_it_sends_bytes_claims_nothing(
    served: Served, fetcher: FakeFetcher
) -> None:
    fetcher.mime_type = "application/octet-stream"
    (medium,) = await media_of(served, by_uri("http://a/1"))
    assert medium.mime_type == "image/png"


FLAWS: dict[str, tuple[list[message_pb2.MediaInput], str, list[str]]] = {
    "unknown": ([by_id(UNKNOWN_ID)], "INVALID_MEDIA", ["media[0].media_id"]),
    "no hash": ([by_id("abc")], "INVALID_MEDIA", ["media[0].media_id"]),
    "capitals": ([by_id(STORED_ID.upper())], "INVALID_MEDIA", ["media[0].media_id"]),
    "another type": (
        [by_id(), by_id(mime_type="image/gif")],
        "INVALID_MEDIA",
        ["media[1].mime_type"],
    ),
    "no source": ([message_pb2.MediaInput(name="a")], "INVALID_INPUT", ["media[0].source"]),
    "refused": ([by_uri("http://no/")], "INVALID_MEDIA", ["media[0].uri"]),
    "away": ([by_uri("http://away/")], "INVALID_MEDIA", ["media[0].uri"]),
    "too large": ([by_uri("http://huge/")], "MEDIA_TOO_LARGE", ["media[0].uri"]),
    "no picture": ([by_uri("http://bad/")], "INVALID_MEDIA", ["media[0].uri"]),
    "several": (
        [by_uri("http://bad/"), by_uri("http://a/"), by_uri("http://huge/"), by_uri("http://away/")],
        "INVALID_INPUT",
        ["media[0].uri", "media[2].uri", "media[3].uri"],
    ),
    "a kind that is not taken": (
        [by_uri("http://a/", kind=message_pb2.MEDIA_KIND_AUDIO)],
        "INVALID_INPUT",
        ["media[0].kind"],
    ),
    "a kind that the type is not": (
        [by_uri("http://a/", kind=message_pb2.MEDIA_KIND_IMAGE, mime_type="audio/wav")],
        "INVALID_MEDIA",
        ["media[0].mime_type"],
    ),
}


@pytest.mark.parametrize("flaw", FLAWS)
async def test_what_is_wrong_is_told_at_its_field_and_no_run_is_made(served: Served, flaw: str) -> None:
    media, reason, fields = FLAWS[flaw]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(request(*media))
    refused = await refusal(caught.value)
    assert (refused.code, refused.reason, refused.fields) == ("INVALID_ARGUMENT", reason, fields)
    assert served.engine.runs == []


@pytest.mark.parametrize(
    "wrong",
    [
        request(by_uri("http://a/"), request_id="\n"),
        request(by_uri("http://a/"), session_id="x"),
        request(by_uri("http://a/"), session_id=SESSION),
        request(by_uri("http://a/"), agent_name="nobody"),
        request(by_uri("http://a/"), agent_name="plain", media=[by_uri("http://a/", kind=1)]),
        request(by_uri("http://a/"), by_uri("http://no/")),
        request(by_uri("http://a/"), by_id(UNKNOWN_ID)),
        request(by_uri("http://a/"), message_pb2.MediaInput(data=b"bad")),
    ],
    ids=["request id", "session id", "session", "agent", "kind", "url", "media id", "data"],
)
async def test_nothing_is_fetched_for_a_request_that_is_wrong_anyway(
    served: Served, fetcher: FakeFetcher, wrong: pb.RunRequest
) -> None:
    with pytest.raises(grpc.aio.AioRpcError):
        await served.runs.Execute(wrong)
    assert fetcher.begun == []


async def test_the_same_request_again_fetches_nothing(served: Served, fetcher: FakeFetcher) -> None:
    once = request(by_uri("http://a/1"), request_id="r1")
    first = await served.runs.Execute(once)
    again = await served.runs.Execute(once)
    assert again.run.id == first.run.id
    assert fetcher.begun == ["http://a/1"]
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await served.runs.Execute(request(by_uri("http://a/2"), request_id="r1"))
    assert (await refusal(caught.value)).reason == "REQUEST_ID_REUSED"
    assert fetcher.begun == ["http://a/1"]


async def test_a_few_are_fetched_at_a_time(served: Served, fetcher: FakeFetcher) -> None:
    uris = [f"http://wait/{number}" for number in range(12)]
    running = asyncio.create_task(media_of(served, *map(by_uri, uris)))
    await until(lambda: fetcher.at_work == FETCHED_AT_ONCE)
    fetcher.gate.set()
    media = await running
    assert [medium.data.decode() for medium in media] == [f"img {uri}" for uri in uris]
    assert fetcher.most_at_work == FETCHED_AT_ONCE


async def test_a_call_that_is_cancelled_ends_its_fetches(served: Served, fetcher: FakeFetcher) -> None:
    call = served.runs.Execute(request(*(by_uri(f"http://wait/{number}") for number in range(6))))
    running = asyncio.ensure_future(call)
    await until(lambda: fetcher.at_work == FETCHED_AT_ONCE)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    await until(lambda: len(fetcher.cancelled) == FETCHED_AT_ONCE)
    assert len(fetcher.begun) == FETCHED_AT_ONCE
    assert served.engine.runs == []


@pytest.mark.parametrize(
    ("media", "fields"),
    [
        ([by_id(), by_id()], ["media[1].media_id"]),
        ([by_id(), by_uri("http://a/" + "x" * 600)], ["media[1].uri"]),
    ],
    ids=["ids", "an id and a url"],
)
async def test_what_is_named_weighs_no_more_than_what_can_be_sent(
    fetcher: FakeFetcher, media: list[message_pb2.MediaInput], fields: list[str]
) -> None:
    async with serve(fetcher=fetcher, max_receive_bytes=1500) as served:
        sha256 = bytes.fromhex(STORED_ID)
        served.store.media[sha256] = Media(sha256, "image/png", b"img" + bytes(1200))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.runs.Execute(request(*media))
        refused = await refusal(caught.value)
    assert (refused.reason, refused.fields) == ("MEDIA_TOO_LARGE", fields)


async def test_without_a_fetcher_there_are_no_urls() -> None:
    async with serve() as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.runs.Execute(request(by_uri("http://a/")))
        refused = await refusal(caught.value)
    assert (refused.reason, refused.fields) == ("INVALID_MEDIA", ["media[0].uri"])
    assert "fetches no media" in refused.message
