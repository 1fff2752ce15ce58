"""The conversation before a run and what the run adds to it.

Before: stored messages as Agno's, their media rehydrated, exactly as they went to the provider. After: the new
messages of the run and of its members, mended so that the next turn is accepted whatever happened to this one:

    a tool call without its result, and a result without its call, are left out
    an assistant message with nothing left to say is left out
    thinking that the provider would not take back (unsigned, or the last block) is left out
    the text of an answer that broke off is kept as an assistant message

A message that is whole is not touched.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from agno.models.message import Message

from dragoman import ids, records
from dragoman.adapter import continuing
from dragoman.adapter import messages as rows
from dragoman.adapter.call import Call, Source
from dragoman.adapter.calls import Ledger
from dragoman.adapter.ports import HistorySource
from dragoman.engine.ports import RunOrder

logger = logging.getLogger(__name__)

_THINKING = frozenset({"thinking", "redacted_thinking"})
_OF_BLOCKS = frozenset({"content_blocks", "signature"})
"""What Agno rebuilds an answer from: without blocks, the signature of a thinking that is gone must go too."""


async def load(source: HistorySource, order: RunOrder, runs: int | None) -> list[Message]:
    """The messages of the last `runs` runs. Raises StorageUnavailable, MediaMissing."""
    if runs == 0:
        return []
    stored = await source.load_history(order.owner, order.session.id, runs)
    return [message for run in await restored(source, order, stored) for message in run.messages]


@dataclass(frozen=True, slots=True)
class Earlier:
    """What one earlier run has left, acceptable to a provider."""

    run_id: UUID
    parent_run_id: UUID | None
    agent_name: str
    messages: list[Message]


async def restored(
    source: HistorySource, order: RunOrder, stored: Iterable[records.Message]
) -> list[Earlier]:
    """The runs of the rows, in the order in which they began, with their media. Raises StorageUnavailable, MediaMissing."""
    runs: dict[UUID, list[records.Message]] = {}
    hashes: dict[bytes, None] = {}
    for row in stored:
        runs.setdefault(row.run_id, []).append(row)
        if row.media:
            hashes.update(dict.fromkeys(rows.apart(row.parts)))
    media = await source.get_media(order.owner, list(hashes)) if hashes else {}
    # A run that was paused, and then ended instead of continued, has left its open tool calls.
    return [
        Earlier(
            run_id,
            of_run[0].parent_run_id,
            of_run[0].agent_name,
            mended([rows.decode(row.parts, media) for row in of_run]),
        )
        for run_id, of_run in runs.items()
    ]


@dataclass(frozen=True, slots=True)
class Resumed:
    """A member that goes on after a pause."""

    source: Source
    answers: Callable[[], Sequence[Message]]
    """What is new of it until it asks its model."""


@dataclass(slots=True)
class Recorder:
    """Turns the live conversations of one run into rows. Asked again, it gives the same ids."""

    ledger: Ledger
    start_time: datetime
    earlier: set[str] = field(default_factory=set)
    """Ids of Agno's messages that were there before the run, or before its last pause."""
    open_calls: frozenset[str] = frozenset()
    """Tool calls that were made before the pause: their results are the first that is new."""
    resumed: list[Resumed] = field(default_factory=list)
    """Members that go on after the pause."""
    _ids: dict[str, UUID] = field(default_factory=dict)
    _contents: dict[str, Any] = field(default_factory=dict)

    def note(self, messages: Iterable[Message] | None) -> None:
        """Remembers what assistant messages say: Agno overwrites the last one when it is cancelled."""
        for message in messages or ():
            if message.role == "assistant" and message.id not in self._contents:
                self._contents[message.id] = message.content

    def record(
        self, own: Sequence[Message], *, whole: bool = False
    ) -> tuple[list[records.Message], list[records.Media]]:
        """The rows of the run's conversation and of its members', and the media they refer to.

        A member's stand where its leader called it. `whole`: nothing is mended, for the run goes on: its open tool calls
        will have their results. Within each conversation times never go backwards.
        """
        made: list[records.Message] = []
        media: dict[bytes, records.Media] = {}
        members = self._members()
        self._converse(self.ledger.root, own, members, made, media, whole=whole)
        for source in list(members):  # those of which nobody knows who called them
            if source in members:
                self._converse(source, members[source], members, made, media, whole=whole)
        return made, list(media.values())

    def _members(self) -> dict[Source, Sequence[Message]]:
        """The members' conversations, in the order in which they began."""
        members: dict[Source, Sequence[Message]] = {}
        known = {source.agno_id for source in self.ledger.members if source.messages is not None}
        for resumed in self.resumed:
            if resumed.source.agno_id not in known:
                members[resumed.source] = resumed.answers()
        for source in self.ledger.members:
            if source.messages is not None:
                members[source] = source.messages
        return members

    def _converse(
        self,
        source: Source,
        conversation: Sequence[Message],
        members: dict[Source, Sequence[Message]],
        made: list[records.Message],
        media: dict[bytes, records.Media],
        *,
        whole: bool,
    ) -> None:
        """Adds the rows of one conversation; those of each member that it called follow the call. Takes them away."""
        members.pop(source, None)
        new = self._new(conversation, source, whole=whole)
        called: dict[int, list[Source]] = {}
        for member in [one for one in members if one.parent_run_id == source.run_id]:
            called.setdefault(self._caller(member, new), []).append(member)
        # Agno tells whole seconds, and a request's end is told exactly: none may seem older than the one before.
        latest = self.start_time
        for at in range(-1, len(new)):
            if at >= 0:
                made.append(self._row(new[at], source, latest, media))
                latest = made[-1].create_time
            for member in called.get(at, ()):
                self._converse(member, members[member], members, made, media, whole=whole)

    def _caller(self, member: Source, messages: Sequence[Message]) -> int:
        """Where among its leader's messages the call is that the member follows; -1: before the pause."""
        calls = self.ledger.of_run(member.agno_id)
        if not calls:
            return -1
        answers = ((at, self.ledger.of_message(m.id)) for at, m in enumerate(messages))
        earlier = (at for at, call in answers if call and call.start_time < calls[0].start_time)
        return max(earlier, default=-1)

    def _new(self, conversation: Sequence[Message], source: Source, *, whole: bool) -> list[Message]:
        new = [
            message.model_copy(update={"content": self._contents.get(message.id, message.content)})
            if message.role == "assistant"
            else message
            for message in (continuing.settled(conversation) if whole else conversation)
            if not message.from_history
            and message.id not in self.earlier
            and message.role not in ("system", "developer")
            and message.add_to_agent_memory
            and not message.temporary
        ]
        if whole:
            return new
        call = self.ledger.unfinished(source)
        if call is not None and (partial := _partial(call, {message.id for message in new})):
            new.append(partial)
        return mended(new, self.open_calls)

    def _row(
        self, message: Message, source: Source, earliest: datetime, media: dict[bytes, records.Media]
    ) -> records.Message:
        """The message as a row that is no older than `earliest`; its media are added to `media`."""
        try:
            encoded = rows.encode(message)
        except rows.Unstorable:
            logger.warning(
                "a message holds what cannot be stored; it is stored as text",
                extra={"run_id": str(source.run_id), "role": message.role},
            )
            encoded = rows.encode(message, strict=False)
        media.update((medium.sha256, medium) for medium in encoded.media)
        call = self.ledger.of_message(message.id) if message.role == "assistant" else None
        made = datetime.fromtimestamp(message.created_at, UTC)
        return records.Message(
            id=self._ids.setdefault(message.id, ids.new_id()),
            run_id=source.run_id,
            parent_run_id=source.parent_run_id,
            agent_name=source.agent_name,
            role=message.role,
            provider=call.provider if call else "",
            model=call.model if call else "",
            parts=encoded.parts,
            create_time=max(earliest, (call.end_time if call else None) or made),
            media=tuple(medium.sha256 for medium in encoded.media),
            usage=call.usage if call else None,
            cost=call.cost if call else None,
        )


