"""What the commands that talk to a server share: the option that names it, the client, and an event loop."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer

if TYPE_CHECKING:
    from dragoman.client import Dragoman

Result = TypeVar("Result")

DEFAULT_SERVER = "127.0.0.1:50051"

ServerOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--server", "-s", envvar="DRAGOMAN_SERVER", metavar="HOST:PORT", help="The server to talk to."
    ),
]


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a command's work on an event loop of its own."""
    return asyncio.run(work)


def connect(server: str) -> "Dragoman":
    """A client of `server`, to be opened with `async with`. gRPC is imported only now."""
    from dragoman.client import Dragoman

    return Dragoman(server)
