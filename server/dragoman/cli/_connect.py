"""What the commands that talk to a server share: the option that names it, the client, and an event loop."""

import asyncio
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias, TypeVar

import typer

if TYPE_CHECKING:
    from dragoman.client import Dragoman

Result = TypeVar("Result")

DEFAULT_SERVER = "127.0.0.1:50051"

PATIENCE = 2.0
"""Seconds that a server may take to answer for the first time."""

ServerOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--server", "-s", envvar="DRAGOMAN_SERVER", metavar="HOST:PORT", help="The server to talk to."
    ),
]

AllOwnersOption: TypeAlias = Annotated[
    bool, typer.Option("--all-owners", help="Everybody's, not yours alone: needs a key with the scope admin.")
]
PrincipalOption: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="With --all-owners: only this principal's.")
]
UserOption: TypeAlias = Annotated[
    str, typer.Option(metavar="NAME", help="With --all-owners: only for this user.")
]


def run(work: Coroutine[Any, Any, Result]) -> Result:
    """Runs a command's work on an event loop of its own."""
    return asyncio.run(work)


def connect(server: str) -> "Dragoman":
    """A client of `server`, to be opened with `async with`. gRPC is imported only now.

    Its API key, token and user are those of DRAGOMAN_API_KEY, DRAGOMAN_TOKEN and DRAGOMAN_USER; with DRAGOMAN_SERVER_CA it speaks TLS. A person
    waits: that no server answers is told soon, but a run that was begun is followed patiently.
    """
    from dragoman.client import Dragoman, RetryPolicy, Tls
    from dragoman.config import client_credentials, client_tls

    api_key, token, user = client_credentials()
    files = client_tls()
    return Dragoman(
        server,
        api_key=api_key,
        token=token,
        user=user,
        tls=Tls.from_files(*files) if any(files) else None,
        retry=RetryPolicy(start_patience=PATIENCE, call_patience=PATIENCE),
    )
