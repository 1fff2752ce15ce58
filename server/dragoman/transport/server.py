"""The grpc.aio server: services, health, reflection, options; how it starts, drains and stops.

    server = GrpcServer(settings, engine=..., catalog=..., store=..., view=..., inspector=...,
                        currency=...)
    port = await server.start()        # health: SERVING
    await server.drain(30.0)           # health: NOT_SERVING; open calls may finish; new ones are refused
    await server.stop()

A request over `max_receive_bytes` never reaches a servicer: gRPC itself answers RESOURCE_EXHAUSTED, without details. The
same goes for a response over `max_send_bytes`, which pages never are (see `paging`).
"""

import logging
from collections.abc import Collection

import grpc
from google.protobuf.descriptor import ServiceDescriptor
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from dragoman.auth import Authenticator
from dragoman.config import Settings
from dragoman.engine.ports import Catalog, MediaFetcher, MediaInspector, MessageView, Store
from dragoman.observing import UNOBSERVED, Observer
from dragoman.transport.access import RULES
from dragoman.transport.agents import AgentServicer
from dragoman.transport.health import HealthServicer
from dragoman.transport.interceptors import (
    AccessInterceptor,
    Gate,
    QuotaInterceptor,
    SanitiseInterceptor,
    StreamDriverInterceptor,
)
from dragoman.transport.media import MediaReader
from dragoman.transport.readiness import Readiness
from dragoman.transport.runs import RunEngine, RunServicer
from dragoman.transport.sessions import SessionServicer
from dragoman.transport.tls import TlsFiles, TlsReloader
from dragoman.transport.usage import UsageServicer
from dragoman.v1 import (
    agent_service_pb2,
    agent_service_pb2_grpc,
    run_service_pb2,
    run_service_pb2_grpc,
    session_service_pb2,
    session_service_pb2_grpc,
    usage_service_pb2,
    usage_service_pb2_grpc,
)

logger = logging.getLogger(__name__)

