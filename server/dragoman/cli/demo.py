"""`dragoman demo`: everything once, for real, and checked.

Starts a server with the example agents as a process of its own (SQLite in a temporary directory, a free port), then is
nothing but a client of it: what is shown came over gRPC. Each section notes what must be so; the command ends with 0
only when all of it was. The agents use Claude when ANTHROPIC_API_KEY is set, else a model that needs no network.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._checks import Checks
from dragoman.cli._connect import connect, run
from dragoman.cli._console import clean, stderr, stdout
from dragoman.cli._report import FAILED, Failure, report
from dragoman.cli._server_process import ServerFailed, server_process, tail

if TYPE_CHECKING:
    from dragoman.cli._sections import Section

EXAMPLES = Path("examples/agents.py")
AGENTS = "examples.agents:agents"


def demo(
    server: Annotated[
        str,
        typer.Option(
            "--server", metavar="HOST:PORT", help="Use a running server with the example agents instead."
        ),
    ] = "",
) -> None:
    """Shows and checks a whole conversation with the example agents, from a server of its own. Takes seconds.

    Run it where the examples are: in the root of the repository.

    \b
    dragoman demo
    """
    if not server and not EXAMPLES.is_file():
        raise Failure(
            f"there is no {EXAMPLES} here", hint="Run the demo in the root of the repository.", code=2
        )
    from dragoman.config import has_model_key

    model = "Claude" if has_model_key() else "the offline model (no key, no network)"
    stdout().print(f"The example agents use {model}.", style="dim")
    if not (_play(server) if server else _with_own_server()):
        raise typer.Exit(FAILED)


def _with_own_server() -> bool:
    console = stdout()
    with tempfile.TemporaryDirectory(prefix="dragoman-demo-") as name:
        directory = Path(name)
        try:
            with server_process(serve_arguments(directory), directory) as process:
                console.print(
                    f"A server is running as process {process.pid} at {process.address}.", style="dim"
                )
                passed = _play(process.address)
                if not passed:
                    _show_log(tail(process.log))
        except ServerFailed as error:
            _show_log(error.log)
            raise Failure(str(error)) from error
    console.print(f"Process {process.pid} was told to stop and ended with 0.", style="dim")
    return passed


def _play(server: str) -> bool:
    from dragoman.cli._sections import SECTIONS

    return run(play(server, SECTIONS))


def serve_arguments(directory: Path) -> list[str]:
    """How the demo's server is started: on loopback, on a free port, with a database that goes with `directory`."""
    arguments = ["--agents", AGENTS, "--no-entry-points", "--host", "127.0.0.1", "--port", "0"]
    return [*arguments, "--database-url", f"sqlite:///{directory / 'demo.db'}", "--log-format", "json"]


async def play(server: str, sections: "Sequence[tuple[str, Section]]") -> bool:
    """Plays the sections in order against `server` and shows the checks. A section that fails does not stop the next.

    Returns whether all checks hold.
    """
    from dragoman.cli._stage import Stage

    console, checks = stdout(), Checks()
    async with connect(server) as client:
        stage = Stage(client, console, checks)
        for number, (title, section) in enumerate(sections, 1):
            console.print()
            console.rule(f"{number}. {title}", align="left", style="bold")
            checks.section = title
            try:
                await section(stage)
            except Exception as error:  # noqa: BLE001 -- told, and counted as a failed check
                report(error)
                checks.that("runs through", False, type(error).__name__)
    console.print()
    console.rule("What was checked", align="left", style="bold")
    checks.show(console)
    return checks.passed


def _show_log(log: str) -> None:
    console = stderr()
    console.print("\nThe end of the server's log:", style="bold")
    for line in log.splitlines():
        console.print(f"  {clean(line)}", style="dim")
