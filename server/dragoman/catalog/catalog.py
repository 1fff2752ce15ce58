"""The Catalog: what is served, whether it accepts what a caller sent, and a fresh Agno agent for each run.

A hook that raises Invalid, or another ValueError, refuses the caller's input. Anything else that an agent's code
raises is logged with its traceback, and the caller is told AgentFailed.
"""

import logging
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from typing import Any

from agno.agent import Agent
from agno.team import Team
from pydantic import BaseModel, ValidationError

from dragoman.agents import Caller, Invalid, RunSetup
from dragoman.agents.base import Served
from dragoman.agents.database import AgnoDb, AgnoTables, owner_key
from dragoman.catalog import inputs as reading
from dragoman.catalog.databases import bind
from dragoman.catalog.entry import Entry
from dragoman.engine.ports import JsonObject, RunDraft, RunOrder
from dragoman.errors import AgentFailed, AgentNotFound, DragomanError, InvalidInput, Violation
from dragoman.records import Limits, Owner
from dragoman.v1 import agent_service_pb2

_log = logging.getLogger(__name__)

_SESSION_FIELDS = frozenset({"inputs"})
_OUTDATED = Violation(
    "session_id", "the inputs of this session do not suit the agent any more; make a new session"
)
_RUN_FIELDS = frozenset({"inputs", "message", "media"})


class Catalog:
    """The agents and teams that are served, by name. Satisfies `engine.ports.Catalog`, and builds agents for the runner."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = {entry.name: entry for entry in sorted(entries, key=lambda entry: entry.name)}
        self._tables: AgnoTables | None = None

    @property
    def needs_database(self) -> bool:
        """Whether an agent keeps something in agno_db(): then `use` is to be called before the first run."""
        return any(entry.needs_database for entry in self._entries.values())

    def use(self, tables: AgnoTables) -> None:
        """Agents that keep something in agno_db() keep it in these tables."""
        self._tables = tables

    @property
    def entries(self) -> Sequence[Entry]:
        """All, by name, with where each came from."""
        return tuple(self._entries.values())

    def agents(self) -> Sequence[agent_service_pb2.Agent]:
        """All, by name."""
        return tuple(entry.proto for entry in self._entries.values())

    def agent(self, name: str) -> agent_service_pb2.Agent:
        """One. Raises AgentNotFound."""
        return self._entry(name).proto

    def history_runs(self, name: str) -> int | None:
        """How many earlier runs of a session the agent sees; None for all. Raises AgentNotFound."""
        return self._entry(name).agent.history_runs

    def limits(self, name: str) -> Limits:
        """The agent's own limits of a run. Raises AgentNotFound."""
        return self._entry(name).agent.limits or Limits()

    async def accept_session(self, name: str, inputs: JsonObject, owner: Owner) -> JsonObject:
        """The inputs as the agent's CreateSessionModel and `validate_create_session` accept them.

        Raises AgentNotFound, InvalidInput with paths below `inputs`, AgentFailed when the agent's own code raises.
        """
        agent = self._entry(name).agent
        accepted = _parsed(agent, agent.CreateSessionModel, inputs)
        await _hook(agent, agent.validate_create_session(accepted, _caller(owner)), _SESSION_FIELDS)
        return _stored(agent, accepted)

    async def accept_run(self, draft: RunDraft) -> JsonObject:
        """`draft.inputs` as the agent's RequestModel and `validate_run` accept them.

        Raises AgentNotFound, AgentFailed, and InvalidInput with paths below `inputs`, at `message`, at `media[i]` where
        the hook names them, or at `session_id` where the session's inputs do not suit the agent any more.
        """
        agent = self._entry(draft.agent_name).agent
        accepted = _parsed(agent, agent.RequestModel, dict(draft.inputs))
        setup = RunSetup(
            caller=_caller(draft.owner),
            message=draft.message,
            inputs=accepted,
            session_inputs=_session_inputs(agent, draft),
            session_id=draft.session.id if draft.session else None,
            media=tuple(medium.kind for medium in draft.media),
            metadata=dict(draft.metadata),
        )
        await _hook(agent, agent.validate_run(setup), _RUN_FIELDS)
        return _stored(agent, accepted)

    def build(self, name: str, order: RunOrder) -> Agent | Team:
        """A fresh agent or team, prepared for the run. Raises AgentNotFound, and AgentFailed when the agent's code raises."""
        agent = self._entry(name).agent
        setup = RunSetup(
            caller=_caller(order.owner),
            message=order.message,
            inputs=_restored(agent, agent.RequestModel, order.inputs),
            session_inputs=_restored(agent, agent.CreateSessionModel, order.session.inputs),
            session_id=order.session.id,
            run_id=order.run_id,
            media=tuple(medium.kind for medium in order.media),
            metadata=dict(order.metadata),
        )
        try:
            built = agent.build_for(setup)
        except Exception as error:
            raise _failed(agent, error) from error
        if built.name is None:
            built.name = name
        if self._tables is not None:
            bind(built, AgnoDb.make(self._tables, owner_key(order.owner)))
        return built

    def _entry(self, name: str) -> Entry:
        try:
            return self._entries[name]
        except KeyError:
            raise AgentNotFound(name) from None