_SERVICES: tuple[ServiceDescriptor, ...] = tuple(
    service
    for module in (agent_service_pb2, session_service_pb2, run_service_pb2, usage_service_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
)
SERVICE_NAMES = tuple(service.full_name for service in _SERVICES)
"""The services of this version of the contract."""

UNWIND = 5.0
"""Seconds that cancelled handlers have to clean up after themselves."""

SPARE_CALLS = 1000
"""Open calls beyond twice the streams that there may be, from which on gRPC itself refuses all."""

MAX_PENDING = 30_000
"""Calls that wait to be looked at: a second's work. Each takes a few KB."""

PATIENCE = 24 * 60 * 60
"""Seconds for which they do: in effect for as long as their callers wait."""

_UNCOMPRESSED = 1
"""Of the algorithms that gRPC knows the one that changes nothing, as a bit set."""

_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class CannotListen(Exception):
    """The address cannot be listened on."""

    def __init__(self, address: str) -> None:
        super().__init__(
            f"cannot listen on {address}: another process has the port, or the address is not of this machine; "
            "choose another one (--port, DRAGOMAN_PORT; 0 takes any free port)"
        )
        self.address = address


class GrpcServer:
    """One listening server. Made, started and stopped on one event loop."""

    def __init__(
        self,
        settings: Settings,
        *,
        engine: RunEngine,
        catalog: Catalog,
        store: Store,
        view: MessageView,
        inspector: MediaInspector,
        currency: str,
        fetcher: MediaFetcher | None = None,
        authenticator: Authenticator | None = None,
        share_port: bool = False,
        observer: Observer = UNOBSERVED,
    ) -> None:
        """`currency`: the one in which costs are reported. `fetcher`: of media by URL; None: there are none.
        `authenticator`: tells who calls; None: nobody is asked. `share_port`: other processes of this server listen on the
        same port, and the system spreads connections over them. `observer`: sees each call, and the certificate."""
        self._settings = settings
        self._tls = _tls(settings, observer)
        self._outermost = SanitiseInterceptor(observer)
        _check_rules()
        self._access = AccessInterceptor(authenticator or Authenticator(None), RULES)
        self.gate = Gate(settings.quota_table(), settings.server_quotas())
        self._server = grpc.aio.server(
            interceptors=(
                self._outermost,
                self._access,
                QuotaInterceptor(self.gate, RULES),
                StreamDriverInterceptor(),
            ),
            options=_options(settings, share_port=share_port),
            # For what our own limits do not see: probes, and calls whose request never comes.
            maximum_concurrent_rpcs=2 * settings.max_streams + SPARE_CALLS,
        )
        self._health = HealthServicer(SERVICE_NAMES)
        self._readiness = Readiness(store.ping, self._health.set_ready, settings.health_interval)
        agents = AgentServicer(catalog)
        sessions = SessionServicer(catalog, store, view)
        runs = RunServicer(
            engine=engine,
            catalog=catalog,
            store=store,
            view=view,
            media=MediaReader(
                store,
                inspector,
                fetcher,
                max_bytes=settings.max_media_bytes,
                # What is named may weigh as much as what could be sent.
                max_total_bytes=settings.max_receive_bytes,
            ),
            heartbeat_interval=settings.heartbeat_interval,
            currency=currency,
        )
        agent_service_pb2_grpc.add_AgentServiceServicer_to_server(agents, self._server)
        session_service_pb2_grpc.add_SessionServiceServicer_to_server(sessions, self._server)
        run_service_pb2_grpc.add_RunServiceServicer_to_server(runs, self._server)
        usage_service_pb2_grpc.add_UsageServiceServicer_to_server(UsageServicer(store, engine), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        _add_reflection(self._server)

    async def start(self) -> int:
        """Listens, starts to serve and returns the port. Raises CannotListen."""
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = f"{host}:{self._settings.port}"
        try:
            if self._tls is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, self._tls.credentials())
        except RuntimeError:
            raise CannotListen(address) from None
        await self._server.start()
        self._health.set_serving(True)
        self._readiness.open()
        logger.info("listening", extra={"address": f"{host}:{port}"})
        return port

    def end_calls(self, credentials: Collection[str]) -> None:
        """Ends the open streams of callers whose credentials count no more."""
        self._access.end(credentials)

    def set_serving(self, serving: bool) -> None:
        """What health says, of the server and of each service."""
        self._health.set_serving(serving)

    async def drain(self, grace: float) -> None:
        """Refuses new calls and lets open ones finish for `grace` seconds; cancels what is left then.

        Health says NOT_SERVING at once and its watches end. Returns when no handler runs any more.
        """
        await self._stop(grace)

    async def stop(self) -> None:
        """Cancels all open calls and returns when they are gone. Harmless when it is called twice, or after `drain`."""
        await self._stop(None)

    async def _stop(self, grace: float | None) -> None:
        self._health.close()
        # At once: what waits before it lets calls in that are cut off by it.
        await self._server.stop(grace)
        await self._readiness.close()
        if not await self._outermost.all_done(UNWIND):
            logger.error("calls that were cancelled did not end", extra={"seconds": UNWIND})


def _tls(settings: Settings, observer: Observer) -> TlsReloader | None:
    """Raises TlsUnusable."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    files = TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca)
    return TlsReloader(files, observer.certificate)


def _check_rules() -> None:
    """Raises LookupError when a method that is served has no rule who may call it."""
    served = {f"/{service.full_name}/{method.name}" for service in _SERVICES for method in service.methods}
    if missing := sorted(served - RULES.keys()):
        raise LookupError(f"no rule says who may call {', '.join(missing)}")


def _options(settings: Settings, *, share_port: bool) -> list[tuple[str, int]]:
    """Only options that were seen to work; those in milliseconds are whole."""
    return [
        # Unless it is meant, a second server would take half of the connections of the first without an error.
        ("grpc.so_reuseport", int(share_port)),
        ("grpc.max_receive_message_length", settings.max_receive_bytes),
        ("grpc.max_send_message_length", settings.max_send_bytes),
        ("grpc.keepalive_time_ms", _milliseconds(settings.keepalive_time)),
        ("grpc.keepalive_timeout_ms", _milliseconds(settings.keepalive_timeout)),
        ("grpc.keepalive_permit_without_calls", 1),
        # Without it an idle stream of a client with keepalive dies of "too many pings". The similarly named option
        # with "recv" in it is ignored.
        ("grpc.http2.min_ping_interval_without_data_ms", _milliseconds(settings.min_client_ping_interval)),
        # Between the first, soft limit and the second, calls are refused at random: there is no between.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_calls_per_connection),
        *_lifetimes(settings),
        *_defences(settings),
    ]


def _defences(settings: Settings) -> list[tuple[str, int]]:
    """Against connections that do not behave as clients do."""
    options = [
        # The first is for connections that say nothing, or too little to be HTTP/2; the second for those that never
        # acknowledge our settings, to which the limit of metadata is among other things not applied.
        ("grpc.server_handshake_timeout_ms", _milliseconds(settings.handshake_timeout)),
        ("grpc.http2.settings_timeout", _milliseconds(settings.handshake_timeout)),
        # Calls that have come and wait for the event loop. Over the usual 1000, and all over 3000, gRPC drops calls as
        # CANCELLED, whoever made them: one that opens and resets streams as fast as it can would end those of others.
        ("grpc.server.max_pending_requests", MAX_PENDING),
        ("grpc.server.max_pending_requests_hard_limit", MAX_PENDING),
        # Likewise what has waited for 30 s, when many come at once or a tool blocks the loop: each turn of the loop looks at
        # one call. Who waits has a deadline, and is told by it.
        ("grpc.server_max_unrequested_time_in_server", PATIENCE),
    ]
    if not settings.accept_compressed:
        options.append(("grpc.compression_enabled_algorithms_bitset", _UNCOMPRESSED))
    return options


def _lifetimes(settings: Settings) -> list[tuple[str, int]]:
    """Of connections; what is not said never comes."""
    given = (
        ("grpc.max_connection_age_ms", settings.max_connection_age),
        ("grpc.max_connection_age_grace_ms", settings.max_connection_age_grace),
        ("grpc.max_connection_idle_ms", settings.max_connection_idle),
    )
    return [(name, _milliseconds(seconds)) for name, seconds in given if seconds]


def _milliseconds(seconds: float) -> int:
    return round(seconds * 1000)


def _add_reflection(server: grpc.aio.Server) -> None:
    """Reflection under both of its names: the library has v1alpha, newer tools ask for v1; the messages are the same."""
    names = (
        *SERVICE_NAMES,
        health_pb2.DESCRIPTOR.services_by_name["Health"].full_name,
        reflection.SERVICE_NAME,
    )
    servicer = reflection.aio.ReflectionServicer(names)
    reflection_pb2_grpc.add_ServerReflectionServicer_to_server(servicer, server)
    v1 = grpc.stream_stream_rpc_method_handler(
        servicer.ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handlers = {"ServerReflectionInfo": v1}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_REFLECTION_V1, handlers),))
    server.add_registered_method_handlers(_REFLECTION_V1, handlers)
