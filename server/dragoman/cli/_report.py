"""From an error to what a person reads: a sentence, its reason, and a line for each field.

A command raises Failure for what it knows itself; what the server says arrives as the client's DragomanError. All else
is a defect of ours and says so. Tracebacks are shown with `--debug` only.
"""

from typing import Any

import typer
from typer.core import TyperGroup

from dragoman.cli._console import clean, hang_up, stderr

FAILED = 1
USAGE = 2


class Failure(Exception):
    """A command cannot do what was asked. The text is for the person who asked; `code` is the exit code."""

    def __init__(self, message: str, *, hint: str = "", code: int = FAILED) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.code = code


class Commands(TyperGroup):
    """The root of the command tree: every error of every command passes through here."""

    def invoke(self, ctx: Any) -> Any:
        """Runs the command; an error ends the process with a sentence and a code."""
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort, typer.TyperException):
            raise
        except BrokenPipeError:  # of standard output: those of connections arrive as errors of the client
            hang_up()
        except Exception as error:
            if is_debug(ctx):
                raise
            raise typer.Exit(report(error)) from error


def is_debug(ctx: Any) -> bool:
    """Whether tracebacks are asked for, seen from the context of any command."""
    return bool(ctx.find_root().params.get("debug"))


def report(error: Exception) -> int:
    """Prints an error to standard error and returns the exit code."""
    from dragoman.client import DragomanError, Unavailable

    console = stderr()
    if isinstance(error, Failure):
        console.print(f"error: {clean(error.message)}", style="red")
        if error.hint:
            console.print(clean(error.hint), style="dim")
        return error.code
    if isinstance(error, Unavailable) and not error.reason:  # gRPC's own: no server said so
        console.print("error: no server answers, or the connection to it was lost", style="red")
        console.print(
            "Start one with `dragoman serve`, or name another with --server HOST:PORT.", style="dim"
        )
        console.print(f"({clean(error.message)})", style="dim")
        return FAILED
    if isinstance(error, DragomanError):
        console.print(f"error: {clean(str(error))}", style="red")
        lines = [f"{violation.field}: {violation.description}" for violation in error.violations]
        if lines != [error.message]:  # a single one is the sentence itself
            for line in lines:
                console.print(f"  {clean(line)}")
        if error.retry_after is not None:
            console.print(f"it may work in {error.retry_after:g} s", style="dim")
        return FAILED
    if isinstance(error, OSError) and error.filename is not None:
        console.print(f"error: {error.filename}: {error.strerror}", style="red")
        return FAILED
    name = type(error).__name__
    console.print(
        f"error: this should not happen ({name}); `dragoman --debug ...` shows the traceback", style="red"
    )
    return FAILED