def mended(messages: Sequence[Message], open_calls: Collection[str] = ()) -> list[Message]:
    """The same conversation, acceptable to a provider. Messages that need no mending are the same objects.

    `open_calls`: tool calls that were made before it begins.
    """
    answered = {message.tool_call_id for message in messages if message.role == "tool"}
    kept: list[Message] = []
    called: set[str] = set(open_calls)
    for message in messages:
        if message.role == "assistant":
            mended_message = _mended_assistant(message, answered)
            if mended_message is None:
                continue
            called.update(str(call.get("id")) for call in mended_message.tool_calls or ())
            kept.append(mended_message)
        elif message.role != "tool" or message.tool_call_id in called:
            kept.append(message)
    return kept


def _mended_assistant(message: Message, answered: set[str | None]) -> Message | None:
    calls = [call for call in message.tool_calls or () if call.get("id") in answered]
    blocks = (message.provider_data or {}).get("content_blocks")
    changes: dict[str, Any] = {}
    if message.tool_calls and len(calls) != len(message.tool_calls):
        changes["tool_calls"] = calls or None
    if isinstance(blocks, list):
        sound = _sound(blocks, {call.get("id") for call in calls})
        if sound != blocks:
            kept = {k: v for k, v in (message.provider_data or {}).items() if k not in _OF_BLOCKS}
            changes["provider_data"] = {**kept, "content_blocks": sound} if sound else kept
    if not calls and not _says(message, changes.get("provider_data", message.provider_data)):
        return None
    return message.model_copy(update=changes) if changes else message


def _sound(blocks: list[Any], calls: set[Any]) -> list[Any]:
    """The blocks that a provider takes back."""
    sound = [
        block
        for block in blocks
        if not isinstance(block, dict)
        or not (
            (block.get("type") == "tool_use" and block.get("id") not in calls)
            or (block.get("type") == "thinking" and not block.get("signature"))
            or (block.get("type") == "text" and not str(block.get("text") or "").strip())
        )
    ]
    while sound and isinstance(sound[-1], dict) and sound[-1].get("type") in _THINKING:
        sound.pop()
    return sound


def _says(message: Message, provider_data: dict[str, Any] | None) -> bool:
    """Whether anything is left of an assistant message without tool calls."""
    blocks = (provider_data or {}).get("content_blocks")
    if isinstance(blocks, list) and blocks:
        return True
    if isinstance(message.content, str):
        if message.content.strip():
            return True
    elif message.content:
        return True
    outputs = (message.audio_output, message.image_output, message.video_output, message.file_output)
    return any(output is not None for output in outputs)


def _partial(call: Call, known: set[str]) -> Message | None:
    """What an answer that broke off had said."""
    text = "".join(call.text)
    if call.message is None or call.message.id in known or not text.strip():
        return None
    return Message(
        id=call.message.id,
        role="assistant",
        content=text,
        reasoning_content="".join(call.reasoning) or None,
        created_at=call.message.created_at,
    )
