"""What one imports to write an agent: see `docs/writing-agents.md`.

    from dragoman.agents import BaseAgent, BaseTeam, Caller, Invalid, Limits, MediaKind, RunSetup, agno_db

An agent is a class with a name, two Pydantic models for what callers may send, hooks that may refuse it, and
`build_agent`, which makes an Agno agent; a team likewise, with `build_team`. A plain Agno `Agent` or `Team` is served as
well, without any of this. `agno_db()` is where agents keep memories and session state.
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
from dragoman.agents.database import agno_db
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
    "agno_db",
]
