"""Checks an agent by building it once, so that what would fail at the first run fails when the server starts."""

import inspect
import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from agno.agent import Agent
from agno.models.base import Model
from pydantic import BaseModel

from dragoman.agents import BaseAgent, MediaKind
from dragoman.catalog.describe import describe, input_schema
from dragoman.catalog.plain import PlainAgent
from dragoman.catalog.problems import Location, Rejected, raised, source_of
from dragoman.records import Limits
from dragoman.v1 import agent_service_pb2

_KINDS = tuple(MediaKind)
_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")


@dataclass(frozen=True, slots=True)
class Entry:
    """An agent that is served."""

    agent: BaseAgent[Any, Any]
    origin: str
    """The spec, or the entry point, that asked for it, and its place where that names several."""
    location: Location | None
    """Where its author wrote it."""
    proto: agent_service_pb2.Agent

    @property
    def name(self) -> str:
        """Its name."""
        return self.proto.name


def check(agent: BaseAgent[Any, Any], origin: str, location: Location | None) -> Entry:
    """The agent's entry. Raises Rejected."""
    try:
        _check_settings(agent)
        built, model = _check_build(agent, location)
        return Entry(agent, origin, location, describe(agent, built, model))
    except Rejected as rejected:
        raise Rejected(rejected.message, rejected.location or location) from rejected.__cause__


def _check_settings(agent: BaseAgent[Any, Any]) -> None:
    who = "the Agent" if isinstance(agent, PlainAgent) else type(agent).__name__
    name = getattr(agent, "name", None)
    if not name:
        raise Rejected(f"{who} has no name")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
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


def _check_build(agent: BaseAgent[Any, Any], location: Location | None) -> tuple[Agent, Model]:
    """Builds it twice: runs happen at the same time and share what must be shared, and nothing else."""
    what = f"{type(agent).__name__}.build_agent()"
    try:
        first, second = agent.build_agent(), agent.build_agent()
    except Exception as error:
        raise raised(what, error, location) from error
    if not isinstance(first, Agent):
        raise Rejected(f"{what} returned a value of type {type(first).__name__}, not an Agno Agent")
    if first is second:
        raise Rejected(
            f"{what} must return a new Agent at every call: runs that happen at once cannot share one"
        )
    if not isinstance(first.model, Model):
        raise Rejected(f"agent {agent.name} has no model")
    if first.model is not second.model:
        raise Rejected(
            f"{what} makes a new model at every call: make the model once, outside, and share it, "
            "for it holds the connections to the provider"
        )
    return first, first.model
