"""Who makes a call, and on whose behalf. Everything that a servicer reads or writes is scoped by the owner."""

from contextvars import ContextVar

from dragoman import observing
from dragoman.auth import Principal, Scope
from dragoman.errors import AgentNotFound, PermissionDenied
from dragoman.records import Owner

_OWNER: ContextVar[Owner] = ContextVar("dragoman_owner")
_PRINCIPAL: ContextVar[Principal] = ContextVar("dragoman_principal")
_ALL_OWNERS: ContextVar[Scope | None] = ContextVar("dragoman_all_owners")


def bind(principal: Principal, owner: Owner, *, all_owners: Scope | None = None) -> None:
    """Says whose the current call is, and what it takes to ask it for what is others'. Each call has a context of its own,
    so nothing has to be taken back."""
    _ALL_OWNERS.set(all_owners)
    _PRINCIPAL.set(principal)
    _OWNER.set(owner)
    observing.bind(principal=principal.name)


def known_principal() -> Principal | None:
    """Who makes the current call, as far as that is known yet."""
    return _PRINCIPAL.get(None)


def current_principal() -> Principal:
    """Who makes the current call. Raises LookupError outside of one."""
    return _PRINCIPAL.get()


def current_owner() -> Owner:
    """The owner of the current call. Raises LookupError outside of one: a defect, never a default."""
    return _OWNER.get()


def may_use(agent_name: str) -> bool:
    """Whether the caller may use the agent. Raises LookupError outside of a call."""
    return _PRINCIPAL.get().may_use(agent_name)


def check_agent(agent_name: str) -> None:
    """Raises AgentNotFound for an agent that the caller may not use: to it, there is none."""
    if not may_use(agent_name):
        raise AgentNotFound(agent_name)


def check_all_owners() -> None:
    """Raises PermissionDenied unless the caller may ask this method for what is others'."""
    needed = _ALL_OWNERS.get()
    if needed is None:
        raise AssertionError("the method has no rule for what is others'")
    if not _PRINCIPAL.get().may(needed):
        raise PermissionDenied(f"scope {needed}")


def check_all_agents(agent_name: str) -> None:
    """What is asked about all owners is about this agent, or about all: raises AgentNotFound, PermissionDenied unless the
    caller may use it, or them."""
    if agent_name:
        check_agent(agent_name)
    elif not _PRINCIPAL.get().may_use_all():
        raise PermissionDenied("all agents, or an agent_name")
