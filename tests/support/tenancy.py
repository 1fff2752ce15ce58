"""A server with two owners who have something to lose, and callers of every kind who would like to have it.

The server is a real one: engine, database, TLS, keys, tokens and certificates. What a victim has: sessions with a run that
is over, one that goes on and one that waits for a yes; messages, a medium, requests with ids, pages half read, calls in the
ledger. `Thing` names all of it; `ghost()` names as much that never was.
"""

import asyncio
import base64
import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import grpc
import sqlalchemy as sa
from agno.agent import Agent
from agno.tools import tool
from google.protobuf import message_factory
from google.protobuf.message import Message
from support.certificates import Authority
from support.e2e import Stubs
from support.identity import IdentityProvider

from dragoman.auth import Scope, make_key
from dragoman.records import Owner, TokenUsage, utcnow
from dragoman.storage import SqlStore, open_store
from dragoman.storage.tables import metadata as tables
from dragoman.testing.picture import render_png
from dragoman.testing.scripted import Request, ScriptedModel, ToolCall, Turn
from dragoman.testing.serving import Serving, serving
from dragoman.v1 import event_pb2, message_pb2, run_service_pb2, session_service_pb2, usage_service_pb2

AGENT = "desk"

VERA, URSULA = Owner("vera-principal"), Owner("trusted-service", "ursula-user")
NOBODYS = "proxy.mesh.example"
"""The certificate of a caller whom another proof makes known."""

PATIENCE = 60.0

Rows: TypeAlias = dict[tuple[str, Any], dict[str, Any]]
"""What a database has, by table and primary key."""


def secret(owner: Owner) -> str:
    """What only the owner has said and heard."""
    return f"the-treasure-of-{owner.principal}-is-under-the-oak"


def picture(owner: Owner) -> bytes:
    """What only the owner has; large enough for rows of its own."""
    return render_png(owner.principal.replace("-", "")) + bytes(20_000)


@dataclass(frozen=True)
class Caller:
    """A kind of caller. `refused`: the reason why none of its calls is let in."""

    name: str
    owner: Owner
    key: Mapping[str, Any] | None = None
    """What its API key says; it has none when this is None."""
    token: str = ""
    certificate: str = NOBODYS
    scope: Scope | None = Scope.RUN
    refused: str = ""

    def sees(self, owner: Owner) -> bool:
        """Whether what the owner has is its own."""
        return not self.refused and self.scope is not None and self.owner == owner


def _key(name: str, owner: Owner, scope: Scope | None = Scope.RUN, **more: Any) -> Caller:
    refused = more.pop("refused", "")
    return Caller(
        name, owner, {"scopes": [scope] if scope else [], **more}, "", NOBODYS, scope, refused=refused
    )


CALLERS: Sequence[Caller] = (
    Caller("nobody", Owner(""), refused="UNAUTHENTICATED"),
    _key("reader", Owner("reader"), Scope.READ),
    _key("runner", Owner("runner")),
    _key("admin", Owner("admin"), Scope.ADMIN),
    _key("narrow admin", Owner("narrow-admin"), Scope.ADMIN, agents=["other-*"]),
    _key("no scope", Owner("scopeless"), None),
    _key(
        "expired",
        VERA,
        expire_time=utcnow() - timedelta(seconds=1),
        refused="UNAUTHENTICATED",
    ),
    _key("revoked", VERA, refused="UNAUTHENTICATED"),
    _key("wrong secret", VERA, refused="UNAUTHENTICATED"),
    _key("unknown key", VERA, refused="UNAUTHENTICATED"),
    _key("narrow agents", Owner("narrow"), agents=["other-*"]),
    _key("vera", VERA),
    _key("vera, another key", VERA, Scope.READ),
    _key("vera for a user", replace(VERA, user="somebody"), acts_for_users=True),
    _key("vera for another's user", replace(VERA, user=URSULA.user), acts_for_users=True),
    _key("trusted for nobody", Owner(URSULA.principal), acts_for_users=True),
    _key("ursula", URSULA, acts_for_users=True),
    _key("trusted for another user", replace(URSULA, user="ursula"), acts_for_users=True),
    _key("another trusted for ursula", Owner("also-trusted", URSULA.user), acts_for_users=True),
    _key("x-user-id without the right", Owner("runner", URSULA.user), refused="PERMISSION_DENIED"),
    Caller("certificate", Owner("sidecar"), certificate="spiffe://mesh.example/sa/sidecar"),
    Caller("vera's certificate", VERA, certificate="spiffe://mesh.example/sa/vera"),
    Caller(
        "nobody's certificate",
        Owner(""),
        certificate="spiffe://mesh.example/sa/nobody",
        refused="UNAUTHENTICATED",
    ),
    Caller("token", Owner("token-bearer"), token="of-the-bearer"),
    Caller("vera's token", VERA, token="of-vera"),
    Caller("bad token", VERA, token="of-nobody", refused="UNAUTHENTICATED"),
)
"""Another kind is another line."""


