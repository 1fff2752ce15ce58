"""`dragoman agents`: what would be served, and whether it is fit to be. Needs no server."""

from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer

from dragoman.cli._console import clean, shorten, stderr, stdout, table
from dragoman.cli._report import FAILED
from dragoman.cli._settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.table import Table

    from dragoman.catalog import Catalog
    from dragoman.config import Settings
    from dragoman.v1 import agent_service_pb2

app = typer.Typer(no_args_is_help=True, help="Show and check the agents that a server would serve.")

Specs: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="[MODULE:ATTRIBUTE]...", help="Agents, instead of those of the settings."),
]


@app.command("list")
def list_(specs: Specs = None) -> None:
    """Shows the agents and teams that `dragoman serve` would serve.

    \b
    dragoman agents list
    dragoman agents list shop.agents:agents
    """
    stdout().print(agents_table(_load(specs)))


@app.command()
def check(specs: Specs = None) -> None:
    """Checks that every agent can be imported and built; shows them, or all that is wrong, with file and line.

    \b
    dragoman agents check
    dragoman agents check shop.agents:agents desk/agents.py:desk
    """
    catalog = _load(specs)
    names = [entry.name for entry in catalog.entries]
    if not names:
        stderr().print("there are no agents: name some as MODULE:ATTRIBUTE or in DRAGOMAN_AGENTS")
        raise typer.Exit(FAILED)
    console = stdout()
    console.print(agents_table(catalog))
    console.print(f"{len(names)} fit to be served: {', '.join(names)}", style="green")


def _load(specs: list[str] | None) -> "Catalog":
    return load_catalog(load_settings({"agents": specs or None, "entry_points": False if specs else None}))


def load_catalog(settings: "Settings") -> "Catalog":
    """The catalog; what is wrong with it is told line by line and ends the command."""
    from dragoman.config import silence_agno

    silence_agno()
    from dragoman.catalog import CatalogError, load

    try:
        return load(settings.agents, entry_points=settings.entry_points)
    except CatalogError as error:
        console = stderr()
        for problem in error.problems:
            console.print(f"error: {clean(str(problem))}", style="red")
        raise typer.Exit(FAILED) from error


def agents_table(catalog: "Catalog") -> "Table":
    """A row for each agent, what it is, what it can do, and where it was written; below a team a row for each member."""
    shown = table("", "agent", "kind", "model", "tools", "media", "description", "from")
    for entry in catalog.entries:
        agent = entry.proto
        shown.add_row(
            agent.name,
            kind_name(agent.kind),
            f"{agent.provider} {agent.model}".strip(),
            ", ".join(tool.name for tool in agent.tools) or "-",
            ", ".join(media_name(each) for each in agent.accepted_media) or "-",
            shorten(agent.description),
            str(entry.location or entry.origin),
        )
        for depth, member in _below(agent):
            shown.add_row(
                f"{'  ' * depth}{member.name}",
                "member" if kind_name(member.kind) == "agent" else "team",
                f"{member.provider} {member.model}".strip(),
                ", ".join(tool.name for tool in member.tools) or "-",
                "",
                shorten(member.description),
                "",
            )
    return shown


def _below(
    team: "agent_service_pb2.Agent", depth: int = 1
) -> "Iterator[tuple[int, agent_service_pb2.Agent]]":
    """Its members and theirs, each with how deep it is."""
    for member in team.members:
        yield depth, member
        yield from _below(member, depth + 1)


def kind_name(kind: int) -> str:
    """`agent` or `team`."""
    from dragoman.v1 import agent_service_pb2

    return "team" if kind == agent_service_pb2.AGENT_KIND_TEAM else "agent"


def media_name(kind: int) -> str:
    """`image`, `file`, `audio` or `video`; a number for one that is newer than this version."""
    from dragoman.v1 import message_pb2

    if kind not in message_pb2.MediaKind.values():
        return str(kind)
    return (
        message_pb2.MediaKind.Name(message_pb2.MediaKind.ValueType(kind)).removeprefix("MEDIA_KIND_").lower()
    )
