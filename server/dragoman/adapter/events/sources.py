"""The runs that the events of one run are from: its own, and those of a team's members.

Agno marks each event with the id of the run that made it, and the events of members also with the run that delegated
to it. A member is known from its first event on. What the mapping must remember from one event to the next, it keeps
here, per run: which media it has given out, whose end was a cancellation, the sound that is being spoken.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from agno.media import Audio, File, Image, Video

from dragoman.adapter.values import clean
from dragoman.errors import DragomanError
from dragoman.records import Totals
from dragoman.v1 import event_pb2, message_pb2

logger = logging.getLogger(__name__)

AgnoMedia: TypeAlias = Image | File | Audio | Video
FinishCall: TypeAlias = Callable[[Any], event_pb2.RunEvent | None]
ShowMedia: TypeAlias = Callable[[AgnoMedia], message_pb2.Media]
Spent: TypeAlias = Callable[[str], Totals]
Classify: TypeAlias = Callable[[Any, str, str], DragomanError]


@dataclass(frozen=True, slots=True)
class Accounts:
    """What the mapping must ask others."""

    finish_call: FinishCall
    """`model_request_completed` of Agno's event, with tokens and cost; None is no event."""
    show_media: ShowMedia
    """The medium as a proto; one for which it raises is logged and left out."""
    spent: Spent
    """What a member's own calls have come to by now, by Agno's run id."""
    classify: Classify
    """Why a member failed: of Agno's event, the member's name and its model's provider."""


_HIGH = ("\ud800", "\udbff")
"""First and last of the surrogates that begin a pair."""


@dataclass(slots=True)
class Source:
    """A run that events are from."""

    name: str
    accounts: Accounts
    member: event_pb2.Member | None = None
    """None: the run's own agent or leader."""
    begun: bool = True
    """False until a member's beginning is told."""
    hidden: bool = False
    """True when what it says and does is not for callers."""
    team_id: str = ""
    """Agno's, of a run that is a team's."""
    provider: str = ""
    """Of its model, once it has begun."""
    cancelled: bool = False
    half_failed: set[str] = field(default_factory=set)
    """Tool calls of whose failure one of Agno's two events has come."""
    sound: list[Audio] = field(default_factory=list)
    """Pieces of the sound that the model is speaking."""
    half: str = ""
    """The first half of a character whose second one comes with the next piece of text."""
    _shown: dict[int, AgnoMedia] = field(default_factory=dict)
    """By identity, and held so that no identity is used again."""

    def whole(self, text: str) -> str:
        """The text, cleaned, with what the piece before it has left over; half a character at its end is kept back."""
        if self.half:
            text, self.half = self.half + text, ""
        if not text.isascii() and _HIGH[0] <= text[-1] <= _HIGH[1]:
            text, self.half = text[:-1], text[-1]
        return clean(text)

    def fresh(self, *media: Sequence[AgnoMedia] | None) -> list[message_pb2.Media]:
        """Those media that have not been given out: with each tool call Agno repeats all earlier ones of the run."""
        fresh: list[message_pb2.Media] = []
        for medium in (medium for some in media for medium in some or ()):
            if id(medium) in self._shown:
                continue
            self._shown[id(medium)] = medium
            try:
                fresh.append(self.accounts.show_media(medium))
            except Exception:
                logger.exception("a medium cannot be shown", extra={"media_class": type(medium).__name__})
        return fresh


class Sources:
    """All of them, by Agno's run id. An event without one is the run's own."""

    def __init__(
        self,
        root_run_id: str,
        agent_name: str,
        accounts: Accounts,
        members: Iterable[event_pb2.Member],
        silent_teams: Collection[str],
    ) -> None:
        self._accounts = accounts
        self._silent = silent_teams
        root = Source(agent_name, accounts)
        self._by_run_id: dict[str | None, Source] = {root_run_id: root, None: root, "": root}
        for member in members:
            self._by_run_id[member.run_id] = Source(member.agent_name, accounts, member)

    def of(self, event: Any) -> Source:
        """Whose event it is."""
        source = self._by_run_id.get(getattr(event, "run_id", None)) or self._join(event)
        source.team_id = source.team_id or getattr(event, "team_id", None) or ""
        return source

    def members(self) -> dict[str, event_pb2.Member]:
        """The members seen so far, by run id."""
        return {s.member.run_id: s.member for s in self._by_run_id.values() if s.member is not None}

    def _join(self, event: Any) -> Source:
        names = (getattr(event, key, None) for key in ("agent_name", "team_name", "agent_id", "team_id"))
        name = clean(next((name for name in names if name), ""))
        parent = getattr(event, "parent_run_id", None) or ""
        member = event_pb2.Member(agent_name=name, run_id=event.run_id, parent_run_id=parent)
        source = self._by_run_id[event.run_id] = Source(name, self._accounts, member, begun=False)
        team = self._by_run_id.get(parent)
        source.hidden = team is not None and (team.hidden or team.team_id in self._silent)
        return source
