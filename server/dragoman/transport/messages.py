"""Stored messages as protos: pages of a session, or all that a run has added.

Decoding a long conversation takes milliseconds, so it is done in a thread. Media are shown by id; on demand with their
bytes as long as the page stays under its limit, and no medium is loaded that would not fit anyway but the first.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar
from uuid import UUID

from dragoman.engine.ports import MessageView, Page, Store
from dragoman.records import Media, Message, Owner
from dragoman.transport.paging import MAX_PAGE_BYTES
from dragoman.v1 import message_pb2

THREAD_BYTES = 256 * 1024
"""Stored bytes from which on messages are decoded in a thread."""

RUN_PAGE = 200
"""Messages of a run that are read from the store at a time."""

Result = TypeVar("Result")


class MessageReader:
    """Reads messages and shows them."""

    def __init__(self, store: Store, view: MessageView) -> None:
        self._store = store
        self._view = view

    async def of_run(self, owner: Owner, session_id: UUID, run_id: UUID) -> list[message_pb2.Message]:
        """All messages that the run itself added, in order, media by id."""
        found: list[Message] = []
        after: int | None = None
        while True:
            page: Page[int] = Page(RUN_PAGE, after)
            rows = await self._store.list_messages(owner, session_id, page, run_id=run_id)
            found.extend(rows)
            if len(rows) < RUN_PAGE:
                break
            after = rows[-1].sequence
        return await decoded(found, lambda: [self.show(message, session_id, {}) for message in found])

    def show(self, message: Message, session_id: UUID, media: Mapping[bytes, Media]) -> message_pb2.Message:
        """One message; `media` are those to put inline."""
        shown = self._view.show(message, media)
        shown.session_id = str(session_id)
        return shown

    async def inline_media(
        self, owner: Owner, messages: Sequence[Message]
    ) -> dict[UUID, Mapping[bytes, Media]]:
        """By message, the media that fit inline: in order, until the page would exceed its limit."""
        room = MAX_PAGE_BYTES - sum(len(message.parts) for message in messages)
        chosen: dict[UUID, Mapping[bytes, Media]] = {}
        for message in messages:
            fitting: dict[bytes, Media] = {}
            for sha256 in dict.fromkeys(message.media):
                if room <= 0:
                    return chosen
                medium = (await self._store.get_media(owner, [sha256])).get(sha256)
                if medium is None:
                    continue
                room -= len(medium.data) * message.media.count(sha256)
                if room >= 0:
                    fitting[sha256] = medium
                    chosen[message.id] = fitting
        return chosen


async def decoded(messages: Sequence[Message], decode: Callable[[], Result]) -> Result:
    """The result of `decode`, run in a thread when the messages are large."""
    if sum(len(message.parts) for message in messages) < THREAD_BYTES:
        return decode()
    return await asyncio.to_thread(decode)
