"""What one imports to write an agent: see `docs/writing-agents.md`.

    from dragoman.agents import BaseAgent, BaseTeam, Caller, Invalid, Limits, MediaKind, RunSetup

An agent is a class with a name, two Pydantic models for what callers may send, hooks that may refuse it, and
`build_agent`, which makes an Agno agent; a team likewise, with `build_team`. A plain Agno `Agent` or `Team` is served as
well, without any of this.
"""

from dragoman.agents.base import (
    DEFAULT_HISTORY_RUNS,
    BaseAgent,
    BaseTeam,
    Caller,
    Invalid,
    NoInputs,
    RunSetup,
)
from dragoman.engine.ports import MediaKind
from dragoman.records import Limits

__all__ = [
    "DEFAULT_HISTORY_RUNS",
    "BaseAgent",
    "BaseTeam",
    "Caller",
    "Invalid",
    "Limits",
    "MediaKind",
    "NoInputs",
    "RunSetup",
]
