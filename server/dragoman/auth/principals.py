"""Principals and what they may do."""

from dataclasses import dataclass
from enum import StrEnum

from dragoman.patterns import matches
from dragoman.quotas import NO_QUOTAS, Quotas


class Scope(StrEnum):
    """What a caller may do. Each includes those before it."""

    READ = "read"
    """See agents, and sessions, runs, messages and usage of its own."""
    RUN = "run"
    """Run agents: make, change and delete sessions, start, continue and cancel runs."""
    ADMIN = "admin"
    """Look after the server: see usage, budgets and runs of all owners, without what was said, and end their runs."""


_RANK = {scope: rank for rank, scope in enumerate(Scope)}


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls, and what it may do."""

    name: str
    scopes: frozenset[Scope] = frozenset((Scope.RUN,))
    agents: tuple[str, ...] = ("*",)
    """Patterns of the names of agents that it may use."""
    acts_for_users: bool = False
    """Whether it may say for which user it acts, as far as this proof goes."""
    credential: str = ""
    """By what it has proved who it is, for logs, and to end its calls when that is taken back: `key/<id>`."""
    quotas: Quotas = NO_QUOTAS
    """How much it may do, as far as its credentials say so."""
    also: "tuple[Principal, ...]" = ()
    """What it has proved besides: it may do only what all of them allow."""

    @property
    def credentials(self) -> tuple[str, ...]:
        """All by which it has proved who it is; when any one is taken back, its calls end."""
        return tuple(each.credential for each in (self, *self.also) if each.credential)

    def may(self, scope: Scope) -> bool:
        """Whether it has the scope, or one that includes it."""
        return any(_RANK[own] >= _RANK[scope] for own in self.scopes) and all(
            each.may(scope) for each in self.also
        )

    def may_use_all(self) -> bool:
        """Whether no agent is kept from it."""
        return "*" in self.agents and all(each.may_use_all() for each in self.also)

    def may_use(self, agent_name: str) -> bool:
        """Whether the agent is among those that it may use."""
        return any(matches(agent_name, pattern) for pattern in self.agents) and all(
            each.may_use(agent_name) for each in self.also
        )


LOCAL = Principal("local", frozenset(Scope), acts_for_users=True)
"""Whoever can reach a server that does not authenticate."""
