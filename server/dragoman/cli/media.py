"""`dragoman media`: media that came with messages or were made by runs. A client of a running server."""

from pathlib import Path
from typing import IO, Annotated

import typer

from dragoman.cli import _connect
from dragoman.cli._connect import DEFAULT_SERVER, ServerOption
from dragoman.cli._console import stderr

app = typer.Typer(no_args_is_help=True, help="Fetch media of sessions.")


@app.callback()
def media() -> None:
    """Fetch media of sessions."""


@app.command()
def get(
    media_id: Annotated[
        str, typer.Argument(metavar="ID", help="The medium's id, as messages and events name it.")
    ],
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where to write it; - for standard output.")
    ] = "-",
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Writes a medium to a file, which appears when it is whole.

    \b
    dragoman media get 1b4f0e9851971998e732078544c96b36c3d01cedf7caa332359d6f1d83567014 -o picture.png
    """
    if output == "-":
        stream = typer.get_binary_stream("stdout")
        _connect.run(_fetch(server, media_id, stream))
        stream.flush()
        return
    part = Path(f"{output}.part")
    try:
        with part.open("wb") as file:
            size = _connect.run(_fetch(server, media_id, file))
        part.replace(output)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    stderr().print(f"{output}: {size} bytes", style="dim")


async def _fetch(server: str, media_id: str, file: IO[bytes]) -> int:
    size = 0
    async with _connect.connect(server) as client:
        async for piece in client.get_media(media_id):
            size += file.write(piece)
    return size
