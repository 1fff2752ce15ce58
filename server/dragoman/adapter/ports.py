"""What the adapter needs of the catalog and of the store, as Protocols; `app.py` wires the real things in."""

from collections.abc import Sequence
from typing import Protocol
from uuid import UUID

from agno.agent import Agent
from agno.team import Team

from dragoman.engine.ports import RunOrder
from dragoman.records import Media, Message, Owner


class Builder(Protocol):
    """Makes agents."""

    def build(self, name: str, order: RunOrder) -> Agent | Team:
        """A fresh agent or team, for this run alone, around shared models. Raises what the agent's own code raises."""
        ...

    def history_runs(self, name: str) -> int | None:
        """How many earlier runs of its session the agent sees; None for all."""
        ...


class HistorySource(Protocol):
    """Where a session's messages and their media are read from: a part of the store."""

    async def load_history(self, owner: Owner, session_id: UUID, runs: int | None) -> list[Message]:
        """The messages of the last `runs` runs (None: all) of the session's own agent, in order."""
        ...

    async def load_member_history(
        self, owner: Owner, session_id: UUID, names: Sequence[str], each: int, last: int
    ) -> list[Message]:
        """The messages of the members that the session's own team delegated to, in order.

        Of each of `names` its latest `each` runs, as far as they are among the session's `last` runs.
        """
        ...

    async def get_media(self, owner: Owner, hashes: Sequence[bytes]) -> dict[bytes, Media]:
        """Those of the owner's that there are, by hash."""
        ...
