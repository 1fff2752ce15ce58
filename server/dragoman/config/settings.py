"""All settings, with their defaults and what they mean: `docs/configuration.md` is made from this file."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, PydanticBaseSettingsSource, SettingsConfigDict

from dragoman import zones
from dragoman.config import sources
from dragoman.config.sections import (
    BudgetSettings,
    CertificateGrant,
    PrincipalQuotas,
    check_host,
    headers,
    is_loopback,
)
from dragoman.config.tokens import TokenSettings
from dragoman.quotas import QuotaRule, Quotas, QuotaTable

DEFAULT_PORT = 50051


class Settings(BaseSettings):
    """All settings of a server process. Frozen: what a process starts with, it ends with.

    To make them raises ConfigError, and ValidationError for values that are wrong.
    """

    model_config = SettingsConfigDict(env_prefix=sources.PREFIX, frozen=True, extra="forbid")

    # What is served
    agents: Annotated[tuple[str, ...], NoDecode] = ()
    """Agents to serve, as `module:attribute`; in the environment separated by commas. Installed entry points of the
    group `dragoman.agents` are served besides."""
    entry_points: bool = True
    """Whether agents of installed packages are served."""

    # Where
    host: str = "127.0.0.1"
    """Address to listen on. Others than loopback only with `auth`, or with `insecure`."""
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT
    """Port to listen on; 0 for a free one, which is logged."""

    # Who may call
    auth: Annotated[tuple[Literal["keys", "tokens", "certificates"], ...], NoDecode] = ()
    """How callers prove who they are: `keys` (API keys, made by `dragoman keys create`), `tokens` (of issuers that `tokens`
    names), `certificates` (of TLS clients).
    Any one will do; who brings several must be the same by all. Empty: not at all; everybody is the principal `local`, and
    the server listens on loopback only."""
    tls_cert: Path | None = None
    """PEM file with the server's certificate and its chain; with `tls_key`, connections are TLS. Replaced files are noticed."""
    tls_key: Path | None = None
    """PEM file with the certificate's key, unencrypted."""
    tls_client_ca: Path | None = None
    """PEM file with the authorities of clients: who brings no certificate of theirs gets no connection."""
    certificates: tuple[CertificateGrant, ...] = ()
    """For `auth = ["certificates"]`: which certificates are whose (see docs/access.md). The first that fits counts."""
    tokens: tuple[TokenSettings, ...] = ()
    """For `auth = ["tokens"]`: whose bearer tokens are taken, and what their claims mean (see docs/access.md)."""
    insecure: bool = False
    """Listen on any address although callers prove nothing. For networks in which something else keeps strangers out."""

    # Processes
    workers: Annotated[int, Field(ge=1, le=256)] = 1
    """Processes that serve on the port together; each has its own runs and its own connections to the database."""

    # Storage
    database_url: str = Field(default="sqlite:///dragoman.db", repr=False)
    """SQLAlchemy URL: `sqlite:///file.db`, `mysql+pymysql://user:password@host/name`."""
    database_connections: Annotated[int, Field(ge=1, le=64)] = 4
    """Connections (and threads) to MySQL or MariaDB."""
    sqlite_synchronous: Literal["FULL", "NORMAL"] = "FULL"
    """FULL: nothing is lost at power loss. NORMAL: faster, the last transactions may be."""

    media_store: str = Field(default="database", repr=False)
    """Where media are kept: `database`, `file:///folder`, or `s3://bucket/prefix?endpoint=http://host:9000&region=...` (with
    credentials where S3's own tools look for them). Media that are in the database already stay there."""

    # Money
    currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] = "ZAR"
    """The reporting currency, ISO 4217."""
    prices_file: Path | None = None
    """TOML with prices that win over the price library's."""
    rates_file: Path | None = None
    """TOML with exchange rates by date, instead of those that are shipped."""

    max_rate_age_days: Annotated[int, Field(ge=1)] | None = None
    """Warn when the newest exchange rate is older than so many days."""
    budgets: Annotated[tuple[BudgetSettings, ...], NoDecode] = ()
    """What principals and agents may spend in a day or a month; in the environment as JSON."""
    budget_time_zone: str = "UTC"
    """Whose days and months budgets mean that name no `time_zone`: an IANA name."""
    budget_refresh: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """Seconds after which what other processes have spent is known here."""

    # Runs
    max_runs: Annotated[int, Field(ge=1)] = 1000
    """Concurrent runs in this process; more are refused."""
    flush_interval: Annotated[float, Field(ge=0, le=1)] = 0.025
    """Seconds within which text deltas are joined; 0 sends each."""
    heartbeat_interval: Annotated[float, Field(gt=0)] = 15.0
    """Seconds of silence on a stream after which a heartbeat is sent."""
    drain_delay: Annotated[float, Field(ge=0)] = 0.0
    """Seconds between the first NOT_SERVING of a server that is told to stop and its drain, during which it still takes calls:
    as long as balancers take to notice. Where they learn of the end otherwise (Kubernetes with a preStop pause), 0."""
    drain_grace: Annotated[float, Field(ge=0)] = 30.0
    """Seconds that runs have to finish when the server is told to stop."""
    lease: Annotated[float, Field(ge=1)] = 30.0
    """Seconds after which a run whose process is silent counts as abandoned."""
    poll_interval: Annotated[float, Field(ge=0.05, le=0.5)] = 0.25
    """Seconds between two looks into the database for what other processes did: events of their runs, cancels, turns."""
    max_queued_runs: Annotated[int, Field(ge=0)] = 16
    """Runs that may wait for one session; more are refused."""
    pause_timeout: Annotated[float, Field(ge=1)] = 24 * 3600.0
    """Seconds after which a paused run that nobody continues is cancelled."""
    max_run_cost: Annotated[Decimal, Field(gt=0)] | None = None
    """Cost, in the reporting currency, at which any run is ended."""
    max_run_tokens: Annotated[int, Field(gt=0)] | None = None
    """Tokens, of all kinds, at which any run is ended."""
    max_run_duration: Annotated[float, Field(gt=0)] | None = None
    """Seconds of running after which any run is ended."""
    event_retention_days: Annotated[float, Field(gt=0)] = 7.0
    """Days for which the events of a run that has ended can be attached to. Messages and the ledger stay."""
    request_retention_days: Annotated[float, Field(gt=0)] = 7.0
    """Days for which a request id is remembered."""

    # Limits: docs/limits.md tells how to choose them
    max_streams: Annotated[int, Field(ge=1)] = 5000
    """Open streams in this process; more are refused."""
    max_runs_per_principal: Annotated[int, Field(ge=1)] | None = None
    """Concurrent runs of one principal in this process; without it what the server has left."""
    max_streams_per_principal: Annotated[int, Field(ge=1)] | None = None
    """Open streams of one principal in this process; without it what the server has left."""
    request_rate: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    """Calls a second of all callers together that this process takes, lastingly; 0 or nothing: any number."""
    request_burst: Annotated[int, Field(ge=1)] | None = None
    """Calls at once, after a rest; without it what two seconds bring."""
    request_rate_per_principal: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 1000.0
    """Calls a second of one principal that this process takes, lastingly; 0: any number."""
    request_burst_per_principal: Annotated[int, Field(ge=1)] | None = None
    """Calls at once of one principal, after a rest; without it what two seconds bring."""
    quotas: Annotated[tuple[PrincipalQuotas, ...], NoDecode] = ()
    """Other figures for some principals; in the environment as JSON."""

    # Limits of connections, kept by gRPC itself: its refusals have no details
    max_metadata_bytes: Annotated[int, Field(ge=1024, le=1024 * 1024)] = 16 * 1024
    """Largest metadata of a call, names and values and 32 bytes for each together; credentials are among them."""
    max_connections: Annotated[int, Field(ge=1)] = 10_000
    """Open connections of this process; more are closed at once. Each takes a file descriptor (`ulimit -n`)."""
    max_calls_per_connection: Annotated[int, Field(ge=1)] = 2000
    """Open calls on one connection; further ones wait at the client until another ends."""
    max_connection_age: Annotated[float, Field(ge=0)] = 1800.0
    """Seconds after which a connection takes no new calls, so that clients connect anew and balancers can spread them; a tenth
    more or less. 0: never."""
    max_connection_age_grace: Annotated[float, Field(ge=0)] = 0.0
    """Seconds that open calls have to end on a connection that is so old; then they end UNAVAILABLE, and clients attach to
    their runs again. 0: as long as they take."""
    max_connection_idle: Annotated[float, Field(ge=0)] = 0.0
    """Seconds without any call after which a connection is closed. 0: never."""

    # Other processes
    redis_url: str | None = Field(default=None, repr=False)
    """`redis://host:6379/0`: processes tell each other at once what they otherwise find in the database a moment later.
    Optional; without an answer from it everything works, at the pace of poll_interval."""

    # Models
    model_timeout: Annotated[float, Field(gt=0)] = 120.0
    """Seconds of silence of a model provider after which a call fails."""
    model_retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often the provider's client retries a refused request (429, 5xx, no connection)."""

    # Transport
    health_interval: Annotated[float, Field(ge=0.1, le=60)] = 2.0
    """Seconds between two questions to the database whether it answers. Without two answers in a row health says
    NOT_SERVING."""
    max_receive_bytes: Annotated[int, Field(ge=1024)] = 32 * 1024 * 1024
    """Largest request."""
    max_send_bytes: Annotated[int, Field(ge=1024)] = 64 * 1024 * 1024
    """Largest response message."""
    max_media_bytes: Annotated[int, Field(ge=1)] = 20 * 1024 * 1024
    """Largest single medium."""
    media_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Hosts whose media callers may name by URL, for us to fetch: `images.example.com`, `*.example.com` (hosts below it),
    `files.example.com:8443` (else ports 80 and 443), `*` (any). Their addresses must be public. Empty: no URLs. In the
    environment separated by commas."""
    media_private_hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """Likewise hosts that may have private addresses, such as `minio.internal:9000`. Each is named in full."""
    media_connect_timeout: Annotated[float, Field(gt=0, le=60)] = 5.0
    """Seconds to connect to a host of media."""
    media_timeout: Annotated[float, Field(gt=0, le=600)] = 30.0
    """Seconds to fetch a medium, redirects included."""
    keepalive_time: Annotated[float, Field(ge=1)] = 60.0
    """Seconds of silence after which the server pings a client."""
    keepalive_timeout: Annotated[float, Field(ge=1)] = 20.0
    """Seconds that a client has to answer a ping."""
    min_client_ping_interval: Annotated[float, Field(ge=0)] = 5.0
    """Clients that ping more often are disconnected."""

    # Hostile connections (docs/hardening.md)
    handshake_timeout: Annotated[float, Field(ge=0.1, le=120)] = 10.0
    """Seconds that a client has to come through TLS and the beginning of HTTP/2; then it is disconnected."""
    accept_compressed: bool = False
    """Whether requests may be compressed: then 30 KB on the wire may be 30 MB in memory."""

    # Telemetry (docs/telemetry.md)
    metrics_port: Annotated[int, Field(ge=0, le=65535)] | None = None
    """Port of `GET /metrics` for Prometheus; 0 for a free one, which is logged. Of several workers the first has this one,
    the second the next, and so on. None: there are none."""
    metrics_host: str = "127.0.0.1"
    """Address of it. Others than loopback are for scrapers: nobody is asked who he is, and there is nothing but figures."""
    otlp_endpoint: Annotated[str, Field(pattern=r"^https?://[^\s/@]+$")] | None = None
    """Where traces go: an OpenTelemetry collector that takes OTLP over gRPC, `http://collector:4317` or `https://...`. None:
    there are none."""
    otlp_headers: str = Field(default="", repr=False)
    """What is sent along to it, such as credentials: `name=value,name=value`."""
    trace_sample_ratio: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Of how many calls without a `traceparent` there are traces; of those with one their caller has decided."""
    service_name: Annotated[str, Field(min_length=1, max_length=128)] = "dragoman"
    """By which name traces know this service."""

    # Logs
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """From which level on log lines are written. DEBUG also shows what Agno and providers say of failures, which may quote what was said."""
    log_format: Literal["auto", "json", "text"] = "auto"
    """`auto`: text on a terminal, JSON elsewhere."""

    @field_validator("agents", "auth", "media_hosts", "media_private_hosts", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("media_hosts", "media_private_hosts")
    @classmethod
    def _known_hosts(cls, value: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        for host in value:
            check_host(host, wildcards=info.field_name == "media_hosts")
        return value

    @field_validator("budgets", "quotas", mode="before")
    @classmethod
    def _decode(cls, value: object, info: ValidationInfo) -> object:
        if not isinstance(value, str):
            return value
        try:
            return json.loads(value, parse_float=Decimal) if value.strip() else ()
        except ValueError as error:
            raise ValueError(f"must be JSON, a list of {info.field_name}: {error}") from error

    @field_validator("budget_time_zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        zones.zone(value)
        return value

    @field_validator("port", mode="before")
    @classmethod
    def _not_a_service_link(cls, value: object) -> object:
        return DEFAULT_PORT if isinstance(value, str) and value.startswith("tcp://") else value

    @model_validator(mode="after")
    def _fail_closed(self) -> Self:
        if not (self.is_local or self.auth or self.insecure):
            raise ValueError(
                f"host: callers prove nothing, so {self.host} cannot be listened on: set auth (`keys`), "
                "listen on loopback (127.0.0.1, ::1 or localhost), or say --insecure"
            )
        return self

    @field_validator("otlp_headers")
    @classmethod
    def _pairs(cls, value: str) -> str:
        headers(value)
        return value

    @model_validator(mode="after")
    def _metrics_ports(self) -> Self:
        if self.metrics_port is not None and self.metrics_port + self.workers - 1 > 65535:
            raise ValueError(
                f"metrics_port: {self.workers} workers need as many ports from {self.metrics_port} on"
            )
        return self

    @model_validator(mode="after")
    def _tls_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key go together")
        if self.tls_client_ca is not None and self.tls_cert is None:
            raise ValueError("tls_client_ca needs tls_cert and tls_key")
        if "certificates" in self.auth and self.tls_client_ca is None:
            raise ValueError("auth by certificates needs tls_client_ca")
        if "tokens" in self.auth and not self.tokens:
            raise ValueError("auth by tokens needs `tokens`, which say whose are taken")
        if "certificates" in self.auth and not self.certificates:
            raise ValueError("auth by certificates needs `certificates`, which say whose they are")
        return self

    def quota_table(self) -> QuotaTable:
        """How much each principal may do in this process."""
        everybody = Quotas(
            max_runs=self.max_runs_per_principal,
            max_streams=self.max_streams_per_principal,
            request_rate=self.request_rate_per_principal,
            request_burst=self.request_burst_per_principal,
        )
        return QuotaTable(everybody, [QuotaRule(each.principal, each.quotas()) for each in self.quotas])

    def server_quotas(self) -> Quotas:
        """How much all callers together may do in this process."""
        return Quotas(self.max_runs, self.max_streams, self.request_rate, self.request_burst)

    @property
    def otlp_metadata(self) -> dict[str, str]:
        """`otlp_headers`, taken apart."""
        return headers(self.otlp_headers)

    @property
    def is_local(self) -> bool:
        """Whether it listens on loopback only."""
        return self.host == "localhost" or is_loopback(self.host)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Flags, environment, files of secrets, TOML file. Raises ConfigError."""
        sources.refuse_unknown_variables(settings_cls)
        return (
            init_settings,
            env_settings,
            sources.SecretFiles(settings_cls),
            sources.toml_source(settings_cls),
        )
