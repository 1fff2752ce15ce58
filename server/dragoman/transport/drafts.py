"""A RunRequest as a draft for the engine, or the reasons why it cannot be one.

In this order, each step only when the one before found nothing wrong:

    the shape of the whole request     every violation at once
    the agent                          AGENT_NOT_FOUND
    the media                          kinds that the agent takes, bytes that are what they claim to be
    the session                        SESSION_NOT_FOUND, another agent's session included; a new one where none is named
    media elsewhere                    URLs are fetched, and what they give is held to the same rules
    the agent's own rules              its RequestModel and `validate_run`
"""

from dataclasses import replace

from dragoman.engine.ports import Catalog, JsonObject, RunDraft, Store
from dragoman.errors import InvalidInput, SessionNotFound, Violation
from dragoman.records import Owner, RequestKey, Session
from dragoman.transport import convert
from dragoman.transport.deadline import Deadline
from dragoman.transport.limits import read_limits
from dragoman.transport.media import MediaReader
from dragoman.transport.principal import check_agent, current_principal
from dragoman.transport.validation import Checks
from dragoman.v1 import run_service_pb2 as pb

MAX_MESSAGE_BYTES = 1024 * 1024
DETAILS = tuple(pb.EventDetail.values())


class DraftReader:
    """Reads run requests. Asks catalog, store and what gives it the media; writes nothing."""

    def __init__(self, catalog: Catalog, store: Store, media: MediaReader, *, currency: str) -> None:
        self._catalog = catalog
        self._store = store
        self._media = media
        self._currency = currency

    async def read(
        self, request: pb.RunRequest, owner: Owner, key: RequestKey | None, deadline: Deadline
    ) -> RunDraft:
        """The draft; `key` is the request's own. Raises InvalidInput and its kin, AgentNotFound, SessionNotFound, AgentFailed, StorageUnavailable."""
        checks = Checks()
        agent_name = checks.required("agent_name", request.agent_name)
        session_id = checks.optional_id("session_id", request.session_id)
        _check_message(request, checks)
        self._media.check(request, checks)
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
        read = await self._media.read(request, agent, owner)
        session: Session | None = None
        session_inputs: JsonObject = {}
        if session_id is None:
            session_inputs = await self._new_session_inputs(agent_name, owner)
        else:
            session = await self._store.get_session(owner, session_id)
            if session.agent_name != agent_name:
                raise SessionNotFound(session_id)
        media = await self._media.complete(request, agent, read)
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
            quotas=current_principal().quotas,
        )
        inputs = await self._catalog.accept_run(draft)
        # Last, because it is counted from now.
        return replace(draft, inputs=inputs, deadline=deadline.seconds if cancel else None)

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
