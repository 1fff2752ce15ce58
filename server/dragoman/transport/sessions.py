"""SessionService: conversations and their messages."""

from collections.abc import AsyncGenerator, Mapping
from typing import Any

from dragoman import ids, records
from dragoman.engine.ports import Catalog, MessageView, Store
from dragoman.errors import DragomanError, InvalidInput, RequestIdReused, StorageUnavailable, Violation
from dragoman.records import Media, Message, Owner, RequestKey
from dragoman.transport import convert
from dragoman.transport.context import Context
from dragoman.transport.idempotency import request_key
from dragoman.transport.media import MEDIA_ID
from dragoman.transport.messages import MessageReader, decoded
from dragoman.transport.paging import SEQUENCE_KEY, TIME_KEY, Pager
from dragoman.transport.principal import check_agent, current_owner
from dragoman.transport.validation import Checks
from dragoman.v1 import message_pb2
from dragoman.v1 import session_service_pb2 as pb
from dragoman.v1.session_service_pb2_grpc import SessionServiceServicer

MAX_TITLE = 255
PIECE = 256 * 1024
"""Bytes of a medium in one response."""

_MUTABLE = ("title", "metadata")
_ORDERS = (pb.MESSAGE_ORDER_UNSPECIFIED, pb.MESSAGE_ORDER_OLDEST_FIRST, pb.MESSAGE_ORDER_NEWEST_FIRST)