def _session_inputs(agent: Served[Any, Any], draft: RunDraft) -> BaseModel:
    """Those of the run's session, or of the one that it is to make, which were accepted before."""
    inputs = draft.session.inputs if draft.session else draft.session_inputs
    model: type[BaseModel] = agent.CreateSessionModel
    try:
        return reading.restore(model, inputs)
    except ValidationError:
        raise InvalidInput([_OUTDATED]) from None
    except Exception as error:
        raise _failed(agent, error) from error


def _restored(agent: Served[Any, Any], model: type[BaseModel], inputs: Mapping[str, object]) -> BaseModel:
    """What was accepted, once more: it fits, unless the model does not survive JSON."""
    try:
        return reading.restore(model, inputs)
    except ValidationError as error:
        told = [f"{broken.field}: {broken.description}" for broken in reading.violations_of(error, inputs)]
        # Not the error itself: its text quotes the caller's input.
        _log.error("stored inputs do not fit", extra={"agent_name": agent.name, "violations": told})
        raise AgentFailed(agent.name) from None
    except Exception as error:
        raise _failed(agent, error) from error


def _stored(agent: Served[Any, Any], accepted: BaseModel) -> JsonObject:
    try:
        return reading.stored(accepted)
    except Exception as error:
        raise _failed(agent, error) from error


def _parsed(agent: Served[Any, Any], model: type[BaseModel], inputs: JsonObject) -> BaseModel:
    """The inputs as the model, whose validators are the author's code and may raise anything."""
    try:
        return reading.parse(model, inputs)
    except DragomanError:
        raise
    except Exception as error:
        raise _failed(agent, error) from error


async def _hook(agent: Served[Any, Any], answer: Awaitable[None], fields: frozenset[str]) -> None:
    """Awaits a validation hook. `fields`: what its `Invalid` may name besides places below `inputs`."""
    try:
        await answer
    except DragomanError:
        raise
    except ValidationError as error:
        raise InvalidInput(reading.violations_of(error, None)) from None
    except Invalid as error:
        raise InvalidInput([Violation(_path(error.field, fields), error.description)]) from None
    except ValueError as error:
        raise InvalidInput([Violation(reading.ROOT, str(error) or "is refused by the agent")]) from None
    except Exception as error:
        raise _failed(agent, error) from error


def _path(field: str, fields: frozenset[str]) -> str:
    root = field.replace("[", ".").partition(".")[0]
    if root in fields:
        return field
    if not field or field.startswith("["):
        return reading.ROOT + field
    return f"{reading.ROOT}.{field}"


def _failed(agent: Served[Any, Any], error: Exception) -> AgentFailed:
    _log.error("agent code raised", exc_info=error, extra={"agent_name": agent.name})
    return AgentFailed(agent.name)


def _caller(owner: Owner) -> Caller:
    return Caller(owner.principal, owner.user)
