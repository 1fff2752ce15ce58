"""What a caller needs for each method. A method without a rule is served to nobody, and a server with one does not start.

Sessions, runs, messages, media and usage of others are not forbidden: they are not found (see `storage`). A few methods can
be asked for what is all owners', by administrators alone: figures and how things stand, never what was said.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from dragoman.auth import Scope


@dataclass(frozen=True, slots=True)
class Rule:
    """Who may call a method."""

    needed: Scope
    all_owners: Scope | None = None
    """What it takes to ask for more than one's own; None: nobody can."""


Rules: TypeAlias = Mapping[str, Rule | None]
"""By the method's path; None: everybody may call it, without credentials."""

_AGENTS, _SESSIONS, _RUNS, _USAGE = (
    f"/dragoman.v1.{name}Service" for name in ("Agent", "Session", "Run", "Usage")
)

RULES: Final[Rules] = {
    f"{_AGENTS}/ListAgents": Rule(Scope.READ),
    f"{_AGENTS}/GetAgent": Rule(Scope.READ),
    f"{_SESSIONS}/CreateSession": Rule(Scope.RUN),
    f"{_SESSIONS}/GetSession": Rule(Scope.READ),
    f"{_SESSIONS}/ListSessions": Rule(Scope.READ),
    f"{_SESSIONS}/UpdateSession": Rule(Scope.RUN),
    f"{_SESSIONS}/DeleteSession": Rule(Scope.RUN),
    f"{_SESSIONS}/ListMessages": Rule(Scope.READ),
    f"{_SESSIONS}/GetMedia": Rule(Scope.READ),
    f"{_RUNS}/Run": Rule(Scope.RUN),
    f"{_RUNS}/Execute": Rule(Scope.RUN),
    f"{_RUNS}/AttachRun": Rule(Scope.READ),
    f"{_RUNS}/ContinueRun": Rule(Scope.RUN),
    f"{_RUNS}/CancelRun": Rule(Scope.RUN, all_owners=Scope.ADMIN),
    f"{_RUNS}/GetRun": Rule(Scope.READ),
    f"{_RUNS}/ListRuns": Rule(Scope.READ, all_owners=Scope.ADMIN),
    f"{_USAGE}/QueryUsage": Rule(Scope.READ, all_owners=Scope.ADMIN),
    f"{_USAGE}/GetBudget": Rule(Scope.READ, all_owners=Scope.ADMIN),
    # Probes have no credentials, and learn no more than whether the server serves.
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/List": None,
    "/grpc.health.v1.Health/Watch": None,
    # What the contract looks like is no secret, but is nobody's business who has no key.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Rule(Scope.READ),
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Rule(Scope.READ),
}
