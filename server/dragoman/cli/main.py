"""The command tree of `dragoman`."""

from typing import Annotated

import typer

from dragoman.cli import (
    agents,
    budget,
    chat,
    demo,
    doctor,
    health,
    keys,
    media,
    migrate,
    prices,
    rates,
    reprice,
    runs,
    serve,
    usage,
)
from dragoman.cli._report import Commands

app = typer.Typer(
    cls=Commands,
    name="dragoman",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
app.command("serve")(serve.serve)
app.command("serve-worker", hidden=True)(serve.serve_worker)
app.command("migrate")(migrate.migrate)
app.command("doctor")(doctor.doctor)
app.command("health")(health.health)
app.add_typer(keys.app, name="keys")
app.add_typer(agents.app, name="agents")
app.command("chat")(chat.chat)
app.add_typer(runs.app, name="runs")
usage.app.command("reprice")(reprice.reprice)
app.add_typer(media.app, name="media")
app.add_typer(usage.app, name="usage")
app.command("budget")(budget.budget)
app.add_typer(prices.app, name="prices")
app.add_typer(rates.app, name="rates")
app.command("demo")(demo.demo)


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"dragoman {version('dragoman')}")
        raise typer.Exit


@app.callback()
def root(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Serves Agno agents over gRPC, with every message and every cent kept.

    \b
    dragoman agents check                       are my agents fit to be served?
    dragoman serve --agents shop.agents:agents  serve them
    dragoman doctor                             could a server do its work here?
    dragoman chat shop                          talk to one, from another terminal
    dragoman usage --by day,agent               what has it cost?
    dragoman prices check                       has every model of mine a price?
    dragoman demo                               see it all (in the repository)

    Exit codes: 0 done, 1 failed, 2 used wrongly.
    """


def main() -> None:
    """Runs the command line of this process."""
    app()
