"""The media of a request, wherever they are: in it, stored already, or to be fetched.

    data        the bytes themselves
    media_id    a medium of the same owner that is stored. Another owner's is as unknown as one that never was
    uri         an http(s) URL, fetched for the caller from hosts that the operator allows

All of them end as inspected bytes: neither agents nor models fetch anything. What can be known without asking anybody is
checked first, what is in the request or stored next, and only a request that is right in all else has its URLs fetched.

A medium that was named breaks rules at its name: `media[2].media_id`, `media[2].uri`.
"""

import asyncio
import re
from collections.abc import Collection
from typing import Final

from dragoman.engine.ports import InputMedia, MediaFetcher, MediaInspector, MediaKind, Store
from dragoman.errors import InvalidInput, InvalidMedia, MediaTooLarge, Violation
from dragoman.records import Media, Owner
from dragoman.transport import convert
from dragoman.transport.validation import Checks
from dragoman.v1 import agent_service_pb2, message_pb2
from dragoman.v1 import run_service_pb2 as pb

MAX_MEDIA: Final = 20
MAX_MEDIA_NAME: Final = 255
FETCHED_AT_ONCE: Final = 4
"""URLs of one request that are fetched at a time."""

_MIME_TYPE: Final = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
MEDIA_ID: Final = re.compile(r"[0-9a-f]{64}")
_MAIN_TYPE: Final = {MediaKind.IMAGE: "image", MediaKind.AUDIO: "audio", MediaKind.VIDEO: "video"}
"""What the MIME type of a kind begins with; a file may be of any type."""
_SAYS_NOTHING: Final = frozenset({"", "application/octet-stream", "binary/octet-stream"})
"""Types by which a server says that it does not know what it sends."""


class MediaReader:
    """Reads the media of run requests. `max_bytes`: of one medium; `max_total_bytes`: of all that a request names."""

    def __init__(
        self,
        store: Store,
        inspector: MediaInspector,
        fetcher: MediaFetcher | None,
        *,
        max_bytes: int,
        max_total_bytes: int,
    ) -> None:
        self._store = store
        self._inspector = inspector
        self._fetcher = fetcher
        self._max_bytes = max_bytes
        self._max_total_bytes = max_total_bytes

    def check(self, request: pb.RunRequest, checks: Checks) -> None:
        """Notes what is wrong by its looks. Asks nobody."""
        if len(request.media) > MAX_MEDIA:
            checks.add("media", f"must be at most {MAX_MEDIA}, are {len(request.media)}")
        for index, medium in enumerate(request.media):
            path = f"media[{index}]"
            checks.line(f"{path}.name", medium.name, MAX_MEDIA_NAME)
            _check_type(medium, path, checks)
            self._check_source(medium, path, checks)

    async def read(
        self, request: pb.RunRequest, agent: agent_service_pb2.Agent, owner: Owner
    ) -> list[InputMedia | None]:
        """The media that are in the request or stored; None for each that is still to be fetched.

        Raises InvalidInput and its kin with all violations, also for kinds that the agent does not take.
        """
        accepted, checks, total = _accepted(agent), Checks(), _Total(self._max_total_bytes)
        read: list[InputMedia | None] = []
        for index, medium in enumerate(request.media):
            path = f"media[{index}]"
            kind = convert.MEDIA_KIND[medium.kind]
            if kind is not None and kind not in accepted:
                checks.add(f"{path}.kind", _refusal(agent.name, kind, accepted))
                continue
            try:
                inspected = await self._here(medium, owner, path, total)
            except InvalidInput as error:
                checks.take(error)
                continue
            if inspected is not None and inspected.kind not in accepted:
                checks.add(path, _refusal(agent.name, inspected.kind, accepted))
            read.append(inspected)
        checks.done()
        return read

    async def complete(
        self, request: pb.RunRequest, agent: agent_service_pb2.Agent, read: list[InputMedia | None]
    ) -> tuple[InputMedia, ...]:
        """All media: those that are missing in `read` are fetched, a few at a time. To cancel it ends the fetches.

        Raises InvalidInput and its kin with all violations.
        """
        accepted, checks = _accepted(agent), Checks()
        total, slots = _Total(self._max_total_bytes), asyncio.Semaphore(FETCHED_AT_ONCE)
        for medium, known in zip(request.media, read, strict=True):
            if known is not None and medium.HasField("media_id"):
                total.add(len(known.data), "media")

        async def one(index: int, medium: message_pb2.MediaInput) -> InputMedia | InvalidInput:
            try:
                async with slots:
                    return await self._fetched(medium, f"media[{index}].uri", total)
            except InvalidInput as error:
                return error

        async with asyncio.TaskGroup() as group:
            tasks = {
                index: group.create_task(one(index, medium), name=f"fetch-{index}")
                for index, medium in enumerate(request.media)
                if read[index] is None
            }
        media: list[InputMedia] = []
        for index, known in enumerate(read):
            found = tasks[index].result() if known is None else known
            if isinstance(found, InvalidInput):
                checks.take(found)
                continue
            if found.kind not in accepted:
                checks.add(f"media[{index}]", _refusal(agent.name, found.kind, accepted))
            media.append(found)
        checks.done()
        return tuple(media)

    def _check_source(self, medium: message_pb2.MediaInput, path: str, checks: Checks) -> None:
        match medium.WhichOneof("source"):
            case "media_id":
                if not MEDIA_ID.fullmatch(medium.media_id):
                    checks.add(f"{path}.media_id", "must be 64 characters of lower-case hex", InvalidMedia)
            case "uri":
                refusal = self._fetcher.refusal(medium.uri) if self._fetcher else _NO_URLS
                if refusal:
                    checks.add(f"{path}.uri", refusal, InvalidMedia)
            case "data":
                if not medium.data:
                    checks.add(f"{path}.data", "must not be empty", InvalidMedia)
                elif len(medium.data) > self._max_bytes:
                    limit = f"must have at most {self._max_bytes} bytes, has {len(medium.data)}"
                    checks.add(f"{path}.data", limit, MediaTooLarge)
            case _:
                checks.add(f"{path}.source", "is required: give data, media_id or uri")

    async def _here(
        self, medium: message_pb2.MediaInput, owner: Owner, path: str, total: "_Total"
    ) -> InputMedia | None:
        match medium.WhichOneof("source"):
            case "uri":
                return None
            case "media_id":
                return await self._stored(medium, owner, path, total)
            case _:
                kind = convert.MEDIA_KIND[medium.kind]
                return await self._inspector.inspect(kind, medium.mime_type, medium.name, medium.data, path)

    async def _stored(
        self, medium: message_pb2.MediaInput, owner: Owner, path: str, total: "_Total"
    ) -> InputMedia:
        where = f"{path}.media_id"
        sha256 = bytes.fromhex(medium.media_id)
        # One at a time: as many as may be named are never in memory together before they are counted.
        stored = (await self._store.get_media(owner, [sha256])).get(sha256)
        if stored is None:
            raise InvalidMedia([Violation(where, "there is no medium of this id")])
        total.add(len(stored.data), where)
        claimed = medium.mime_type or stored.mime_type
        with_kind = convert.MEDIA_KIND[medium.kind]
        found = await self._inspect(with_kind, claimed, medium.name, stored.data, where)
        if medium.mime_type and not _agree(medium.mime_type, found.mime_type, stored):
            text = f"says {medium.mime_type}, but the medium is {stored.mime_type}"
            raise InvalidMedia([Violation(f"{path}.mime_type", text)])
        return found

    async def _fetched(self, medium: message_pb2.MediaInput, where: str, total: "_Total") -> InputMedia:
        if self._fetcher is None:
            raise InvalidMedia([Violation(where, _NO_URLS)])
        fetched = await self._fetcher.fetch(medium.uri, where)
        total.add(len(fetched.data), where)
        said = fetched.mime_type.partition(";")[0].strip().lower()
        if medium.mime_type or said in _SAYS_NOTHING:
            said = medium.mime_type
        elif not _MIME_TYPE.fullmatch(said):
            raise InvalidMedia(
                [Violation(where, "its host says of it what is not a MIME type; give mime_type")]
            )
        kind = convert.MEDIA_KIND[medium.kind]
        # What the host says is not repeated to the caller, who has not said it.
        flaw = "" if medium.mime_type else "is not what its host says it is; give mime_type to overrule it"
        return await self._inspect(kind, said, medium.name, fetched.data, where, mismatch=flaw)

    async def _inspect(
        self,
        kind: MediaKind | None,
        claimed: str,
        name: str,
        data: bytes,
        where: str,
        *,
        mismatch: str = "",
    ) -> InputMedia:
        """As the inspector, with every violation at `where`; `mismatch`: instead of what it says of a wrong type."""
        path = where.rpartition(".")[0]
        try:
            return await self._inspector.inspect(kind, claimed, name, data, path)
        except InvalidInput as error:
            raise type(error)(
                [
                    Violation(
                        where,
                        mismatch if mismatch and each.field == f"{path}.mime_type" else each.description,
                    )
                    for each in error.violations
                ],
                **error.metadata,
            ) from None


