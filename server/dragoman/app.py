"""The composition root: builds every room from the settings, wires them, and closes them in the right order.

    settings ─► store ─► catalog ─► pricer ─► runner ─► engine ─► gRPC server

Everything that can be wrong with a configuration is found before the port is opened, and told in one sentence as a
`StartError`. How the process of a server lives and ends: `process`.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

from dragoman.config import Settings, silence_agno
from dragoman.errors import StorageUnavailable
from dragoman.records import Limits

if TYPE_CHECKING:
    from dragoman.agents.database import AgnoTables
    from dragoman.engine import Engine
    from dragoman.engine.ports import BudgetRule
    from dragoman.telemetry.telemetry import Telemetry
    from dragoman.transport import GrpcServer

logger = logging.getLogger(__name__)


class StartError(Exception):
    """The server cannot start. The text is a sentence for the operator."""


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """What a server that has started says of itself."""

    address: str
    """`host:port` that clients connect to."""
    agents: list[str]
    database: str
    """Kind of the database and, for a file, its name; never credentials."""
    currency: str
    access: str
    """Who may call, in a few words."""
    metrics: str = ""
    """`host:port` of `GET /metrics`; empty when there is none."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server that accepts calls."""

    info: ServerInfo
    engine: "Engine"
    grpc: "GrpcServer"


@asynccontextmanager
async def running(
    settings: Settings, *, agents: Sequence[object] = (), migrate: bool = False, share_port: bool = False
) -> AsyncIterator[Server]:
    """A server on the current event loop, drained and closed on leaving. Raises StartError.

    `agents` are served besides those that the settings name. `share_port`: other processes of ours listen on it, too.
    """
    silence_agno()
    # The rooms are heavy to import (Agno alone takes seconds): only here, so that a command that needs none is quick.
    from dragoman import gate
    from dragoman.adapter import AgnoMessageView, AgnoRunner, SniffingInspector
    from dragoman.auth import Authenticator, KeyRing
    from dragoman.blobs import open_blobs
    from dragoman.catalog import load
    from dragoman.engine import Budgets, Engine
    from dragoman.fetch import Hosts, HttpFetcher
    from dragoman.pricing import Pricer
    from dragoman.signals import NoSignals, RedisSignals
    from dragoman.storage import open_store
    from dragoman.transport import GrpcServer

    async with AsyncExitStack() as stack:
        telemetry = _telemetry(settings)
        # First to come and last to go: it sees all the others.
        stack.push_async_callback(telemetry.close)
        with _told_to_operators():
            catalog = await asyncio.to_thread(
                load, settings.agents, entry_points=settings.entry_points, objects=agents
            )
            pricer = Pricer.load(
                currency=settings.currency,
                prices_file=settings.prices_file,
                rates_file=settings.rates_file,
                max_rate_age_days=settings.max_rate_age_days,
            )
            try:
                store = open_store(
                    settings.database_url,
                    connections=settings.database_connections,
                    sqlite_synchronous=settings.sqlite_synchronous,
                    blobs=None if settings.media_store == "database" else open_blobs(settings.media_store),
                    observer=telemetry,
                )
            except ValueError as error:
                raise StartError(str(error)) from error
            except ModuleNotFoundError as error:
                raise StartError(
                    f"the database's driver is not installed: there is no module {error.name}"
                ) from error
            stack.push_async_callback(store.close)
            await store.open(migrate=migrate)
            if catalog.needs_database:
                tables = _agno_tables(settings)
                stack.push_async_callback(tables.close)
                await tables.open()
                catalog.use(tables)
        runner = AgnoRunner(
            catalog,
            store,
            pricer,
            model_timeout=settings.model_timeout,
            model_retries=settings.model_retries,
        )
        stack.push_async_callback(runner.close)
        signals: NoSignals | RedisSignals = NoSignals()
        if settings.redis_url is not None:
            try:
                signals = RedisSignals(settings.redis_url, store.description)
            except ValueError:  # its words may quote the password
                raise StartError("redis_url is not a URL of Redis (redis://host:6379/0)") from None
            await signals.open()
            stack.push_async_callback(signals.close)
        engine = Engine(
            catalog=catalog,
            runner=runner,
            store=store,
            pricer=pricer,
            max_runs=settings.max_runs,
            quotas=settings.quota_table(),
            flush_interval=settings.flush_interval,
            lease=settings.lease,
            signals=signals,
            poll_interval=settings.poll_interval,
            max_queued_runs=settings.max_queued_runs,
            pause_timeout=settings.pause_timeout,
            limits=_limits(settings),
            budgets=Budgets(
                store,
                pricer.currency,
                _budget_rules(settings),
                time_zone=settings.budget_time_zone,
                max_age=settings.budget_refresh,
            ),
            event_retention=timedelta(days=settings.event_retention_days),
            request_retention=timedelta(days=settings.request_retention_days),
            observer=telemetry,
        )
        await engine.open()
        stack.push_async_callback(engine.close)
        ring = KeyRing(store.keys) if "keys" in settings.auth else None
        with _told_to_operators():
            bearers = await asyncio.to_thread(gate.bearers, settings)
        fetcher = HttpFetcher(
            Hosts(settings.media_hosts, settings.media_private_hosts),
            max_bytes=settings.max_media_bytes,
            connect_timeout=settings.media_connect_timeout,
            timeout=settings.media_timeout,
        )
        stack.push_async_callback(fetcher.close)
        with _told_to_operators():
            server = GrpcServer(
                settings,
                engine=engine,
                catalog=catalog,
                store=store,
                view=AgnoMessageView(),
                inspector=SniffingInspector(settings.max_media_bytes),
                fetcher=fetcher,
                currency=pricer.currency,
                authenticator=Authenticator(ring, gate.certificates(settings), bearers),
                share_port=share_port,
                observer=telemetry,
            )
        if ring is not None:
            ring.listen(lambda ids: server.end_calls([f"key/{each}" for each in ids]))
            with _told_to_operators():
                await ring.open()
            stack.push_async_callback(ring.close)
        if bearers is not None:
            bearers.listen(server.end_calls)
            await bearers.open()
            stack.push_async_callback(bearers.close)
        if not (settings.auth or settings.is_local):
            logger.warning(
                "callers prove nothing, and anybody who reaches this address may run the agents",
                extra={"host": settings.host},
            )
        with _told_to_operators():
            metrics = ""
            if settings.metrics_port is not None:
                metrics = await telemetry.serve(settings.metrics_host, settings.metrics_port)
            port = await server.start()
        stack.push_async_callback(server.stop)
        info = ServerInfo(
            address=f"{settings.host}:{port}",
            agents=[agent.name for agent in catalog.agents()],
            database=store.description,
            currency=pricer.currency,
            access=gate.described(settings),
            metrics=metrics,
        )
        yield Server(info, engine, server)


