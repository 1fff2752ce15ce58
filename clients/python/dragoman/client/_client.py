"""The door: one client, one channel, a method for each thing that can be asked of the server."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from types import TracebackType
from typing import Final, Self, TypeAlias

from grpc_health.v1 import health_pb2

from dragoman.client._channel import Tls
from dragoman.client._identity import Identity, TokenSource
from dragoman.client._link import Link
from dragoman.client._media import read_media
from dragoman.client._pages import rows
from dragoman.client._requests import (
    DETAILS,
    DIMENSIONS,
    DISCONNECTS,
    ORDERS,
    STATES,
    DisconnectPolicy,
    EventDetail,
    Inputs,
    MessageOrder,
    RunState,
    SessionConflict,
    UsageDimension,
    limits_of,
    request_id_or_new,
    run_request,
    session_id,
    struct,
    timestamp,
)
from dragoman.client._retry import RetryPolicy
from dragoman.client._run import RunStream
from dragoman.v1 import (
    agent_service_pb2,
    message_pb2,
    run_service_pb2,
    session_service_pb2,
    usage_service_pb2,
)

Session: TypeAlias = session_service_pb2.Session
Run: TypeAlias = run_service_pb2.Run

DEFAULT_RETRY: Final = RetryPolicy()
"""How patient a client is unless it is told otherwise."""


class Dragoman:
    """A client of one server. Use it with `async with`, within one event loop, for many calls at the same time.

    `target` is `host:port`, or a list of servers on one database, `ipv4:host:port,host:port`, of which another is tried
    when one fails. Without `tls` the channel is plaintext. `api_key` or `token`: by which this service proves who it is; `user`: the one
    for whom it acts, where that proof allows it. A token may be a callable, asynchronous or not, that gives one which is good now: it is
    asked before each call and keeps what it gave while that is good; what it raises, the call raises. A run whose token runs out
    is followed on by the next. `timeout`: seconds for each call but runs (None: no limit); a run takes as
    long as it takes unless its own call says otherwise. `retry`: how patiently broken calls are made again and broken
    runs followed on (None: not at all).

    Every method raises DragomanError, or the subclass that fits. Wherever a session is asked for, its id will do.
    """

    def __init__(
        self,
        target: str = "127.0.0.1:50051",
        *,
        api_key: str = "",
        token: TokenSource = "",
        user: str = "",
        tls: Tls | None = None,
        timeout: float | None = 30.0,
        retry: RetryPolicy | None = DEFAULT_RETRY,
    ) -> None:
        self._target = target
        self._identity = Identity(api_key, user, token)
        self._tls = tls
        self._timeout = timeout
        self._retry = retry
        self._open: Link | None = None

    async def __aenter__(self) -> Self:
        if self._open is not None:
            raise RuntimeError("the client is open already")
        self._open = Link(self._target, self._timeout, self._retry, self._identity, self._tls)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        link, self._open = self._open, None
        if link is not None:
            await link.close()

    # Agents

    async def list_agents(self) -> list[agent_service_pb2.Agent]:
        """All agents and teams, by name."""
        response = await self._link.call(
            lambda stubs: stubs.agents.ListAgents, agent_service_pb2.ListAgentsRequest()
        )
        return list(response.agents)

    async def get_agent(self, name: str) -> agent_service_pb2.Agent:
        """One agent. Raises NotFound."""
        response = await self._link.call(
            lambda stubs: stubs.agents.GetAgent, agent_service_pb2.GetAgentRequest(name=name)
        )
        return response.agent

    # Sessions

    async def create_session(
        self,
        agent: str,
        *,
        inputs: Inputs | None = None,
        title: str = "",
        metadata: Mapping[str, str] | None = None,
        request_id: str = "",
    ) -> Session:
        """Makes a session with an agent. `inputs` are for the agent's own CreateSessionModel; `request_id` is
        the caller's own id of this request, for safe retries (without one, the client makes one).

        Raises NotFound, InvalidInput with every violation.
        """
        request = session_service_pb2.CreateSessionRequest(
            agent_name=agent,
            inputs=struct(inputs),
            title=title,
            metadata=metadata,
            request_id=request_id_or_new(request_id),
        )
        return (await self._link.call(lambda stubs: stubs.sessions.CreateSession, request)).session

    def get_media(self, media_id: str, *, offset: int = 0) -> AsyncIterator[bytes]:
        """The bytes of a medium (`Media.id`) from `offset` on, piece by piece. A stream that breaks is taken up where it broke.

        Raises NotFound, InvalidInput.
        """
        return read_media(self._link, media_id, offset)

    async def get_session(self, session: str) -> Session:
        """One session by its id. Raises NotFound."""
        request = session_service_pb2.GetSessionRequest(session_id=session)
        return (await self._link.call(lambda stubs: stubs.sessions.GetSession, request)).session

    def list_sessions(self, *, agent: str = "", page_size: int = 0) -> AsyncIterator[Session]:
        """Sessions (of one agent), the last updated first, fetched `page_size` at a time (0: as the server likes)."""

        async def fetch(token: str) -> tuple[Iterable[Session], str]:
            request = session_service_pb2.ListSessionsRequest(
                agent_name=agent, page_size=page_size, page_token=token
            )
            response = await self._link.call(lambda stubs: stubs.sessions.ListSessions, request)
            return response.sessions, response.next_page_token

        return rows(fetch)

    async def update_session(
        self, session: Session | str, *, title: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Session:
        """Changes what is given; `metadata` replaces all labels. Raises NotFound, InvalidInput."""
        request = session_service_pb2.UpdateSessionRequest(
            session_id=session_id(session), title=title or "", metadata=metadata
        )
        if title is not None:
            request.update_mask.paths.append("title")
        if metadata is not None:
            request.update_mask.paths.append("metadata")
        return (
            await self._link.call(lambda stubs: stubs.sessions.UpdateSession, request, repeat=False)
        ).session

    async def delete_session(self, session: Session | str) -> None:
        """Deletes a session with its messages and runs. Raises NotFound, DragomanError (SESSION_BUSY)."""
        request = session_service_pb2.DeleteSessionRequest(session_id=session_id(session))
        await self._link.call(lambda stubs: stubs.sessions.DeleteSession, request, repeat=False)

    def list_messages(
        self,
        session: Session | str,
        *,
        run: str = "",
        order: MessageOrder = "oldest",
        include_members: bool = False,
        inline_media: bool = False,
        page_size: int = 0,
    ) -> AsyncIterator[message_pb2.Message]:
        """Messages of a session (of one run in it); `inline_media`: with the bytes of media, as far as they fit."""

        async def fetch(token: str) -> tuple[Iterable[message_pb2.Message], str]:
            request = session_service_pb2.ListMessagesRequest(
                session_id=session_id(session),
                run_id=run,
                order=ORDERS[order],
                include_members=include_members,
                inline_media=inline_media,
                page_size=page_size,
                page_token=token,
            )
            response = await self._link.call(lambda stubs: stubs.sessions.ListMessages, request)
            return response.messages, response.next_page_token

        return rows(fetch)

    # Runs

    def run(
        self,
        agent: str,
        message: str = "",
        *,
        session: Session | str | None = None,
        media: Sequence[message_pb2.MediaInput] = (),
        inputs: Inputs | None = None,
        metadata: Mapping[str, str] | None = None,
        detail: EventDetail = "standard",
        max_cost: Decimal | str | int | None = None,
        max_total_tokens: int = 0,
        max_duration: timedelta | float | None = None,
        conflict: SessionConflict = "reject",
        on_disconnect: DisconnectPolicy = "detach",
        request_id: str = "",
        timeout: float | None = None,
    ) -> RunStream:
        """Starts a run and follows it. Without a session a new one is made, and `run_started` tells its id.

        The run starts when the stream is entered or first read, and goes on when it is left (`on_disconnect="cancel"`:
        it is cancelled then). When the stream breaks, it is taken up again where it broke. `timeout` ends the following
        after so many seconds, with DeadlineExceeded.

        A run that reaches `max_cost` (in the server's currency), `max_total_tokens` or `max_duration` (seconds) ends as
        cancelled. `request_id` is the caller's own id of this request; without one, the client makes one.
        """
        limits = limits_of(max_cost, max_total_tokens, max_duration)
        request = run_request(
            agent,
            message,
            session,
            media,
            inputs,
            metadata,
            detail,
            limits,
            conflict,
            on_disconnect,
            request_id,
        )
        return RunStream(self._link, request, timeout=timeout)

    def attach(
        self,
        run: str,
        *,
        after_sequence: int = 0,
        detail: EventDetail = "standard",
        timeout: float | None = None,
    ) -> RunStream:
        """Follows a run by its id, during or after it: the events after `after_sequence`, then those to come.

        Raises NotFound, EventsTrimmed when that is too long ago.
        """
        request = run_service_pb2.AttachRunRequest(
            run_id=run, after_sequence=after_sequence, detail=DETAILS[detail]
        )
        return RunStream(self._link, request, timeout=timeout)

    def continue_run(
        self,
        run: str,
        resolutions: Iterable[run_service_pb2.Resolution],
        *,
        detail: EventDetail = "standard",
        on_disconnect: DisconnectPolicy = "detach",
        request_id: str = "",
        timeout: float | None = None,
    ) -> RunStream:
        """Resolves all that a paused run waits for (`confirm`, `reject`, ...) and follows it from there.

        Raises NotFound, InvalidInput with a path into `resolutions`, DragomanError (RUN_NOT_PAUSED).
        """
        request = run_service_pb2.ContinueRunRequest(
            run_id=run,
            resolutions=resolutions,
            request_id=request_id_or_new(request_id),
            detail=DETAILS[detail],
            disconnect_policy=DISCONNECTS[on_disconnect],
        )
        return RunStream(self._link, request, timeout=timeout)

    async def execute(
        self,
        agent: str,
        message: str = "",
        *,
        session: Session | str | None = None,
        media: Sequence[message_pb2.MediaInput] = (),
        inputs: Inputs | None = None,
        metadata: Mapping[str, str] | None = None,
        max_cost: Decimal | str | int | None = None,
        max_total_tokens: int = 0,
        max_duration: timedelta | float | None = None,
        conflict: SessionConflict = "reject",
        on_disconnect: DisconnectPolicy = "detach",
        request_id: str = "",
        timeout: float | None = None,
    ) -> run_service_pb2.ExecuteResponse:
        """The same run as one answer. A run that failed is an answer too: see `run.status` in it.

        There is no time-out by default; when one passes, DeadlineExceeded is raised and the run goes on. When the call
        breaks it is made again, which follows the same run. The options are those of `run`.
        """
        limits = limits_of(max_cost, max_total_tokens, max_duration)
        request = run_request(
            agent,
            message,
            session,
            media,
            inputs,
            metadata,
            "standard",
            limits,
            conflict,
            on_disconnect,
            request_id,
        )
        patience = self._retry.start_patience if self._retry else 0.0
        return await self._link.call_within(timeout, patience, lambda stubs: stubs.runs.Execute, request)

    async def get_run(self, run: str) -> Run:
        """One run by its id. Raises NotFound."""
        response = await self._link.call(
            lambda stubs: stubs.runs.GetRun, run_service_pb2.GetRunRequest(run_id=run)
        )
        return response.run

    def list_runs(
        self,
        *,
        session: Session | str | None = None,
        agent: str = "",
        status: RunState | None = None,
        page_size: int = 0,
        all_owners: bool = False,
        principal: str = "",
        user: str = "",
    ) -> AsyncIterator[Run]:
        """Runs, the newest first. Raises NotFound for an unknown session.

        `all_owners`: everybody's, or those of `principal`, for `user`; with whose they are and without what was said in
        them. Needs the scope admin (DragomanError with the reason PERMISSION_DENIED).
        """

        async def fetch(token: str) -> tuple[Iterable[Run], str]:
            request = run_service_pb2.ListRunsRequest(
                session_id=session_id(session),
                agent_name=agent,
                status=STATES[status] if status else run_service_pb2.RUN_STATUS_UNSPECIFIED,
                page_size=page_size,
                page_token=token,
                all_owners=all_owners,
                principal=principal,
                user=user,
            )
            response = await self._link.call(lambda stubs: stubs.runs.ListRuns, request)
            return response.runs, response.next_page_token

        return rows(fetch)

    async def cancel_run(self, run: str, *, note: str = "", all_owners: bool = False) -> Run:
        """Ends a run and returns it ended, or as it had ended before. Raises NotFound.

        `all_owners`: whosever it is; needs the scope admin.
        """
        request = run_service_pb2.CancelRunRequest(run_id=run, note=note, all_owners=all_owners)
        return (await self._link.call(lambda stubs: stubs.runs.CancelRun, request)).run

    # Usage

    def query_usage(
        self,
        by: Sequence[UsageDimension] = (),
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        agent: str = "",
        session: Session | str | None = None,
        time_zone: str = "",
        page_size: int = 0,
        all_owners: bool = False,
        principal: str = "",
        user: str = "",
    ) -> AsyncIterator[usage_service_pb2.UsageGroup]:
        """Totals of model calls that started in [start, end), a row per group; without `by` one row, the grand total.

        `time_zone`: the IANA name of the zone whose days are meant, such as `Africa/Johannesburg` (empty: UTC).
        `all_owners`: of everybody, or of `principal`, for `user`; needs the scope admin.
        """
        dimensions = [DIMENSIONS[each] for each in by]
        start_time, end_time = timestamp(start), timestamp(end)

        async def fetch(token: str) -> tuple[Iterable[usage_service_pb2.UsageGroup], str]:
            request = usage_service_pb2.QueryUsageRequest(
                group_by=dimensions,
                start_time=start_time,
                end_time=end_time,
                agent_name=agent,
                session_id=session_id(session),
                time_zone=time_zone,
                page_size=page_size,
                page_token=token,
                all_owners=all_owners,
                principal=principal,
                user=user,
            )
            response = await self._link.call(lambda stubs: stubs.usage.QueryUsage, request)
            return response.groups, response.next_page_token

        return rows(fetch)

    async def get_budget(self, *, agent: str = "", principal: str = "") -> list[usage_service_pb2.Budget]:
        """The budgets that hold for the caller's runs (of one agent), and what is left of them; empty without any.

        `principal`: whose runs instead; another's need the scope admin.
        """
        request = usage_service_pb2.GetBudgetRequest(agent_name=agent, principal=principal)
        return list((await self._link.call(lambda stubs: stubs.usage.GetBudget, request)).budgets)

    async def check_health(self, service: str = "") -> str:
        """What grpc.health.v1 says of a service: `SERVING`, or why not; without a name, of the server as a whole.

        Under the name `liveness` a server answers whether its process lives; for all others also whether its database does.
        """
        request = health_pb2.HealthCheckRequest(service=service)
        answer = await self._link.call(lambda stubs: stubs.health.Check, request)
        return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))

    @property
    def _link(self) -> Link:
        if self._open is None:
            raise RuntimeError("the client is not open: use it with `async with`")
        return self._open
