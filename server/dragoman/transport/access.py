"""What a caller needs for each method. A method without a rule is served to nobody, and a server with one does not start.

Sessions, runs, messages, media and usage of others are not forbidden: they are not found (see `storage`).
"""

from collections.abc import Mapping
from typing import Final, TypeAlias

from dragoman.auth import Scope

Rules: TypeAlias = Mapping[str, Scope | None]
"""By the method's path; None: everybody may call it, without credentials."""

_AGENTS, _SESSIONS, _RUNS, _USAGE = (
    f"/dragoman.v1.{name}Service" for name in ("Agent", "Session", "Run", "Usage")
)

RULES: Final[Rules] = {
    f"{_AGENTS}/ListAgents": Scope.READ,
    f"{_AGENTS}/GetAgent": Scope.READ,
    f"{_SESSIONS}/CreateSession": Scope.RUN,
    f"{_SESSIONS}/GetSession": Scope.READ,
    f"{_SESSIONS}/ListSessions": Scope.READ,
    f"{_SESSIONS}/UpdateSession": Scope.RUN,
    f"{_SESSIONS}/DeleteSession": Scope.RUN,
    f"{_SESSIONS}/ListMessages": Scope.READ,
    f"{_SESSIONS}/GetMedia": Scope.READ,
    f"{_RUNS}/Run": Scope.RUN,
    f"{_RUNS}/Execute": Scope.RUN,
    f"{_RUNS}/AttachRun": Scope.READ,
    f"{_RUNS}/ContinueRun": Scope.RUN,
    f"{_RUNS}/CancelRun": Scope.RUN,
    f"{_RUNS}/GetRun": Scope.READ,
    f"{_RUNS}/ListRuns": Scope.READ,
    f"{_USAGE}/QueryUsage": Scope.READ,
    f"{_USAGE}/GetBudget": Scope.READ,
    # Probes have no credentials, and learn no more than whether the server serves.
    "/grpc.health.v1.Health/Check": None,
    "/grpc.health.v1.Health/List": None,
    "/grpc.health.v1.Health/Watch": None,
    # What the contract looks like is no secret, but is nobody's business who has no key.
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Scope.READ,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Scope.READ,
}
