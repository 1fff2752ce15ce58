"""`dragoman runs`: what is and has been run on a server: listed, shown, followed, continued and cancelled.

Following ends with the run: the exit code tells whether it completed. Ctrl-C only leaves; the run goes on.
"""

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

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
from dragoman.cli._console import calls, clean, lasted, money, stdout, table, tokens, when
from dragoman.cli._report import FAILED

if TYPE_CHECKING:
    from dragoman.client import RunStream
    from dragoman.v1 import event_pb2, run_service_pb2

app = typer.Typer(no_args_is_help=True, help="Show, follow, continue and cancel runs on a server.")


class State(StrEnum):
    """Where a run stands."""

    QUEUED = "queued"
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
    all_owners: AllOwnersOption = False,
    principal: PrincipalOption = "",
    user: UserOption = "",
) -> None:
    """Lists runs, the newest first.

    \b
    dragoman runs list
    dragoman runs list --agent example --status failed -n 100
    dragoman runs list --all-owners --status running
    """
    filters = {
        "agent": agent,
        "session": session,
        "status": status.value if status else None,
        "all_owners": all_owners,
        "principal": principal,
        "user": user,
    }
    run(_list(server, filters, limit))


async def _list(server: str, filters: dict[str, Any], limit: int) -> None:
    everybody = filters["all_owners"]
    shown = table(
        "",
        "run",
        *(["owner"] if everybody else []),
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
        async for each in client.list_runs(**filters, page_size=min(limit, 200)):
            owner = clean(f"{each.principal} for {each.user}" if each.user else each.principal)
            shown.add_row(
                each.id,
                *([owner] if everybody else []),
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
        for requirement in found.paused.requirements:
            console.print(f"  waits    {requirement_text(requirement)}", style="yellow", soft_wrap=True)
        messages = client.list_messages(found.session_id, run=found.id, include_members=True)
        async for message in messages:
            console.print()
            show_message(console, message)


@app.command()
def attach(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")],
    server: ServerOption = DEFAULT_SERVER,
    after: Annotated[int, typer.Option(min=0, help="Only events after this one; 0 for all.")] = 0,
) -> None:
    """Follows a run: what it has done so far, then what it does, until it ends or waits for somebody.

    \b
    dragoman runs attach 01890a5d-ac96-774b-bcce-b302099a8057
    dragoman runs attach 01890a5d-ac96-774b-bcce-b302099a8057 --after 1
    """
    run(_attach(server, run_id, after))


async def _attach(server: str, run_id: str, after: int) -> None:
    async with connect(server) as client:
        await _follow(client.attach(run_id, after_sequence=after))


@app.command("continue")
def continue_(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")],
    server: ServerOption = DEFAULT_SERVER,
    confirm: Annotated[
        list[str] | None,
        typer.Option(metavar="ID", help="Yes to a requirement; may be repeated, as all are."),
    ] = None,
    reject: Annotated[
        list[str] | None, typer.Option(metavar="ID[=NOTE]", help="No to a requirement, and why.")
    ] = None,
    input_: Annotated[
        list[str] | None, typer.Option("--input", metavar="ID={JSON}", help="Values for its fields.")
    ] = None,
    result: Annotated[
        list[str] | None, typer.Option(metavar="ID=TEXT", help="The result of the tool, which you executed.")
    ] = None,
    choose: Annotated[
        list[str] | None, typer.Option(metavar="ID={JSON}", help="A label, or several, for each question.")
    ] = None,
) -> None:
    """Answers what a paused run waits for, and follows it. `runs show` lists the ids.

    \b
    dragoman runs continue 01890a5d-ac96-774b-bcce-b302099a8057 --confirm r1 --reject r2="too dear"
    dragoman runs continue 01890a5d-ac96-774b-bcce-b302099a8057 --input r1='{"days": 3}'
    dragoman runs continue 01890a5d-ac96-774b-bcce-b302099a8057 --result r1="17 degrees"
    """
    from dragoman.cli._answers import resolutions

    answers = resolutions(confirm or [], reject or [], input_ or [], result or [], choose or [])
    run(_continue(server, run_id, answers))


async def _continue(server: str, run_id: str, answers: "list[run_service_pb2.Resolution]") -> None:
    async with connect(server) as client:
        await _follow(client.continue_run(run_id, answers))


@app.command()
def cancel(
    run_id: Annotated[str, typer.Argument(metavar="RUN_ID", help="The run.")],
    server: ServerOption = DEFAULT_SERVER,
    note: Annotated[str, typer.Option(help="Why, for people; kept with the run.")] = "",
    all_owners: Annotated[
        bool, typer.Option("--all-owners", help="Whosever it is: needs a key with the scope admin.")
    ] = False,
) -> None:
    """Ends a run, also one that waits for its turn or for somebody. What it has written and spent is kept.

    \b
    dragoman runs cancel 01890a5d-ac96-774b-bcce-b302099a8057 --note "not needed any more"
    """
    run(_cancel(server, run_id, note, all_owners=all_owners))


async def _cancel(server: str, run_id: str, note: str, *, all_owners: bool) -> None:
    async with connect(server) as client:
        found = await client.cancel_run(run_id, note=note, all_owners=all_owners)
        stdout().print(f"run {found.id} {status_name(found)}{_why(found)}", soft_wrap=True)


async def _follow(stream: "RunStream") -> None:
    """Shows a run to its end. Raises typer.Exit when it failed or was cancelled."""
    from dragoman.cli._printer import EventPrinter
    from dragoman.client import EventsTrimmed
    from dragoman.v1 import event_pb2

    console = stdout()
    printer = EventPrinter(console)
    try:
        async with stream:
            async for event in stream:
                printer.show(event)
    except EventsTrimmed as error:
        error.message += f"; try --after {error.oldest_sequence - 1}"
        raise
    finally:
        printer.finish()
    if stream.paused is not None:
        for requirement in stream.paused.requirements:
            console.print(f"  waits    {requirement_text(requirement)}", style="yellow", soft_wrap=True)
    elif not isinstance(stream.result, event_pb2.RunCompleted):
        raise typer.Exit(FAILED)


def requirement_text(requirement: "event_pb2.Requirement") -> str:
    """`r1  confirmation of refund(amount=3)`: what is needed, by its id."""
    from dragoman.cli._ask import call_text

    need = (requirement.WhichOneof("need") or "answer").replace("_", " ")
    return f"{clean(requirement.id)}  {need} for {call_text(requirement)}"


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