@dataclass(frozen=True)
class Thing:
    """What somebody has, by the names that a caller may give."""

    session: str
    busy: str
    waiting: str
    """Sessions: one at rest, one with a run under way, one whose run waits."""
    done: str
    active: str
    paused: str
    requirement: str
    medium: str
    run_request: str
    session_request: str
    tokens: Mapping[str, str] = field(default_factory=dict)
    """Of pages, by method."""

    @property
    def names(self) -> list[str]:
        """All of them."""
        own = [self.session, self.busy, self.waiting, self.done, self.active, self.paused, self.requirement]
        return [*own, self.medium, self.run_request, self.session_request, *self.tokens.values()]


def ghost(like: Thing) -> Thing:
    """As much that never was; names are as long as those they stand for."""
    session, busy, waiting, done, active, paused = (str(uuid.uuid4()) for _ in range(6))
    return Thing(
        session,
        busy,
        waiting,
        done,
        active,
        paused,
        requirement="0" * len(like.requirement),
        medium=os.urandom(32).hex(),
        run_request="r" * len(like.run_request),
        session_request="s" * len(like.session_request),
        tokens={
            method: base64.urlsafe_b64encode(os.urandom(len(base64.urlsafe_b64decode(token)))).decode()
            for method, token in like.tokens.items()
        },
    )


@dataclass
class Victim:
    """An owner, what it has, and the stream on which it follows the run that goes on."""

    owner: Owner
    caller: Caller
    thing: Thing
    stream: Any
    seen: list[event_pb2.RunEvent]

    def marks(self, caller: Caller) -> list[str]:
        """What no answer to the caller may contain, unless it named it itself."""
        own = [secret(self.owner), *self.thing.names]
        if caller.owner.principal != self.owner.principal:
            own.append(self.owner.principal)
        if self.owner.user and self.owner.user not in caller.owner.user:
            own.append(self.owner.user)
        return own


class Hold:
    """Plays the models; keeps runs under way until it is opened."""

    def __init__(self) -> None:
        self.event = asyncio.Event()

    def respond(self, request: Request) -> Turn:
        """By what the user says last: `wait`, `ask`, or anything."""
        said = str(next(each for each in reversed(request.messages) if each.role == "user").content)
        last = request.messages[-1].role
        usage = TokenUsage(input_tokens=5, output_tokens=2)
        if said.startswith("ask") and last != "tool":
            return ["Shall I? ", ToolCall("dig", {"where": said}), usage]
        if said.startswith("wait"):
            return [f"I wait: {said}", self.event, " Done.", usage]
        return [f"You said: {said}", usage]


@tool(requires_confirmation=True)
def dig(where: str) -> str:
    """Digs."""
    return f"dug: {where}"


@dataclass
class World:
    """The server, its callers and its victims."""

    server: Serving
    hold: Hold
    store: SqlStore
    victims: list[Victim]
    _metadata: Mapping[str, tuple[tuple[str, str], ...]]
    _channels: Mapping[str, grpc.aio.Channel]

    def channel(self, caller: Caller) -> Any:
        """The caller's connection."""
        return self._channels[caller.certificate]

    def metadata(self, caller: Caller) -> tuple[tuple[str, str], ...]:
        """What the caller sends along."""
        return self._metadata[caller.name]

    async def rows(self) -> Rows:
        """All that the database has, but for the leases, which processes renew."""

        def read(connection: sa.Connection) -> Rows:
            return {
                (table.name, tuple(row[column.name] for column in table.primary_key)): {
                    name: value for name, value in row.items() if name != "lease_time"
                }
                for table in tables.sorted_tables
                for row in connection.execute(sa.select(table)).mappings()
            }

        return await self.store._database.read(read)