class SessionServicer(SessionServiceServicer):
    """Makes, reads, changes and deletes sessions of the calling owner."""

    def __init__(self, catalog: Catalog, store: Store, view: MessageView) -> None:
        self._catalog = catalog
        self._store = store
        self._messages = MessageReader(store, view)

    async def CreateSession(
        self, request: pb.CreateSessionRequest, context: Context
    ) -> pb.CreateSessionResponse:
        """Makes a session; the agent has the last word on its inputs. Asked again, tells of the one made before."""
        owner = current_owner()
        key = await request_key("session", request, owner)
        try:
            session = await self._store.create_session(await self._accepted(request, owner), key)
        except (StorageUnavailable, RequestIdReused):
            raise
        except DragomanError:
            earlier = await self._made_before(owner, key)
            if earlier is None:
                raise
            session = earlier
        return pb.CreateSessionResponse(session=convert.session(session))

    async def GetMedia(
        self, request: pb.GetMediaRequest, context: Context
    ) -> AsyncGenerator[pb.GetMediaResponse, None]:
        """A medium, piece by piece, at the pace of the one who reads."""
        owner = current_owner()
        checks = Checks()
        if not MEDIA_ID.fullmatch(request.media_id):
            checks.add("media_id", "must be 64 characters of lower-case hex")
        if request.offset < 0:
            checks.add("offset", f"must not be negative, is {request.offset}")
        checks.done()
        medium = await self._store.open_media(owner, bytes.fromhex(request.media_id))
        if request.offset > medium.size:
            raise InvalidInput(
                [Violation("offset", f"must be at most {medium.size}, the size, is {request.offset}")]
            )
        shown = message_pb2.Media(
            id=request.media_id,
            kind=convert.kind_of_type(medium.mime_type),
            mime_type=medium.mime_type,
            size_bytes=medium.size,
        )
        yield pb.GetMediaResponse(media=shown)
        for offset in range(request.offset, medium.size, PIECE):
            yield pb.GetMediaResponse(data=await medium.read(offset, PIECE))

    async def _accepted(self, request: pb.CreateSessionRequest, owner: Owner) -> records.Session:
        """A new session as the agent accepts it."""
        checks = Checks()
        agent_name = checks.required("agent_name", request.agent_name)
        inputs = checks.json("inputs", request.inputs)
        title = checks.line("title", request.title, MAX_TITLE)
        metadata = checks.labels("metadata", request.metadata)
        checks.request_id("request_id", request.request_id)
        checks.done()
        check_agent(agent_name)
        accepted = await self._catalog.accept_session(agent_name, inputs, owner)
        now = records.utcnow()
        session = records.Session(
            id=ids.new_id(),
            owner=owner,
            agent_name=agent_name,
            title=title,
            metadata=metadata,
            inputs=accepted,
            create_time=now,
            update_time=now,
        )
        convert.session(session)  # what cannot be shown must not be stored
        return session

    async def _made_before(self, owner: Owner, key: RequestKey | None) -> records.Session | None:
        """The session that the same request made when it was still acceptable."""
        record = await self._store.find_request(owner, key) if key else None
        return await self._store.get_session(owner, record.session_id) if record else None

    async def GetSession(self, request: pb.GetSessionRequest, context: Context) -> pb.GetSessionResponse:
        """One session."""
        checks = Checks()
        session_id = checks.id("session_id", request.session_id)
        checks.done()
        session = await self._store.get_session(current_owner(), session_id)
        return pb.GetSessionResponse(session=convert.session(session))

    async def ListSessions(
        self, request: pb.ListSessionsRequest, context: Context
    ) -> pb.ListSessionsResponse:
        """Sessions, the last updated first."""
        owner = current_owner()
        checks = Checks()
        agent_name = checks.agent_filter("agent_name", request.agent_name)
        pager = Pager(request, owner, TIME_KEY, checks)
        checks.done()
        rows = await self._store.list_sessions(owner, agent_name, pager.page())
        sessions, token = pager.cut(rows, convert.session, lambda row: (row.update_time, row.id))
        return pb.ListSessionsResponse(sessions=sessions, next_page_token=token)

    async def UpdateSession(
        self, request: pb.UpdateSessionRequest, context: Context
    ) -> pb.UpdateSessionResponse:
        """Changes what the mask names."""
        checks = Checks()
        session_id = checks.id("session_id", request.session_id)
        title: str | None = None
        metadata: Mapping[str, str] | None = None
        if not request.update_mask.paths:
            checks.add("update_mask", f"is required: name at least one of {', '.join(_MUTABLE)}")
        for index, path in enumerate(request.update_mask.paths):
            if path == "title":
                title = request.title
            elif path == "metadata":
                metadata = request.metadata
            else:
                checks.add(f"update_mask.paths[{index}]", f"must be one of {', '.join(_MUTABLE)}")
        if title is not None:
            checks.line("title", title, MAX_TITLE)
        if metadata is not None:
            metadata = checks.labels("metadata", metadata)
        checks.done()
        session = await self._store.update_session(
            current_owner(), session_id, title=title, metadata=metadata
        )
        return pb.UpdateSessionResponse(session=convert.session(session))

    async def DeleteSession(
        self, request: pb.DeleteSessionRequest, context: Context
    ) -> pb.DeleteSessionResponse:
        """Deletes a session with all that is in it."""
        checks = Checks()
        session_id = checks.id("session_id", request.session_id)
        checks.done()
        await self._store.delete_session(current_owner(), session_id)
        return pb.DeleteSessionResponse()

    async def ListMessages(
        self, request: pb.ListMessagesRequest, context: Context
    ) -> pb.ListMessagesResponse:
        """Messages of a session; a page of large ones is shorter than asked for."""
        owner = current_owner()
        checks = Checks()
        session_id = checks.id("session_id", request.session_id)
        run_id = checks.optional_id("run_id", request.run_id)
        checks.known("order", request.order, _ORDERS)
        pager = Pager(request, owner, SEQUENCE_KEY, checks)
        checks.done()
        rows = await self._store.list_messages(
            owner,
            session_id,
            pager.page(),
            run_id=run_id,
            newest_first=request.order == pb.MESSAGE_ORDER_NEWEST_FIRST,
            members=request.include_members,
        )
        media: Mapping[Any, Mapping[bytes, Media]] = {}
        if request.inline_media:
            media = await self._messages.inline_media(owner, rows[: pager.size])

        def show(row: Message) -> message_pb2.Message:
            return self._messages.show(row, session_id, media.get(row.id, {}))

        messages, token = await decoded(rows, lambda: pager.cut(rows, show, lambda row: row.sequence))
        return pb.ListMessagesResponse(messages=messages, next_page_token=token)
