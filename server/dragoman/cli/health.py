"""`dragoman health`: whether a server serves, for people, container engines and scripts."""

from typing import Annotated

import typer

from dragoman.cli._connect import DEFAULT_SERVER, ServerOption, connect, run
from dragoman.cli._console import clean, stdout
from dragoman.cli._report import FAILED


def health(
    server: ServerOption = DEFAULT_SERVER,
    service: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="A service, such as dragoman.v1.RunService; `liveness` for whether the process lives; "
            "empty for the server as a whole.",
        ),
    ] = "",
) -> None:
    """Asks a server whether it serves. Needs no key. Exit code 0 when it does, 1 when it does not or does not answer.

    \b
    dragoman health
    dragoman health --service liveness
    """
    status = run(_status(server, service))
    stdout().print(clean(status))
    if status != "SERVING":
        raise typer.Exit(FAILED)


async def _status(server: str, service: str) -> str:
    async with connect(server) as client:
        return await client.check_health(service)