@asynccontextmanager
async def world(database_url: str, folder: Path) -> AsyncIterator[World]:
    """All of it, the victims' runs under way."""
    hold, authority = Hold(), Authority()
    certificate, key = authority.server().write(folder, "server")
    ca = folder / "ca.pem"
    ca.write_bytes(authority.certificate)
    agents = [
        Agent(name=name, model=ScriptedModel(respond=hold.respond), tools=[dig], telemetry=False)
        for name in (AGENT, "dear")
    ]
    async with AsyncExitStack() as stack:
        provider = await stack.enter_async_context(IdentityProvider())
        store = open_store(database_url)
        stack.push_async_callback(store.close)
        await store.open(migrate=True)
        sent = {caller.name: await _proofs(caller, store, provider) for caller in CALLERS}
        server = await stack.enter_async_context(
            serving(
                *agents,
                database_url=database_url,
                tls_cert=certificate,
                tls_key=key,
                tls_client_ca=ca,
                auth=("keys", "tokens", "certificates"),
                # Patient: on a busy machine a late answer would look like another one.
                tokens=[{"introspection_url": f"{provider.url}/introspect", "timeout": 30.0, "cache": 60.0}],
                certificates=[
                    {"identity": caller.certificate, "principal": caller.owner.principal}
                    for caller in CALLERS
                    if caller.certificate != NOBODYS and not caller.refused
                ],
                # Of an agent that nobody runs: what the agents cost here is not known.
                budgets=[{"principal": "*", "agent": "dear", "period": "day", "amount": 9}],
            )
        )
        channels: dict[str, grpc.aio.Channel] = {}
        for name in {caller.certificate for caller in CALLERS}:
            mine = authority.client(name)
            credentials = grpc.ssl_channel_credentials(authority.certificate, mine.key, mine.certificate)
            channel = grpc.aio.secure_channel(server.address, credentials)
            channels[name] = await stack.enter_async_context(channel)
        made = World(server, hold, store, [], sent, channels)
        for owner, name in ((VERA, "vera"), (URSULA, "ursula")):
            caller = next(each for each in CALLERS if each.name == name)
            made.victims.append(await _victim(made, owner, caller))
        try:
            yield made
        finally:
            hold.event.set()


async def _proofs(caller: Caller, store: SqlStore, provider: IdentityProvider) -> tuple[tuple[str, str], ...]:
    metadata: list[tuple[str, str]] = []
    if caller.key is not None:
        new = make_key(caller.owner.principal, now=utcnow(), **caller.key)
        text = new.text
        if caller.name == "wrong secret":
            text = text[:-43] + "A" * 43
        if caller.name != "unknown key":
            await store.keys.create(new.key)
        if caller.name == "revoked":
            await store.keys.revoke(new.key.id, utcnow())
        metadata.append(("x-api-key", text))
    if caller.token:
        metadata.append(("authorization", f"Bearer {caller.token}"))
        if not caller.refused:
            provider.good[caller.token] = {"sub": caller.owner.principal}
    if caller.owner.user:
        metadata.append(("x-user-id", caller.owner.user))
    return tuple(metadata)


