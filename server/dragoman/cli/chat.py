"""`dragoman chat`: a conversation with an agent, line by line.

A line is a message; a line that begins with a slash is a command. Ctrl-C while an answer is written cancels the run
and keeps the conversation; at the prompt, it ends the chat as Ctrl-D and /quit do. When a run waits for somebody, its
questions are asked and the answers sent; Ctrl-C then cancels the run. Lines also come from a pipe: then nothing is
prompted for, and the exit code tells whether every run completed.
"""

import asyncio
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._connect import DEFAULT_SERVER, ServerOption, connect
from dragoman.cli._console import amount_text, clean, stdout
from dragoman.cli._report import FAILED, USAGE, Failure, is_debug, report
from dragoman.cli._values import inputs

if TYPE_CHECKING:
    from dragoman.client import Dragoman, RunResult, RunStream
    from dragoman.v1.message_pb2 import MediaInput
    from dragoman.v1.run_service_pb2 import Resolution

_MEDIA_ID = re.compile(r"[0-9a-f]{64}")

HELP = "/new begins a new session · /history shows this one · /quit ends (as does Ctrl-D)"


class Conflict(StrEnum):
    """What to do while another run holds the session's turn."""

    REJECT = "reject"
    QUEUE = "queue"
    INTERRUPT = "interrupt"


def chat(
    ctx: typer.Context,
    agent: Annotated[str, typer.Argument(help="The agent to talk to.")],
    server: ServerOption = DEFAULT_SERVER,
    session: Annotated[
        str, typer.Option(metavar="ID", help="Go on in this session instead of a new one.")
    ] = "",
    image: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE|URL|ID",
            help="A picture for the first message: a file, a URL that the server may fetch, or the id of one that it "
            "has; may be repeated.",
        ),
    ] = None,
    media: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE|URL|ID", help="Likewise a document, a sound or a film."),
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
    max_cost: Annotated[
        str | None, typer.Option(metavar="AMOUNT", help="What each run may cost, in the server's currency.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option(min=0, help="How many tokens each run may take; 0 for no limit.")
    ] = 0,
    max_seconds: Annotated[float | None, typer.Option(min=0.001, help="How long each run may take.")] = None,
    conflict: Annotated[
        Conflict, typer.Option(help="While another run holds the session: be refused, wait, or end it.")
    ] = Conflict.REJECT,
) -> None:
    """Talks to an agent, showing what it does: text, reasoning, tools, tokens and cost.

    \b
    dragoman chat example
    dragoman chat example --input tone=formal --session-input language=German
    dragoman chat example --max-cost 0.50 --max-seconds 60
    dragoman chat vision --image examples/data/ozymandias.png
    echo "What is 6 * 7?" | dragoman chat toolbox
    """
    client = connect(server)
    conversation = Conversation(
        client,
        agent,
        session=session,
        media=[_medium(source, picture=True) for source in image or []]
        + [_medium(source, picture=False) for source in media or []],
        run_inputs=inputs(input_ or [], "--input"),
        session_inputs=inputs(session_input or [], "--session-input"),
        options=RunOptions(_amount(max_cost), max_tokens, max_seconds, conflict),
    )
    with asyncio.Runner() as runner:
        runner.run(client.__aenter__())
        try:
            whole = _converse(conversation, runner, sys.stdin.isatty(), debug=is_debug(ctx))
        finally:
            runner.run(client.__aexit__(None, None, None))
    if not whole:
        raise typer.Exit(FAILED)


def _medium(source: str, *, picture: bool) -> "MediaInput":
    """What an option names: a URL, the id of a medium, or else a file. Raises OSError for an unreadable one."""
    from dragoman.client import image, linked_media, media, stored_media

    if source.lower().startswith(("http://", "https://")):
        return linked_media(source)
    if _MEDIA_ID.fullmatch(source):
        return stored_media(source)
    return image(source) if picture else media(source)


