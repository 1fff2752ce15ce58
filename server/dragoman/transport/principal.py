"""Who makes a call, and on whose behalf. Everything that a servicer reads or writes is scoped by the owner."""

from contextvars import ContextVar

from dragoman import observing
from dragoman.auth import Principal
from dragoman.errors import AgentNotFound
from dragoman.records import Owner

_OWNER: ContextVar[Owner] = ContextVar("dragoman_owner")
_PRINCIPAL: ContextVar[Principal] = ContextVar("dragoman_principal")


def bind(principal: Principal, owner: Owner) -> None:
    """Says whose the current call is. Each call has a context of its own, so nothing has to be taken back."""
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