def _telemetry(settings: Settings) -> "Telemetry":
    from dragoman.telemetry.telemetry import Telemetry

    return Telemetry(
        version("dragoman"),
        otlp_endpoint=settings.otlp_endpoint,
        otlp_headers=settings.otlp_metadata,
        sample_ratio=settings.trace_sample_ratio,
        service_name=settings.service_name,
    )


def _agno_tables(settings: Settings) -> "AgnoTables":
    """What agents that use agno_db() keep things in: tables of Agno's on the server's database."""
    from dragoman.agents.database import AgnoTables
    from dragoman.storage import shared

    connect = partial(
        shared,
        settings.database_url,
        connections=settings.database_connections,
        sqlite_synchronous=settings.sqlite_synchronous,
    )
    return AgnoTables(connect, threads=settings.database_connections)


def _limits(settings: Settings) -> Limits:
    duration = settings.max_run_duration
    return Limits(
        max_cost=settings.max_run_cost,
        max_total_tokens=settings.max_run_tokens,
        max_duration=None if duration is None else timedelta(seconds=duration),
    )


def _budget_rules(settings: Settings) -> "list[BudgetRule]":
    from dragoman.engine.ports import BudgetPeriod, BudgetRule

    return [
        BudgetRule(
            principal=budget.principal,
            agent_name=budget.agent,
            period=BudgetPeriod(budget.period),
            limit=budget.amount,
            time_zone=budget.time_zone or settings.budget_time_zone,
        )
        for budget in settings.budgets
    ]


@contextmanager
def _told_to_operators() -> Iterator[None]:
    """What can be wrong with a configuration, as a StartError."""
    from dragoman.auth import KeysUnusable
    from dragoman.blobs import BlobsUnusable
    from dragoman.catalog import CatalogError
    from dragoman.pricing import PriceFileError
    from dragoman.storage import DatabaseUnusable, SchemaOutdated
    from dragoman.telemetry import CannotServeMetrics
    from dragoman.transport import CannotListen, TlsUnusable

    try:
        yield
    except SchemaOutdated as error:
        raise StartError(f"{error}; run `dragoman migrate`, or start with --migrate") from error
    except StorageUnavailable as error:
        raise StartError("the database does not answer; see the log above for what it said") from error
    except (
        CatalogError,
        PriceFileError,
        DatabaseUnusable,
        CannotListen,
        TlsUnusable,
        BlobsUnusable,
        CannotServeMetrics,
        KeysUnusable,
    ) as error:
        raise StartError(str(error)) from error
