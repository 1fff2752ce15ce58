"""What the demonstrations share: a server when none is named, checks, a table at the end, and an exit code.

A demonstration is a function that asks the server for something, shows what comes while it comes, notes what must be so
and returns a table. It looks at events, counts and sums, so that it holds for any model that does what it is told.
"""

import argparse
import asyncio
import logging
import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TypeAlias

from rich.console import Console
from rich.table import Table

from dragoman.cli._checks import Checks
from dragoman.cli._connect import connect
from dragoman.cli._console import clean, shorten, stdout, table
from dragoman.cli._printer import arguments
from dragoman.cli._report import report
from dragoman.cli._stage import Answer, Followed, Stage, follow
from dragoman.client import kind
from dragoman.config import has_model_key
from dragoman.testing.serving import serving
from dragoman.v1 import event_pb2, message_pb2, usage_pb2
from examples.agents import agents

__all__ = [
    "Answer",
    "Call",
    "Demo",
    "Followed",
    "Stage",
    "Sums",
    "arguments",
    "calls_of",
    "clean",
    "exact",
    "follow",
    "main",
    "messages_of",
    "owner",
    "perform",
    "shorten",
    "speaker",
    "spoken",
    "table",
]

Demo: TypeAlias = Callable[[Stage], Awaitable[Table]]


def main(play: Demo, title: str) -> None:
    """Plays one demonstration as a program: ends with 0 only when all that it shows was so."""
    options = argparse.ArgumentParser(description=title)
    options.add_argument("--server", metavar="HOST:PORT", default="", help="a server with the example agents")
    server = options.parse_args().server
    sys.exit(0 if asyncio.run(perform([(title, play)], server)) else 1)


async def perform(
    demos: Sequence[tuple[str, Demo]], server: str = "", console: Console | None = None
) -> bool:
    """Plays demonstrations against `server`, or one of its own on SQLite in a temporary folder. Whether all hold."""
    console, checks = console or stdout(), Checks()
    async with AsyncExitStack() as stack:
        if not server:
            logging.disable(logging.ERROR)  # the server's own log: a demonstration shows what a caller sees
            stack.callback(logging.disable, logging.NOTSET)
            server = (await stack.enter_async_context(serving(*agents))).address
            model = "Claude" if has_model_key() else "the offline model (no key, no network)"
            console.print(f"A server of its own at {server}, with {model}.", style="dim")
        client = await stack.enter_async_context(connect(server))
        for title, play in demos:
            console.print()
            console.rule(title, align="left", style="bold")
            checks.section = title
            try:
                console.print(await play(Stage(client, console, checks)))
            except Exception as error:  # noqa: BLE001 -- told, and counted as a check that failed
                report(error)
                checks.that("runs through", False, type(error).__name__)
    console.print()
    checks.show(console)
    return checks.passed


def speaker(event: event_pb2.RunEvent, followed: Followed) -> str:
    """Whose event it is: the member's name, or the agent's own."""
    return event.member.agent_name if event.HasField("member") else owner(followed)


def owner(followed: Followed) -> str:
    """The agent or team that was run."""
    return followed.of("run_started")[0].run_started.agent_name


def spoken(followed: Followed) -> Mapping[str, str]:
    """The text of all deltas, by the run that wrote it: the run's own, and each member's."""
    texts: dict[str, str] = defaultdict(str)
    for event in followed.of("content_delta"):
        texts[event.member.run_id or followed.run_id] += event.content_delta.text
    return texts


@dataclass(frozen=True, slots=True)
class Call:
    """One call of a tool, from its two events."""

    agent: str
    run_id: str
    call: message_pb2.ToolCall
    started: int
    """The sequence of tool_call_started."""
    ended: int = 0
    """That of tool_call_completed or tool_call_failed; 0 without."""
    result: str = ""
    failed: bool = False
    seconds: float = 0.0


def calls_of(followed: Followed) -> list[Call]:
    """The tool calls of a run, and of its members' runs, in order."""
    ends: dict[str, event_pb2.RunEvent] = {}
    for event in (*followed.of("tool_call_completed"), *followed.of("tool_call_failed")):
        done = event.tool_call_failed if kind(event) == "tool_call_failed" else event.tool_call_completed
        ends[done.tool_call_id] = event
    calls = []
    for event in followed.of("tool_call_started"):
        call = event.tool_call_started.tool_call
        made = Call(speaker(event, followed), event.member.run_id or followed.run_id, call, event.sequence)
        calls.append(_ended(made, ends[call.id]) if call.id in ends else made)
    return calls


def _ended(made: Call, end: event_pb2.RunEvent) -> Call:
    failed = kind(end) == "tool_call_failed"
    done = end.tool_call_failed if failed else end.tool_call_completed
    text = end.tool_call_failed.error if failed else end.tool_call_completed.result
    took = done.duration.ToTimedelta().total_seconds()
    return Call(made.agent, made.run_id, made.call, made.started, end.sequence, text, failed, took)


async def messages_of(stage: Stage, followed: Followed) -> list[message_pb2.Message]:
    """The stored messages of a run and of its members, in order, with their media."""
    found = stage.client.list_messages(followed.session_id, include_members=True, inline_media=True)
    return [message async for message in found]


def exact(cost: usage_pb2.Cost) -> Decimal:
    """The cost to the last digit, in the server's currency."""
    return Decimal(cost.exact_amount or 0)


@dataclass(slots=True)
class Sums:
    """Model calls, their tokens and their cost, added up."""

    calls: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0
    cost: Decimal = field(default_factory=Decimal)

    def add(self, usage: usage_pb2.TokenUsage, cost: usage_pb2.Cost, calls: int = 1) -> None:
        """Adds what some calls came to."""
        self.calls += calls
        self.input_tokens += usage.input_tokens
        self.output_tokens += usage.output_tokens
        self.total_tokens += usage.total_tokens
        self.cost += exact(cost)

    @classmethod
    def of_calls(cls, events: Iterable[event_pb2.RunEvent]) -> "Sums":
        """Of all finished model calls among the events."""
        sums = cls()
        for event in events:
            if kind(event) == "model_request_completed":
                sums.add(event.model_request_completed.usage, event.model_request_completed.cost)
        return sums

    @classmethod
    def of_run(cls, followed: Followed) -> "Sums":
        """As the run's last event tells them."""
        sums = cls()
        sums.add(followed.result.usage, followed.result.cost, followed.result.model_calls)
        return sums

    def row(self) -> tuple[str, str, str, str]:
        """For a table: calls, input, output, cost."""
        return f"{self.calls}", f"{self.input_tokens:,}", f"{self.output_tokens:,}", f"{self.cost:.6f}"
