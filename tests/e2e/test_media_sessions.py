"""Media in a session: found again whatever their size, and no longer in memory than a request needs them."""

import asyncio
import gc
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
import uvloop
from support.e2e import ClaudeAgent, claude

from dragoman.client import Dragoman, NotFound, image, stored_media
from dragoman.testing.anthropic import FakeAnthropic, Turn
from dragoman.testing.picture import render_png
from dragoman.testing.serving import serving

MB = 1024 * 1024
ALLOWED = 5 * MB
"""Of the fifty megabytes of a session's pictures that may be left after a run."""
PATIENCE = 60.0
PICTURES, SIZE = 50, MB
PER_RUN = 10


def png(size: int) -> bytes:
    """A picture of about so many bytes, unlike any other: what follows a PNG's end is not looked at."""
    return render_png("Ozymandias") + os.urandom(size)


async def whole(client: Dragoman, media_id: str) -> bytes:
    return b"".join([piece async for piece in client.get_media(media_id)])


@pytest.mark.parametrize("store", ["database", "folder"])
async def test_media_of_any_size_are_found_again(database_url: str, store: str, tmp_path: Path) -> None:
    small, large = png(10), png(300_000)
    place = "database" if store == "database" else (tmp_path / "media").as_uri()
    async with FakeAnthropic() as fake:
        fake.respond = lambda _: Turn("Seen.")
        agent = ClaudeAgent(claude(fake))
        async with (
            serving(agent, database_url=database_url, media_store=place) as server,
            Dragoman(server.address) as client,
        ):
            run = client.run("assistant", "What is it?", media=[image(small), image(large)])
            assert await run.text()
            session = run.session_id
            (asked, *_) = [message async for message in client.list_messages(session)]
            assert [await whole(client, medium.id) for medium in asked.media] == [small, large]
            again = [stored_media(medium) for medium in asked.media]
            assert await client.run("assistant", "And now?", session=session, media=again).text()
            assert fake.requests[-1].images() == [small, large, small, large]
            await client.delete_session(session)
            for medium in asked.media:
                with pytest.raises(NotFound):
                    await whole(client, medium.id)
    if store == "folder":
        assert [path for path in (tmp_path / "media").rglob("*") if path.is_file()] == []


def test_a_session_of_many_pictures_is_in_memory_for_the_request_alone(tmp_path: Path) -> None:
    """Fifty pictures of a megabyte: a run holds them, as bytes and in its request, and lets go of them.

    On the event loop of `dragoman serve`: asyncio's own keeps the contexts of cancelled timers until they are due.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_many_pictures())


async def _many_pictures() -> None:
    seen: list[int] = []

    def answer(request: Any) -> Turn:
        seen.append(request.raw.count(b'"base64"'))
        return Turn("Seen.")

    async with FakeAnthropic() as fake:
        fake.respond = answer
        async with (
            serving(ClaudeAgent(claude(fake))) as server,
            Dragoman(server.address, timeout=120) as client,
        ):
            session = await client.create_session("assistant")
            for _ in range(PICTURES // PER_RUN):
                media = [image(png(SIZE)) for _ in range(PER_RUN)]
                assert await client.run("assistant", "Look.", session=session, media=media).text()
            del media
            fake.requests.clear()
            tracemalloc.start()
            try:
                assert await client.run("assistant", "How many?", session=session).text()
                _, peak = tracemalloc.get_traced_memory()
                fake.requests.clear()
                async with asyncio.timeout(PATIENCE):
                    while (
                        left := _traced()
                    ) > ALLOWED:  # what closes connections and tasks may need a moment
                        await asyncio.sleep(0.05)
            finally:
                tracemalloc.stop()
    assert seen[-1] == PICTURES
    # The bytes, their base64, the request, and what the fake, in this process, reads and keeps of it.
    assert left < ALLOWED < PICTURES * SIZE < peak < 12 * PICTURES * SIZE


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]