class _Total:
    """How many bytes the media of a request have that are not in it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._bytes = 0

    def add(self, size: int, field: str) -> None:
        """Counts a medium. Raises MediaTooLarge at `field`."""
        self._bytes += size
        if self._bytes > self._limit:
            text = f"the media of a request may have {self._limit} bytes together, and this one goes beyond"
            raise MediaTooLarge([Violation(field, text)], max_bytes=str(self._limit))


_NO_URLS: Final = "this server fetches no media; send the bytes in data"


def _accepted(agent: agent_service_pb2.Agent) -> set[MediaKind]:
    return {kind for value in agent.accepted_media if (kind := convert.MEDIA_KIND.get(value))}


def _agree(claimed: str, found: str, stored: Media) -> bool:
    """Whether a claim fits what is stored: by that name, or by the name that the inspector has for both."""
    return stored.mime_type in (claimed.lower(), found)


def _check_type(medium: message_pb2.MediaInput, path: str, checks: Checks) -> None:
    checks.known(f"{path}.kind", medium.kind, tuple(convert.MEDIA_KIND))
    if medium.mime_type and not _MIME_TYPE.fullmatch(medium.mime_type):
        checks.add(f"{path}.mime_type", "must be a MIME type, for example image/png", InvalidMedia)
        return
    kind = convert.MEDIA_KIND.get(medium.kind)
    main = _MAIN_TYPE.get(kind) if kind else None
    if main and medium.mime_type and not medium.mime_type.lower().startswith(f"{main}/"):
        text = f"{medium.mime_type} is not the type of {_noun(kind)}: it begins with {main}/"
        checks.add(f"{path}.mime_type", text, InvalidMedia)


def _refusal(agent_name: str, kind: MediaKind, accepted: Collection[MediaKind]) -> str:
    takes = ", ".join(sorted(accepted)) or "text only"
    return f"{agent_name} does not take {_noun(kind)}; it takes {takes}"


def _noun(kind: MediaKind | None) -> str:
    return f"an {kind}" if kind in (MediaKind.IMAGE, MediaKind.AUDIO) else f"a {kind}"
