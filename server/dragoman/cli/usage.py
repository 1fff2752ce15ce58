"""`dragoman usage`: what has been spent, from the ledger."""

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from dragoman.cli._connect import DEFAULT_SERVER, ServerOption, connect, run
from dragoman.cli._console import amount_text, clean, money, stdout, table
from dragoman.cli._report import USAGE, Failure
from dragoman.cli._values import moment

if TYPE_CHECKING:
    from datetime import datetime

    from rich.table import Table

    from dragoman.client import UsageDimension
    from dragoman.v1 import usage_service_pb2

app = typer.Typer(invoke_without_command=True)

BAR_WIDTH = 24
"""Columns of the longest bar."""

_EIGHTHS = " ▏▎▍▌▋▊▉█"


@app.callback()
def usage(
    context: typer.Context,
    server: ServerOption = DEFAULT_SERVER,
    by: Annotated[
        str,
        typer.Option(
            metavar="DIMENSION,...", help="day, agent, member, model, user, session, principal; in order."
        ),
    ] = "agent",
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="Only calls from then on, in UTC.")
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only calls before, in UTC.")] = None,
    agent: Annotated[str, typer.Option(help="Only runs of this agent.")] = "",
    session: Annotated[str, typer.Option(metavar="ID", help="Only this session.")] = "",
) -> None:
    """Sums tokens and costs of model calls.

    \b
    dragoman usage
    dragoman usage --by day,agent --since 2026-01-01
    dragoman usage --by model --agent example
    """
    if context.invoked_subcommand is not None:
        return
    run(_usage(server, dimensions(by), moment(since, "--since"), moment(until, "--until"), agent, session))


def dimensions(text: str) -> "list[UsageDimension]":
    """`day,agent` as dimensions. Raises Failure for a word that is none, or comes twice."""
    from dragoman.client import UsageDimension

    known: tuple[UsageDimension, ...] = get_args(UsageDimension)
    found: list[UsageDimension] = []
    for word in filter(None, (part.strip() for part in text.split(","))):
        match = next((each for each in known if each == word), None)
        if match is None or match in found:
            problem = "comes twice" if match else f"is none of {', '.join(known)}"
            raise Failure(f"--by: {word!r} {problem}", code=USAGE)
        found.append(match)
    return found


async def _usage(
    server: str,
    by: "list[UsageDimension]",
    start: "datetime | None",
    end: "datetime | None",
    agent: str,
    session: str,
) -> None:
    async with connect(server) as client:
        found = client.query_usage(by, start=start, end=end, agent=agent, session=session)
        groups = [group async for group in found]
    if groups:
        stdout().print(usage_table(groups, by))
    else:
        stdout().print("no model calls")


def usage_table(groups: "list[usage_service_pb2.UsageGroup]", by: "list[UsageDimension]") -> "Table":
    """A row per group with a bar for its cost (its tokens, when nothing has a price), and a row for all."""
    figures = ("runs", "calls", "in", "out", "cached", "cost")
    heads = ["provider / model" if each == "model" else each for each in by]
    shown = table("", *heads, *figures, "", right=figures)
    amounts = [Decimal(group.cost.exact_amount or 0) for group in groups]
    sizes = amounts if any(amounts) else [Decimal(group.usage.total_tokens) for group in groups]
    for group, size in zip(groups, sizes, strict=True):
        shown.add_row(
            *(key(group, each) for each in by),
            f"{group.runs:,}",
            f"{group.model_calls:,}",
            f"{group.usage.input_tokens:,}",
            f"{group.usage.output_tokens:,}",
            f"{group.usage.cache_read_tokens + group.usage.cache_write_tokens:,}",
            money(group.cost),
            bar(size, max(sizes)),
        )
    if len(groups) > 1:
        currency = groups[0].cost.amount.currency_code
        unpriced = sum(group.cost.unpriced_calls for group in groups)
        total = amount_text(sum(amounts, Decimal(0)), currency)
        shown.add_section()
        shown.add_row(
            "all",
            *([""] * (len(by) - 1)),
            "",  # a run with several models is in several groups: its count does not add up
            f"{sum(group.model_calls for group in groups):,}",
            f"{sum(group.usage.input_tokens for group in groups):,}",
            f"{sum(group.usage.output_tokens for group in groups):,}",
            f"{sum(group.usage.cache_read_tokens + group.usage.cache_write_tokens for group in groups):,}",
            f"{total} + {unpriced} unpriced" if unpriced else total,
            "",
            style="bold",
        )
    return shown


def key(group: "usage_service_pb2.UsageGroup", dimension: "UsageDimension") -> str:
    """The group's value of one dimension; `-` where it is empty."""
    value = {
        "day": group.day,
        "agent": group.agent_name,
        "member": group.member_name,
        "model": f"{group.provider} / {group.model}",
        "user": group.user,
        "session": group.session_id,
        "principal": group.principal,
    }[dimension]
    return clean(value) or "-"


def bar(size: Decimal, largest: Decimal) -> str:
    """A bar of at most BAR_WIDTH columns, to an eighth of one; never empty for what is more than nothing."""
    if largest <= 0 or size <= 0:
        return ""
    eighths = max(1, round(size / largest * BAR_WIDTH * 8))
    full, rest = divmod(eighths, 8)
    return _EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")
