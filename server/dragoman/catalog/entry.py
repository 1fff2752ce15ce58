"""Checks an agent or a team by building it, so that what would fail at the first run fails when the server starts."""

import inspect
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from agno.agent import Agent
from agno.models.base import Model
from agno.team import Team
from agno.utils.team import get_member_id
from pydantic import BaseModel

from dragoman.agents import BaseTeam, MediaKind
from dragoman.agents.base import Served
from dragoman.catalog.databases import check_database, needs_database
from dragoman.catalog.describe import describe, input_schema, members
from dragoman.catalog.modalities import check_media
from dragoman.catalog.plain import PlainAgent, PlainTeam
from dragoman.catalog.problems import Location, Rejected, raised, source_of
from dragoman.records import AGENT_NAME, Limits
from dragoman.v1 import agent_service_pb2

_KINDS = tuple(MediaKind)


@dataclass(frozen=True, slots=True)
class Entry:
    """An agent that is served."""

    agent: Served[Any, Any]
    origin: str
    """The spec, or the entry point, that asked for it, and its place where that names several."""
    location: Location | None
    """Where its author wrote it."""
    proto: agent_service_pb2.Agent
    needs_database: bool = False
    """Whether it keeps something in agno_db()."""

    @property
    def name(self) -> str:
        """Its name."""
        return self.proto.name


def check(agent: Served[Any, Any], origin: str, location: Location | None) -> Entry:
    """The agent's entry. Raises Rejected."""
    try:
        _check_settings(agent)
        built, model = _check_build(agent, location)
        check_media(agent, built, model)
        return Entry(agent, origin, location, describe(agent, built, model), needs_database(built))
    except Rejected as rejected:
        raise Rejected(rejected.message, rejected.location or location) from rejected.__cause__


def _check_settings(agent: Served[Any, Any]) -> None:
    plain = {PlainAgent: "the Agent", PlainTeam: "the Team"}
    who = plain.get(type(agent), type(agent).__name__)
    name = getattr(agent, "name", None)
    if not name:
        raise Rejected(f"{who} has no name")
    if not isinstance(name, str) or not AGENT_NAME.fullmatch(name):
        raise Rejected(f"{name!r} is not a name: 1 to 128 letters, digits, '-', '_' or '.'")
    runs: object = agent.history_runs
    if runs is not None and (isinstance(runs, bool) or not isinstance(runs, int) or runs < 0):
        raise Rejected(f"{who}.history_runs is {runs!r}: it must be 0 or more, or None for all")
    if not _are_kinds(agent.accepted_media):
        kinds = ", ".join(kind.name for kind in MediaKind)
        raise Rejected(f"{who}.accepted_media must be a collection of MediaKind ({kinds})")
    limits: object = agent.limits
    if limits is not None and not isinstance(limits, Limits):
        raise Rejected(f"{who}.limits is {limits!r}: it must be a dragoman.agents.Limits, or None")
    for attribute in ("RequestModel", "CreateSessionModel"):
        model = getattr(agent, attribute)
        if not (isinstance(model, type) and issubclass(model, BaseModel)):
            raise Rejected(
                f"{who}.{attribute} is {model!r}: it must be a class derived from pydantic.BaseModel"
            )
        try:
            input_schema(model)
        except Exception as error:
            raise raised(f"describing {who}.{attribute} as JSON Schema", error, source_of(model)) from error
    for hook in ("validate_create_session", "validate_run"):
        if not inspect.iscoroutinefunction(getattr(agent, hook)):
            raise Rejected(f"{who}.{hook} must be an async function")


def _are_kinds(value: object) -> bool:
    return (
        isinstance(value, Collection) and not isinstance(value, str) and all(kind in _KINDS for kind in value)
    )


def _check_build(agent: Served[Any, Any], location: Location | None) -> tuple[Agent | Team, Model]:
    """Builds it twice: runs happen at the same time and share what must be shared, and nothing else."""
    kind = Team if isinstance(agent, BaseTeam) else Agent
    what = f"{type(agent).__name__}.build_{'team' if kind is Team else 'agent'}()"
    try:
        first, second = agent.build(), agent.build()
    except Exception as error:
        raise raised(what, error, location) from error
    if not isinstance(first, kind):
        raise Rejected(f"{what} returned a value of type {type(first).__name__}, not an Agno {kind.__name__}")
    if first is second:
        raise Rejected(
            f"{what} must return a new {kind.__name__} at every call: runs that happen at once cannot share one"
        )
    if not isinstance(first.model, Model):
        raise Rejected(f"{kind.__name__.lower()} {agent.name} has no model")
    earlier, later = list(_tree(first, agent.name)), list(_tree(second, agent.name))
    _check_members(earlier)
    for path, component in earlier:
        check_database(component, path)
    if shared := {id(each) for _, each in later} & {id(each) for _, each in earlier}:
        path = next(path for path, each in earlier if id(each) in shared)
        raise Rejected(f"{what} must make its members anew at every call: {path} is the same object")
    for (path, one), (_, other) in zip(earlier, later, strict=False):
        if one.model is not other.model:
            of = "" if one is first else f" for {path}"
            raise Rejected(
                f"{what} makes a new model at every call{of}: make the model once, outside, and share it, "
                "for it holds the connections to the provider"
            )
    return first, first.model


def _tree(component: Agent | Team, path: str) -> Iterator[tuple[str, Agent | Team]]:
    """The component and all of its members that are known before a run, with the way to each."""
    yield path, component
    if isinstance(component, Team):
        for member in members(component):
            yield from _tree(member, f"{path}/{member.name or '?'}")


def _check_members(tree: Sequence[tuple[str, Agent | Team]]) -> None:
    """What is done is told, and billed, by the names of those who did it. Raises Rejected."""
    seen: dict[int, str] = {}
    for path, component in tree:
        if id(component) in seen:
            raise Rejected(f"{path} is the same object as {seen[id(component)]}: an agent is a member once")
        seen[id(component)] = path
        if not isinstance(component, Team):
            continue
        if isinstance(component.members, list) and not component.members:
            raise Rejected(f"team {path} has no members")
        if not all(member.name for member in members(component)):
            raise Rejected(f"a member of team {path} has no name")
        # Agno knows members by a form of their names in which more of them are equal.
        known: dict[str, str] = {}
        for member in members(component):
            name = member.name or ""
            earlier = known.setdefault(get_member_id(member) or "", name)
            if earlier is not name:
                raise Rejected(
                    f"team {path} has two members whose names cannot be told apart: {earlier!r} and {name!r}"
                )
