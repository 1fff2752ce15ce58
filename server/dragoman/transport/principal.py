"""On whose behalf a call is made. Everything that a servicer reads or writes is scoped by it."""

from contextvars import ContextVar

from dragoman.records import Owner

LOCAL = Owner("local")
"""Whoever can reach a server that does not authenticate: it listens on loopback only."""

_OWNER: ContextVar[Owner] = ContextVar("dragoman_owner")


def bind(owner: Owner) -> None:
    """Says whose the current call is. Each call has a context of its own, so nothing has to be taken back."""
    _OWNER.set(owner)


def current_owner() -> Owner:
    """The owner of the current call. Raises LookupError outside of one: a defect, never a default."""
    return _OWNER.get()
