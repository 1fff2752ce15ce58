"""`dragoman budget`: what may still be spent, and when it begins anew."""

from decimal import Decimal
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._connect import DEFAULT_SERVER, ServerOption, connect, run
from dragoman.cli._console import clean, stdout, table
from dragoman.cli._pricing import print_json
from dragoman.cli._times import TimeZoneOption, zone_of

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from google.type.money_pb2 import Money
    from rich.table import Table

    from dragoman.v1 import usage_service_pb2

BAR_WIDTH = 16
"""Columns of the bar of a budget that is used up."""


def budget(
    server: ServerOption = DEFAULT_SERVER,
    agent: Annotated[str, typer.Option(help="Only budgets that hold for runs of this agent.")] = "",
    principal: Annotated[
        str,
        typer.Option(metavar="NAME", help="Whose runs instead of yours: needs a key with the scope admin."),
    ] = "",
    time_zone: TimeZoneOption = "",
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Shows the budgets that hold for your runs, and what is left of them.

    \b
    dragoman budget
    dragoman budget --agent example
    dragoman budget --principal billing
    """
    run(_budget(server, agent, principal, zone_of(time_zone), json=json))


async def _budget(server: str, agent: str, principal: str, zone: "ZoneInfo", *, json: bool) -> None:
    async with connect(server) as client:
        budgets = await client.get_budget(agent=agent, principal=principal)
    if json:
        print_json([record(each) for each in budgets])
    elif budgets:
        console = stdout()
        console.print(budget_table(budgets, zone, ascii_only=console.options.ascii_only))
    else:
        stdout().print("no budgets")


def record(each: "usage_service_pb2.Budget") -> dict[str, str]:
    """A budget as JSON; amounts are texts."""
    return {
        "principal": each.principal,
        "agent_name": each.agent_name,
        "period": period_name(each.period),
        "currency": each.limit.currency_code,
        "limit": f"{_amount(each.limit):.9f}",
        "spent": f"{_amount(each.spent):.9f}",
        "remaining": f"{_amount(each.remaining):.9f}",
        "reset_time": each.reset_time.ToJsonString(),
    }


def budget_table(
    budgets: "list[usage_service_pb2.Budget]", zone: "ZoneInfo", *, ascii_only: bool = False
) -> "Table":
    """A row for each, with a bar for what has been spent."""
    figures = ("limit", "spent", "left")
    shown = table("", "principal", "agent", "per", *figures, "", f"begins anew ({zone.key})", right=figures)
    for each in budgets:
        limit, spent = _amount(each.limit), _amount(each.spent)
        shown.add_row(
            clean(each.principal) or "anybody",
            clean(each.agent_name) or "any",
            period_name(each.period),
            *(
                f"{each.limit.currency_code} {amount:,.2f}"
                for amount in (limit, spent, _amount(each.remaining))
            ),
            share(spent, limit, ascii_only=ascii_only),
            each.reset_time.ToDatetime(zone).strftime("%Y-%m-%d %H:%M"),
            style="red" if spent >= limit else None,
        )
    return shown


def period_name(period: int) -> str:
    """`day` or `month`; a number for one that is newer than this version."""
    from dragoman.v1 import usage_service_pb2 as pb

    names = {pb.BUDGET_PERIOD_DAY: "day", pb.BUDGET_PERIOD_MONTH: "month"}
    return names.get(pb.BudgetPeriod.ValueType(period), str(period))


def share(spent: Decimal, limit: Decimal, *, ascii_only: bool = False) -> str:
    """How much of it is spent, as a bar and in per cent, rounded down; never full before it is used up."""
    used = Decimal(1) if spent >= limit else spent / limit
    full = int(used * BAR_WIDTH)
    filled, empty = ("#", ".") if ascii_only else ("█", "░")
    return f"{filled * full}{empty * (BAR_WIDTH - full)} {int(used * 100):>3} %"


def _amount(money: "Money") -> Decimal:
    return Decimal(money.units) + Decimal(money.nanos).scaleb(-9)