async def _victim(world: World, owner: Owner, caller: Caller) -> Victim:
    """Gives the owner all that a `Thing` names."""
    stubs, metadata = Stubs(world.channel(caller)), world.metadata(caller)

    def run(message: str, **more: Any) -> Any:
        request = run_service_pb2.RunRequest(
            agent_name=AGENT, message=message, detail=run_service_pb2.EVENT_DETAIL_ALL, **more
        )
        return stubs.runs.Run(request, metadata=metadata, timeout=10 * PATIENCE)

    async def whole(message: str, **more: Any) -> list[event_pb2.RunEvent]:
        return [event async for event in run(message, **more)]

    made = await stubs.sessions.CreateSession(
        session_request(AGENT, f"{owner.principal} session"), metadata=metadata
    )
    session = made.session.id
    known = secret(owner)
    medium = message_pb2.MediaInput(data=picture(owner))
    request_id = f"{owner.principal} run"
    first = await whole(known, session_id=session, media=[medium], request_id=request_id)
    done = first[0].run_started.run_id
    assert first[-1].HasField("run_completed"), first[-1]
    waiting = await whole(f"ask {known}")
    (requirement,) = waiting[-1].run_paused.requirements
    stream = run(f"wait {known}")
    seen: list[event_pb2.RunEvent] = []
    while not seen or not seen[-1].HasField("content_delta"):
        seen.append(await stream.read())
    begun, held = seen[0].run_started, waiting[0].run_started
    messages = await stubs.sessions.ListMessages(
        session_service_pb2.ListMessagesRequest(session_id=session, page_size=1), metadata=metadata
    )
    thing = Thing(
        session=session,
        busy=begun.session_id,
        waiting=held.session_id,
        done=done,
        active=begun.run_id,
        paused=held.run_id,
        requirement=requirement.id,
        medium=messages.messages[0].media[0].id,
        run_request=request_id,
        session_request=f"{owner.principal} session",
    )
    sessions = await stubs.sessions.ListSessions(
        session_service_pb2.ListSessionsRequest(page_size=1), metadata=metadata
    )
    runs = await stubs.runs.ListRuns(run_service_pb2.ListRunsRequest(page_size=1), metadata=metadata)
    usage = await stubs.usage.QueryUsage(by_session(page_size=1), metadata=metadata)
    tokens = {
        "ListMessages": messages.next_page_token,
        "ListSessions": sessions.next_page_token,
        "ListRuns": runs.next_page_token,
        "QueryUsage": usage.next_page_token,
    }
    assert all(tokens.values()), tokens
    await _stored(stubs, metadata, begun.run_id, seen[-1].sequence)
    return Victim(owner, caller, replace(thing, tokens=tokens), stream, seen)


async def _stored(stubs: Stubs, metadata: Any, run_id: str, sequence: int) -> None:
    """Returns when what the run has said is in the database: from then on its rows stand still."""
    request = run_service_pb2.GetRunRequest(run_id=run_id)
    while (await stubs.runs.GetRun(request, metadata=metadata)).run.last_sequence < sequence:
        await asyncio.sleep(0.01)


def session_request(agent: str, request_id: str, **more: Any) -> session_service_pb2.CreateSessionRequest:
    """The request with which a victim makes its session."""
    return session_service_pb2.CreateSessionRequest(agent_name=agent, request_id=request_id, **more)


def by_session(**more: Any) -> usage_service_pb2.QueryUsageRequest:
    """Usage by session."""
    return usage_service_pb2.QueryUsageRequest(group_by=[usage_service_pb2.USAGE_DIMENSION_SESSION], **more)


@dataclass(frozen=True)
class Outcome:
    """What a caller is told: the code, the text and the details of an error, or the answers."""

    code: str
    text: str = ""
    details: bytes = b""
    metadata: tuple[tuple[str, Any], ...] = ()
    answers: tuple[Message, ...] = ()

    def told(self, renamed: Mapping[str, str]) -> tuple[Any, ...]:
        """What of it can be told apart, with these names in the place of others; of answers that they are so many and of
        what kinds."""
        text, details = self.text, self.details
        for name, other in renamed.items():
            text, details = text.replace(name, other), details.replace(name.encode(), other.encode())
        kinds = tuple(
            each.WhichOneof("event") if isinstance(each, event_pb2.RunEvent) else type(each).__name__
            for each in self.answers
        )
        return self.code, text, details, self.metadata, kinds

    @property
    def said(self) -> bytes:
        """Every byte of it."""
        parts = [self.text.encode(), self.details, repr(self.metadata).encode()]
        return b"\n".join([*parts, *(each.SerializeToString() for each in self.answers)])


async def outcome(channel: Any, path: str, method: Any, request: Message, metadata: Any) -> Outcome:
    """Calls and waits for all of the answer."""
    answer = message_factory.GetMessageClass(method.output_type)
    options: dict[str, Any] = {
        "request_serializer": type(request).SerializeToString,
        "response_deserializer": answer.FromString,
    }
    try:
        if method.server_streaming:
            call = channel.unary_stream(path, **options)(request, metadata=metadata, timeout=PATIENCE)
            return Outcome("OK", answers=tuple([each async for each in call]))
        made = await channel.unary_unary(path, **options)(request, metadata=metadata, timeout=PATIENCE)
        return Outcome("OK", answers=(made,))
    except grpc.aio.AioRpcError as error:
        sent = dict(error.trailing_metadata() or ())
        details = sent.pop("grpc-status-details-bin", b"")
        sent.pop("x-request-id", None)
        return Outcome(
            error.code().name,
            error.details() or "",
            details if isinstance(details, bytes) else details.encode(),
            tuple(sorted(sent.items())),
        )