def _amount(text: str | None) -> Decimal | None:
    """The amount in an option. Raises Failure."""
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation as error:
        raise Failure(f"--max-cost wants an amount such as 0.50, not {text!r}", code=USAGE) from error


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What holds for every run of a chat."""

    max_cost: Decimal | None = None
    max_tokens: int = 0
    max_seconds: float | None = None
    conflict: Conflict = Conflict.REJECT


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
        options: RunOptions = RunOptions(),
    ) -> None:
        self.client = client
        self.agent = agent
        self.session = session
        self._media = media or []
        self._run_inputs = run_inputs
        self._session_inputs = session_inputs
        self._options = options
        self.waiting: RunStream | None = None
        """The run that waits for answers."""
        self._console = stdout()
        self._tokens = 0
        self._amount = Decimal(0)
        self._turns = 0

    async def say(self, text: str) -> bool:
        """One turn: sends a message and shows the run to its end. Returns whether it completed."""
        self.waiting = None
        if not self.session and self._session_inputs is not None:
            made = await self.client.create_session(self.agent, inputs=self._session_inputs)
            self.session = made.id
        media, self._media = self._media, []
        options = self._options
        stream = self.client.run(
            self.agent,
            text,
            session=self.session,
            media=media,
            inputs=self._run_inputs,
            max_cost=options.max_cost,
            max_total_tokens=options.max_tokens,
            max_duration=options.max_seconds,
            conflict=options.conflict.value,
        )
        return await self._follow(stream)

    async def go_on(self, run_id: str, resolutions: "list[Resolution]") -> bool:
        """Answers what a run waits for and shows it to its end. Returns whether it completed."""
        return await self._follow(self.client.continue_run(run_id, resolutions))

    async def give_up(self) -> None:
        """Cancels the run that waits."""
        waiting, self.waiting = self.waiting, None
        if waiting is not None:
            await self._cancel(waiting.run_id)

    async def _follow(self, stream: "RunStream") -> bool:
        from dragoman.cli._printer import EventPrinter
        from dragoman.v1 import event_pb2

        printer = EventPrinter(self._console)
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
        if stream.paused is not None:
            self.waiting = stream
            return False
        self.waiting = None
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
        from dragoman.cli.runs import status_name

        run = await asyncio.shield(self.client.cancel_run(run_id, note="cancelled in the chat"))
        self._console.print(f"run {run.id} {status_name(run)}", style="yellow")  # it may have ended before

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
    while (line := _next_line(terminal)) is not None:
        text = line.strip()
        if text == "/quit":
            break
        if not text:
            continue
        whole = _turn(conversation, runner, text, terminal, debug=debug) and whole
    if conversation.session:
        console.print(f"session {conversation.session}", style="dim")
    return whole or terminal


def _turn(
    conversation: Conversation, runner: asyncio.Runner, text: str, terminal: bool, *, debug: bool
) -> bool:
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
        whole = runner.run(conversation.say(text))
        return _answer(conversation, runner, terminal) if conversation.waiting else whole
    except KeyboardInterrupt:
        return False
    except Exception as error:
        if debug:
            raise
        report(error)
        return False


def _answer(conversation: Conversation, runner: asyncio.Runner, terminal: bool) -> bool:
    """Asks what the run waits for until it ends. Returns whether it completed."""
    from dragoman.cli._ask import ask
    from dragoman.client import InvalidInput

    whole = False
    while (waiting := conversation.waiting) is not None and waiting.paused is not None:
        try:
            answers = ask(stdout(), waiting.paused.requirements, lambda prompt: _read(terminal, prompt))
        except KeyboardInterrupt:
            stdout().print()
            runner.run(conversation.give_up())
            return False
        if answers is None:
            hint = f"run {waiting.run_id} waits; go on with `dragoman runs continue {waiting.run_id} ...`"
            stdout().print(hint, style="yellow", soft_wrap=True)
            return False
        try:
            whole = runner.run(conversation.go_on(waiting.run_id, answers))
        except InvalidInput as error:  # the run still waits
            report(error)
    return whole


def _next_line(terminal: bool) -> str | None:
    """The next message or command; None when the person has done."""
    try:
        return _read(terminal, "> ")
    except KeyboardInterrupt:
        stdout().print()
        return None


def _read(terminal: bool, prompt: str) -> str | None:
    """The next line; None when there are no more. Only a terminal is prompted."""
    if not terminal:
        return sys.stdin.readline() or None
    try:
        return input(prompt)
    except EOFError:
        stdout().print()
        return None
