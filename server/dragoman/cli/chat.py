"""`dragoman chat`: a conversation with an agent, line by line.

A line is a message; a line that begins with a slash is a command. Ctrl-C while an answer is written cancels the run
and keeps the conversation; at the prompt, it ends the chat as Ctrl-D and /quit do. Lines also come from a pipe: then
nothing is prompted for, and the exit code tells whether every run completed.
"""

import asyncio
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._connect import DEFAULT_SERVER, ServerOption, connect
from dragoman.cli._console import amount_text, clean, stdout
from dragoman.cli._report import FAILED, is_debug, report
from dragoman.cli._values import inputs

if TYPE_CHECKING:
    from dragoman.client import Dragoman, RunResult
    from dragoman.v1.message_pb2 import MediaInput

HELP = "/new begins a new session · /history shows this one · /quit ends (as does Ctrl-D)"


def chat(
    ctx: typer.Context,
    agent: Annotated[str, typer.Argument(help="The agent to talk to.")],
    server: ServerOption = DEFAULT_SERVER,
    session: Annotated[
        str, typer.Option(metavar="ID", help="Go on in this session instead of a new one.")
    ] = "",
    image: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A picture for the first message; may be repeated."),
    ] = None,
    input_: Annotated[
        list[str] | None,
        typer.Option(
            "--input", "-i", metavar="KEY=VALUE", help="Input of every run, JSON or text; may be repeated."
        ),
    ] = None,
    session_input: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Input of a new session, JSON or text; may be repeated."),
    ] = None,
) -> None:
    """Talks to an agent, showing what it does: text, reasoning, tools, tokens and cost.

    \b
    dragoman chat example
    dragoman chat example --input tone=formal --session-input language=German
    dragoman chat vision --image examples/data/ozymandias.png
    echo "What is 6 * 7?" | dragoman chat toolbox
    """
    from dragoman.client import image as read_image

    client = connect(server)
    conversation = Conversation(
        client,
        agent,
        session=session,
        media=[read_image(path) for path in image or []],
        run_inputs=inputs(input_ or [], "--input"),
        session_inputs=inputs(session_input or [], "--session-input"),
    )
    with asyncio.Runner() as runner:
        runner.run(client.__aenter__())
        try:
            whole = _converse(conversation, runner, sys.stdin.isatty(), debug=is_debug(ctx))
        finally:
            runner.run(client.__aexit__(None, None, None))
    if not whole:
        raise typer.Exit(FAILED)


class Conversation:
    """One chat: the session it is in, what every run is given, and what all turns came to."""

    def __init__(
        self,
        client: "Dragoman",
        agent: str,
        *,
        session: str = "",
        media: "list[MediaInput] | None" = None,
        run_inputs: Mapping[str, object] | None = None,
        session_inputs: Mapping[str, object] | None = None,
    ) -> None:
        self.client = client
        self.agent = agent
        self.session = session
        self._media = media or []
        self._run_inputs = run_inputs
        self._session_inputs = session_inputs
        self._console = stdout()
        self._tokens = 0
        self._amount = Decimal(0)
        self._turns = 0

    async def say(self, text: str) -> bool:
        """One turn: sends a message and shows the run to its end. Returns whether it completed."""
        from dragoman.cli._printer import EventPrinter
        from dragoman.v1 import event_pb2

        if not self.session and self._session_inputs is not None:
            made = await self.client.create_session(self.agent, inputs=self._session_inputs)
            self.session = made.id
        media, self._media = self._media, []
        printer = EventPrinter(self._console)
        stream = self.client.run(self.agent, text, session=self.session, media=media, inputs=self._run_inputs)
        try:
            async with stream:
                async for event in stream:
                    printer.show(event)
        except asyncio.CancelledError:
            printer.finish()
            if stream.run_id:
                await self._cancel(stream.run_id)
            raise
        finally:
            printer.finish()
            self.session = stream.session_id or self.session
        self._add(stream.result)
        return isinstance(stream.result, event_pb2.RunCompleted)

    async def history(self) -> None:
        """Shows the session's messages."""
        from dragoman.cli._messages import show_message

        if not self.session:
            self._console.print("nothing has been said yet", style="dim")
            return
        async for message in self.client.list_messages(self.session, include_members=True):
            show_message(self._console, message)

    def begin_anew(self) -> None:
        """The next message begins a new session."""
        self.session = ""
        self._console.print("a new session begins with the next message", style="dim")

    async def _cancel(self, run_id: str) -> None:
        run = await asyncio.shield(self.client.cancel_run(run_id, note="cancelled in the chat"))
        self._console.print(f"run {run.id} cancelled", style="yellow")

    def _add(self, result: "RunResult") -> None:
        self._turns += 1
        self._tokens += result.usage.total_tokens
        self._amount += Decimal(result.cost.exact_amount or 0)
        if self._turns > 1:
            total = amount_text(self._amount, result.cost.amount.currency_code)
            self._console.print(f"{self._turns} turns · {self._tokens:,} tokens · {total}", style="dim")


def _converse(conversation: Conversation, runner: asyncio.Runner, terminal: bool, *, debug: bool) -> bool:
    """Reads lines until there are no more. Returns whether every turn completed (always true on a terminal)."""
    console = stdout()
    if terminal:
        console.print(f"You are talking to {clean(conversation.agent)}. {HELP}", style="dim")
    whole = True
    while (line := _read(terminal)) is not None:
        text = line.strip()
        if text == "/quit":
            break
        if not text:
            continue
        whole = _turn(conversation, runner, text, debug=debug) and whole
    if conversation.session:
        console.print(f"session {conversation.session}", style="dim")
    return whole or terminal


def _turn(conversation: Conversation, runner: asyncio.Runner, text: str, *, debug: bool) -> bool:
    """One line. A failure is told, and the chat goes on."""
    commands: Mapping[str, Callable[[], object]] = {
        "/new": conversation.begin_anew,
        "/history": lambda: runner.run(conversation.history()),
    }
    try:
        if text in commands:
            commands[text]()
            return True
        if text.startswith("/"):
            stdout().print(HELP, style="dim")
            return False
        return runner.run(conversation.say(text))
    except KeyboardInterrupt:
        return False
    except Exception as error:
        if debug:
            raise
        report(error)
        return False


def _read(terminal: bool) -> str | None:
    """The next line; None when there are no more."""
    if not terminal:
        return sys.stdin.readline() or None
    try:
        return input("> ")
    except (EOFError, KeyboardInterrupt):
        stdout().print()
        return None
