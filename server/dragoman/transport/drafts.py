"""A RunRequest as a draft for the engine, or the reasons why it cannot be one.

In this order, each step only when the one before found nothing wrong:

    the shape of the whole request     every violation at once
    the agent                          AGENT_NOT_FOUND
    the media                          kinds that the agent takes, bytes that are what they claim to be
    the session                        SESSION_NOT_FOUND, another agent's session included; a new one where none is named
    the agent's own rules              its RequestModel and `validate_run`
"""

import re
from collections.abc import Collection
from dataclasses import replace

from dragoman.engine.ports import Catalog, InputMedia, JsonObject, MediaInspector, MediaKind, RunDraft, Store
from dragoman.errors import InvalidInput, InvalidMedia, MediaTooLarge, SessionNotFound, Violation
from dragoman.records import Owner, RequestKey, Session
from dragoman.transport import convert
from dragoman.transport.deadline import Deadline
from dragoman.transport.limits import read_limits
from dragoman.transport.principal import check_agent
from dragoman.transport.validation import Checks
from dragoman.v1 import agent_service_pb2, message_pb2
from dragoman.v1 import run_service_pb2 as pb

MAX_MESSAGE_BYTES = 1024 * 1024
MAX_MEDIA = 20
MAX_MEDIA_NAME = 255

_MIME_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,127}/[A-Za-z0-9!#$&^_.+-]{1,127}")
DETAILS = tuple(pb.EventDetail.values())
_MAIN_TYPE = {MediaKind.IMAGE: "image", MediaKind.AUDIO: "audio", MediaKind.VIDEO: "video"}
"""What the MIME type of a kind begins with; a file may be of any type."""


class DraftReader:
    """Reads run requests. Asks catalog, inspector and store; writes nothing."""

    def __init__(
        self,
        catalog: Catalog,
        store: Store,
        inspector: MediaInspector,
        *,
        max_media_bytes: int,
        currency: str,
    ) -> None:
        self._catalog = catalog
        self._store = store
        self._inspector = inspector
        self._max_media_bytes = max_media_bytes
        self._currency = currency

    async def read(
        self, request: pb.RunRequest, owner: Owner, key: RequestKey | None, deadline: Deadline
    ) -> RunDraft:
        """The draft; `key` is the request's own. Raises InvalidInput and its kin, AgentNotFound, SessionNotFound, AgentFailed, StorageUnavailable."""
        checks = Checks()
        agent_name = checks.required("agent_name", request.agent_name)
        session_id = checks.optional_id("session_id", request.session_id)
        _check_message(request, checks)
        self._check_media(request, checks)
        inputs = checks.json("inputs", request.inputs)
        metadata = checks.labels("metadata", request.metadata)
        checks.known("detail", request.detail, DETAILS)
        checks.request_id("request_id", request.request_id)
        limits = read_limits(request.limits, self._currency, checks)
        checks.known("session_conflict", request.session_conflict, tuple(convert.SESSION_CONFLICT))
        cancel = read_policy(request.disconnect_policy, checks)
        checks.done()
        check_agent(request.agent_name)

        agent = self._catalog.agent(agent_name)
        media = await self._inspect(request, agent)
        session: Session | None = None
        session_inputs: JsonObject = {}
        if session_id is None:
            session_inputs = await self._new_session_inputs(agent_name, owner)
        else:
            session = await self._store.get_session(owner, session_id)
            if session.agent_name != agent_name:
                raise SessionNotFound(session_id)
        draft = RunDraft(
            owner=owner,
            agent_name=agent_name,
            session=session,
            message=request.message,
            media=media,
            inputs=inputs,
            metadata=metadata,
            session_inputs=session_inputs,
            request=key,
            limits=limits,
            conflict=convert.SESSION_CONFLICT[request.session_conflict],
            cancel_on_disconnect=cancel,
        )
        inputs = await self._catalog.accept_run(draft)
        # Last, because it is counted from now.
        return replace(draft, inputs=inputs, deadline=deadline.seconds if cancel else None)

    def _check_media(self, request: pb.RunRequest, checks: Checks) -> None:
        if len(request.media) > MAX_MEDIA:
            checks.add("media", f"must be at most {MAX_MEDIA}, are {len(request.media)}")
        for index, medium in enumerate(request.media):
            path = f"media[{index}]"
            checks.line(f"{path}.name", medium.name, MAX_MEDIA_NAME)
            _check_type(medium, path, checks)
            if medium.WhichOneof("source") is None:
                checks.add(f"{path}.source", "is required: give the bytes in data")
            elif not medium.data:
                checks.add(f"{path}.data", "must not be empty", InvalidMedia)
            elif len(medium.data) > self._max_media_bytes:
                limit = f"must have at most {self._max_media_bytes} bytes, has {len(medium.data)}"
                checks.add(f"{path}.data", limit, MediaTooLarge)

    async def _inspect(
        self, request: pb.RunRequest, agent: agent_service_pb2.Agent
    ) -> tuple[InputMedia, ...]:
        accepted = {kind for value in agent.accepted_media if (kind := convert.MEDIA_KIND.get(value))}
        checks = Checks()
        media: list[InputMedia] = []
        for index, medium in enumerate(request.media):
            path = f"media[{index}]"
            kind = convert.MEDIA_KIND[medium.kind]
            if kind is not None and kind not in accepted:
                checks.add(f"{path}.kind", _refusal(agent.name, kind, accepted))
                continue
            try:
                inspected = await self._inspector.inspect(
                    kind, medium.mime_type, medium.name, medium.data, path
                )
            except InvalidInput as error:
                checks.take(error)
                continue
            if inspected.kind not in accepted:
                checks.add(path, _refusal(agent.name, inspected.kind, accepted))
            media.append(inspected)
        checks.done()
        return tuple(media)

    async def _new_session_inputs(self, agent_name: str, owner: Owner) -> JsonObject:
        """What the agent makes of no inputs: a run may make a session only for an agent that asks nothing of one."""
        try:
            return await self._catalog.accept_session(agent_name, {}, owner)
        except InvalidInput as error:
            wants = "; ".join(f"{violation.field}: {violation.description}" for violation in error.violations)
            text = f"a session with {agent_name} needs inputs, so call CreateSession first and name it here ({wants})"
            raise InvalidInput([Violation("session_id", text)]) from error


def read_policy(policy: pb.DisconnectPolicy.ValueType, checks: Checks) -> bool:
    """Whether the run is cancelled when nobody follows it any more."""
    checks.known("disconnect_policy", policy, tuple(convert.CANCEL_ON_DISCONNECT))
    return convert.CANCEL_ON_DISCONNECT.get(policy, False)


def _check_message(request: pb.RunRequest, checks: Checks) -> None:
    message = request.message
    if not request.media and not message.strip():
        checks.add("message", "is required unless there are media")
    # A character takes at most four bytes: a short text need not be encoded to be measured.
    if len(message) * 4 > MAX_MESSAGE_BYTES and (size := len(message.encode())) > MAX_MESSAGE_BYTES:
        checks.add("message", f"must have at most {MAX_MESSAGE_BYTES} bytes of UTF-8, has {size}")


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
