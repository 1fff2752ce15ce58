"""`dragoman migrate`: brings the database's schema to where this release needs it. Needs no server."""

from collections.abc import Callable
from typing import Annotated, TypeVar

import typer

from dragoman.cli._console import stdout
from dragoman.cli._report import FAILED, USAGE, Failure
from dragoman.cli._settings import DatabaseOption, LogLevelOption, load_settings

Result = TypeVar("Result")


def migrate(
    database_url: DatabaseOption = None,
    check: Annotated[
        bool, typer.Option("--check", help="Change nothing; exit with 1 when the schema is old.")
    ] = False,
    generate: Annotated[
        str,
        typer.Option(
            "--generate",
            metavar="MESSAGE",
            help="For developers: write a new revision from the tables in the code.",
        ),
    ] = "",
    log_level: LogLevelOption = None,
) -> None:
    """Brings the database's schema up to date. Several processes may do so at once.

    \b
    dragoman migrate
    dragoman migrate --database-url mysql+pymysql://user:password@db/dragoman
    dragoman migrate --check
    """
    if check and generate:
        raise Failure("--check and --generate do not go together", code=USAGE)
    settings = load_settings({"database_url": database_url, "log_level": log_level})
    from dragoman import storage
    from dragoman.telemetry import configure_logging

    configure_logging(settings.log_level, settings.log_format)
    console, url = stdout(), settings.database_url
    if check:
        state = _told(storage.schema_state, url)
        if not state.up_to_date:
            console.print(f"the schema is old: it is at {state.current or 'nothing'}, {state.head} is needed")
            raise typer.Exit(FAILED)
        console.print(f"the schema is up to date ({state.current})")
    elif generate:
        path = _told(lambda at: storage.generate_migration(at, generate), url)
        console.print(f"written: {path}; read it before you keep it")
    else:
        applied = _told(storage.migrate, url)
        console.print(f"applied: {', '.join(applied)}" if applied else "the schema is up to date")


def _told(work: Callable[[str], Result], url: str) -> Result:
    """What `work` returns; what it raises for the operator becomes a failure of the command."""
    try:
        return work(url)
    except (RuntimeError, ValueError) as error:
        raise Failure(str(error)) from error
