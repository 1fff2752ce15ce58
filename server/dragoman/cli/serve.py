"""`dragoman serve`: a server in this process, or in several, until SIGTERM or SIGINT."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dragoman.cli._console import clean, stdout
from dragoman.cli._report import FAILED, Failure
from dragoman.cli._settings import DatabaseOption, LogLevelOption, load_settings
from dragoman.cli._values import pairs

if TYPE_CHECKING:
    from dragoman.app import ServerInfo
    from dragoman.config import Settings


Agents: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--agents", "-a", metavar="MODULE:ATTRIBUTE", help="Agents to serve; may be repeated."),
]
EntryPoints: TypeAlias = Annotated[
    bool | None,
    typer.Option("--entry-points/--no-entry-points", help="Also serve agents of installed packages."),
]
Host: TypeAlias = Annotated[
    str | None,
    typer.Option(help="Address to listen on; others than loopback need --auth.", show_default="127.0.0.1"),
]
Port: TypeAlias = Annotated[
    int | None, typer.Option(help="Port to listen on; 0 for a free one.", show_default="50051")
]
Migrate: TypeAlias = Annotated[
    bool, typer.Option("--migrate", help="Bring an old database schema up to date first.")
]
Currency: TypeAlias = Annotated[
    str | None, typer.Option(metavar="ISO", help="Currency of costs.", show_default="ZAR")
]
PricesFile: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="TOML", help="Prices that win over the built-in ones.")
]
RatesFile: TypeAlias = Annotated[
    Path | None, typer.Option(metavar="TOML", help="Exchange rates instead of the built-in ones.")
]
MaxRuns: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="Concurrent runs at most.", show_default="1000")
]
LogFormat: TypeAlias = Annotated[
    str | None, typer.Option(metavar="FORM", help="auto, json or text.", show_default="auto")
]
Setting: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting; may be repeated."),
]
ReadyFile: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Write the address here once calls are accepted."),
]


Auth: TypeAlias = Annotated[
    list[str] | None,
    typer.Option("--auth", metavar="KIND", help="How callers prove who they are: keys."),
]
Insecure: TypeAlias = Annotated[
    bool | None,
    typer.Option("--insecure", help="Listen on any address although callers prove nothing."),
]
Workers: TypeAlias = Annotated[
    int | None, typer.Option(metavar="N", help="Processes that serve on the port together.", show_default="1")
]


def serve(
    agents: Agents = None,
    entry_points: EntryPoints = None,
    host: Host = None,
    port: Port = None,
    auth: Auth = None,
    insecure: Insecure = None,
    workers: Workers = None,
    database_url: DatabaseOption = None,
    migrate: Migrate = False,
    currency: Currency = None,
    prices_file: PricesFile = None,
    rates_file: RatesFile = None,
    max_runs: MaxRuns = None,
    log_level: LogLevelOption = None,
    log_format: LogFormat = None,
    setting: Setting = None,
    ready_file: ReadyFile = None,
) -> None:
    """Serves agents until it is told to stop (SIGTERM or Ctrl-C); a second time ends running runs at once.

    What no flag says comes from DRAGOMAN_<SETTING> in the environment, then from dragoman.toml.

    \b
    dragoman serve --agents shop.agents:agents
    dragoman serve -a shop.agents:agents -a desk/agents.py:desk --port 6000
    dragoman serve --database-url mysql+pymysql://user:password@db/dragoman --migrate
    dragoman serve --host 0.0.0.0 --auth keys
    dragoman serve --workers 4 --database-url mysql+pymysql://user:password@db/dragoman
    dragoman serve --set heartbeat_interval=5 --set drain_grace=10
    """
    settings = load_settings(
        {
            "agents": agents,
            "entry_points": entry_points,
            "host": host,
            "port": port,
            "auth": auth,
            "insecure": insecure,
            "workers": workers,
            "database_url": database_url,
            "currency": currency,
            "prices_file": prices_file,
            "rates_file": rates_file,
            "max_runs": max_runs,
            "log_level": log_level,
            "log_format": log_format,
            **pairs(setting or [], "--set"),
        }
    )
    from dragoman import app, process
    from dragoman.telemetry import configure_logging

    configure_logging(settings.log_level, settings.log_format)

    def started(info: "ServerInfo") -> None:
        announce(info)
        if ready_file is not None:
            write_ready(ready_file, info.address)

    try:
        if settings.workers == 1:
            process.run(settings, migrate=migrate, started=started)
        else:
            _serve_together(settings, migrate=migrate, started=started)
    except app.StartError as error:
        raise Failure(str(error)) from error


def _serve_together(settings: "Settings", *, migrate: bool, started: Callable[["ServerInfo"], None]) -> None:
    from dragoman import storage
    from dragoman.cli import _workers

    if storage.is_private(settings.database_url):
        raise Failure("workers share their database: one in memory cannot be shared")
    if migrate:
        try:
            storage.migrate(settings.database_url)
        except (RuntimeError, ValueError) as error:
            raise Failure(str(error)) from error
    try:
        _workers.supervise(settings, started=started)
    except _workers.WorkersFailed as error:
        raise typer.Exit(error.code if error.code > 0 else FAILED) from error


def serve_worker(number: int, ready: int) -> None:
    """One of several processes; started by `serve --workers`, which gives it its settings. Not for people."""
    from dragoman import app, process
    from dragoman.cli import _workers
    from dragoman.telemetry import configure_logging

    settings = _workers.settings_of(number, _workers.settings_from(sys.stdin.fileno()))
    configure_logging(settings.log_level, settings.log_format, worker=number)
    try:
        process.run(settings, share_port=True, started=lambda info: _workers.say_ready(ready, info))
    except app.StartError as error:
        raise Failure(str(error)) from error


def announce(info: "ServerInfo") -> None:
    """Says what is being served, where, and to whom."""
    console = stdout()
    console.print(f"Dragoman is listening on {info.address}", style="bold green")
    console.print(f"  agents    {', '.join(map(clean, info.agents)) or 'none: name some with --agents'}")
    console.print(f"  database  {clean(info.database)}")
    console.print(f"  currency  {info.currency}")
    console.print(f"  access    {info.access}", style=None if "key" in info.access else "yellow")
    if info.metrics:
        console.print(f"  metrics   http://{info.metrics}/metrics")


def write_ready(path: Path, address: str) -> None:
    """Writes the address whole: whoever waits for the file never reads half of it."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(f"{address}\n", encoding="utf-8")
    part.replace(path)
