"""`dragoman runs`: what has been run on a server."""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from dragoman.cli._connect import DEFAULT_SERVER, ServerOption, connect, run
from dragoman.cli._console import calls, clean, lasted, money, stdout, table, tokens, when

if TYPE_CHECKING:
    from dragoman.v1 import run_service_pb2

app = typer.Typer(no_args_is_help=True, help="Show what has been run on a server.")


class State(StrEnum):
    """Where a run stands."""

    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


@app.command("list")
def list_(
    server: ServerOption = DEFAULT_SERVER,
    agent: Annotated[str, typer.Option(help="Only runs of this agent.")] = "",
    session: Annotated[str, typer.Option(metavar="ID", help="Only runs in this session.")] = "",
    status: Annotated[State | None, typer.Option(help="Only runs that stand so.")] = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="How many at most.")] = 20,
) -> None:
    """Lists runs, the newest first.

    \b
    dragoman runs list
    dragoman runs list --agent example --status failed -n 100
    """
    run(_list(server, agent, session, status, limit))


async def _list(server: str, agent: str, session: str, status: State | None, limit: int) -> None:
    shown = table(
        "",
        "run",
        "agent",
        "status",
        "model",
        "calls",
        "tokens",
        "cost",
        "started (UTC)",
        "took",
        right=("calls", "cost", "took"),
    )
    async with connect(server) as client:
        found = client.list_runs(
            agent=agent, session=session, status=status.value if status else None, page_size=min(limit, 200)
        )
        async for each in found:
            shown.add_row(
                each.id,
                clean(each.agent_name),
                status_name(each),
                clean(each.model),
                str(each.model_calls),
                tokens(each.usage),
                money(each.cost),
                when(each.create_time),
                lasted(each.create_time, each.end_time),
            )
            if shown.row_count == limit:
                break
    if shown.row_count:
        stdout().print(shown)
    else:
        stdout().print("no runs")


@app.command()
def show(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")],
    server: ServerOption = DEFAULT_SERVER,
) -> None:
    """Shows a run, how it ended and the messages that it added to its session.

    \b
    dragoman runs show 01890a5d-ac96-774b-bcce-b302099a8057
    """
    run(_show(server, run_id))


async def _show(server: str, run_id: str) -> None:
    from dragoman.cli._messages import show_message

    console = stdout()
    async with connect(server) as client:
        found = await client.get_run(run_id)
        console.print(f"run {found.id}", style="bold")
        for name, value in facts(found):
            if value:
                console.print(f"  {name:<9}{value}", soft_wrap=True)
        messages = client.list_messages(found.session_id, run=found.id, include_members=True)
        async for message in messages:
            console.print()
            show_message(console, message)


def facts(found: "run_service_pb2.Run") -> list[tuple[str, str]]:
    """What there is to say of a run, in order; a value that is empty does not apply."""
    return [
        ("status", f"{status_name(found)}{_why(found)}"),
        ("agent", clean(found.agent_name)),
        ("session", found.session_id),
        ("model", clean(f"{found.provider} {found.model}".strip())),
        ("started", f"{when(found.create_time)} UTC"),
        ("took", lasted(found.create_time, found.end_time)),
        ("events", str(found.last_sequence)),
        ("tokens", f"{tokens(found.usage)} in {calls(found.model_calls)}"),
        ("cost", money(found.cost)),
        ("labels", ", ".join(clean(f"{key}={value}") for key, value in sorted(found.metadata.items()))),
    ]


def status_name(found: "run_service_pb2.Run") -> str:
    """`completed`, ...; a number for one that is newer than this version."""
    from dragoman.v1 import run_service_pb2

    if found.status not in run_service_pb2.RunStatus.values():
        return str(found.status)
    return run_service_pb2.RunStatus.Name(found.status).removeprefix("RUN_STATUS_").lower()


def _why(found: "run_service_pb2.Run") -> str:
    from dragoman.cli._printer import cancel_reason
    from dragoman.client import from_status

    match found.WhichOneof("outcome"):
        case "failed":
            return f": {clean(str(from_status(found.failed.error)))}"
        case "cancelled":
            note = f", {clean(found.cancelled.note)}" if found.cancelled.note else ""
            return f" ({cancel_reason(found.cancelled.reason)}{note})"
        case _:
            return ""
