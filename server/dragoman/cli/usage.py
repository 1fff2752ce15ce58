"""`dragoman usage`: what has been spent, from the ledger."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, get_args

import typer

from dragoman.cli._connect import (
    DEFAULT_SERVER,
    AllOwnersOption,
    PrincipalOption,
    ServerOption,
    UserOption,
    connect,
    run,
)
from dragoman.cli._console import amount_text, clean, money, stdout, table
from dragoman.cli._pricing import print_json
from dragoman.cli._report import USAGE, Failure
from dragoman.cli._times import TimeZoneOption, when, zone_of

if TYPE_CHECKING:
    from rich.table import Table

    from dragoman.client import UsageDimension
    from dragoman.v1 import usage_service_pb2

app = typer.Typer(invoke_without_command=True)

BAR_WIDTH = 24
"""Columns of the longest bar."""

PAGE = 1000
"""Groups that are fetched at a time."""

_EIGHTHS = " ▏▎▍▌▋▊▉█"


@app.callback()
def usage(
    context: typer.Context,
    server: ServerOption = DEFAULT_SERVER,
    by: Annotated[
        str,
        typer.Option(
            "--by",
            "--group-by",
            metavar="DIMENSION,...",
            help="day, agent, member, model, user, session, principal; in order.",
        ),
    ] = "agent",
    since: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only calls from then on: a date or time, today, this-month, 7d, 12h."
        ),
    ] = None,
    until: Annotated[str | None, typer.Option(metavar="TIME", help="Only calls before, likewise.")] = None,
    agent: Annotated[str, typer.Option(help="Only runs of this agent.")] = "",
    session: Annotated[str, typer.Option(metavar="ID", help="Only this session.")] = "",
    all_owners: AllOwnersOption = False,
    principal: PrincipalOption = "",
    user: UserOption = "",
    time_zone: TimeZoneOption = "",
    csv: Annotated[
        str, typer.Option("--csv", metavar="FILE", help="Write CSV to the file; - for standard output.")
    ] = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Sums tokens and costs of model calls, with a bar for each group.

    \b
    dragoman usage
    dragoman usage --by day,agent --since this-month
    dragoman usage --by model --agent example --since 2026-01-01 --until 2026-02-01
    dragoman usage --by day,user --time-zone Europe/Berlin --csv usage.csv
    dragoman usage --by principal,user --all-owners
    """
    if context.invoked_subcommand is not None:
        return
    if csv and json:
        raise Failure("--csv and --json do not go together", code=USAGE)
    zone = zone_of(time_zone)
    now = datetime.now(UTC)
    asked = Asked(
        by=dimensions(by),
        start=when(since, "--since", zone, now),
        end=when(until, "--until", zone, now),
        agent=agent,
        session=session,
        time_zone=zone.key,
        all_owners=all_owners,
        principal=principal,
        user=user,
    )
    if asked.start is not None and asked.end is not None and asked.end <= asked.start:
        raise Failure("--until must be after --since", code=USAGE)
    run(_usage(server, asked, csv=csv, json=json))


@dataclass(frozen=True)
class Asked:
    """What is to be summed up."""

    by: "list[UsageDimension]"
    start: datetime | None
    end: datetime | None
    agent: str
    session: str
    time_zone: str
    all_owners: bool
    principal: str
    user: str


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


async def _usage(server: str, asked: Asked, *, csv: str, json: bool) -> None:
    from dragoman.cli._export import STANDARD_OUTPUT, record, write_csv

    async with connect(server) as client:
        found = client.query_usage(
            asked.by,
            start=asked.start,
            end=asked.end,
            agent=asked.agent,
            session=asked.session,
            time_zone=asked.time_zone,
            page_size=PAGE,
            all_owners=asked.all_owners,
            principal=asked.principal,
            user=asked.user,
        )
        if csv:
            count = await write_csv(found, asked.by, csv)
            if csv != STANDARD_OUTPUT:
                stdout().print(f"{count:,} row{'' if count == 1 else 's'} written to {clean(csv)}")
            return
        groups = [group async for group in found]
    if json:
        print_json([record(group, asked.by) for group in groups])
    elif groups:
        console = stdout()
        width = bar_width(console.width)
        console.print(usage_table(groups, asked.by, width=width, ascii_only=console.options.ascii_only))
        if "day" in asked.by:
            console.print(f"days in {asked.time_zone}", style="dim")
    else:
        stdout().print("no model calls")


def bar_width(columns: int) -> int:
    """Columns of the longest bar on a terminal of so many; 0: there is no room for bars."""
    return BAR_WIDTH if columns >= 120 else BAR_WIDTH // 2 if columns >= 90 else 0


def usage_table(
    groups: "list[usage_service_pb2.UsageGroup]",
    by: "list[UsageDimension]",
    *,
    width: int = BAR_WIDTH,
    ascii_only: bool = False,
) -> "Table":
    """A row per group with a bar for its cost (its tokens, when nothing has a price), and a row for all of a currency."""
    figures = ("runs", "calls", "in", "out", "cached", "cost")
    heads = ["provider / model" if each == "model" else each for each in by]
    shown = table("", *heads, *figures, *([""] if width else []), right=figures)
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
            *([bar(size, max(sizes), width, ascii_only=ascii_only)] if width else []),
        )
    if len(groups) > 1:
        shown.add_section()
        for currency in sorted({group.cost.amount.currency_code for group in groups}):
            _add_total(
                shown, [each for each in groups if each.cost.amount.currency_code == currency], by, width
            )
    return shown


def _add_total(
    shown: "Table",
    groups: "list[usage_service_pb2.UsageGroup]",
    by: "list[UsageDimension]",
    width: int,
) -> None:
    """A row for all groups of one currency: others cannot be added to it."""
    amount = sum((Decimal(group.cost.exact_amount or 0) for group in groups), Decimal(0))
    total = amount_text(amount, groups[0].cost.amount.currency_code)
    unpriced = sum(group.cost.unpriced_calls for group in groups)
    shown.add_row(
        *(["all"] if by else []),
        *([""] * (len(by) - 1)),
        "",  # a run with several models is in several groups: its count does not add up
        f"{sum(group.model_calls for group in groups):,}",
        f"{sum(group.usage.input_tokens for group in groups):,}",
        f"{sum(group.usage.output_tokens for group in groups):,}",
        f"{sum(group.usage.cache_read_tokens + group.usage.cache_write_tokens for group in groups):,}",
        f"{total} + {unpriced} unpriced" if unpriced else total,
        *([""] if width else []),
        style="bold",
    )


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


def bar(size: Decimal, largest: Decimal, width: int = BAR_WIDTH, *, ascii_only: bool = False) -> str:
    """A bar of at most `width` columns, to an eighth of one; never empty for what is more than nothing."""
    if largest <= 0 or size <= 0:
        return ""
    if ascii_only:
        return "#" * max(1, round(size / largest * width))
    eighths = max(1, round(size / largest * width * 8))
    full, rest = divmod(eighths, 8)
    return _EIGHTHS[8] * full + (_EIGHTHS[rest] if rest else "")
