"""THE mapping: what Agno says of a run, as `dragoman.v1.RunEvent`.

One `Mapping` serves one run. The runner gives it each object that Agno yields and gets our events for it, none, one
or several, without sequence and time. A function in one of the modules here is registered for the Agno events that it
maps, an agent's and a team's alike, and names the fields of RunEvent's oneof that it fills. Adding an event is adding
a function; nothing else.

    content    what the model writes          tools     tool calls
    runs       members, requests to models    tasks     the tasks of a team
    around     hooks, memories, summaries     custom    events of the agent's own code

Whose event it is follows from Agno's run id. The run's own agent or leader has `root_run_id` and no `member`. Any other
run is a member's: its events carry who it is, and its start and end are events here, the start before all else. The
start and the end of the run itself are not: those the engine writes. In route mode a leader answers with its member's
words; Agno gives them once, as the leader's own content, and so they appear once, without a member.

Of a team whose author lets it keep its members to itself (`stream_member_events=False`), callers are told that a member
runs, what it asks of models and what that costs; not what it says and does.

Nothing is lost and nothing raises. An event that this version does not know, and one whose mapping fails, becomes
`unmapped`, is counted, and is logged once per type.
"""

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from enum import Enum
from typing import Final

from agno.run.agent import RunOutput
from agno.run.team import TeamRunOutput

from dragoman.adapter.events import around, content, custom, runs, tasks, tools
from dragoman.adapter.events.registry import FIELDS, HANDLERS, Handler
from dragoman.adapter.events.sources import Accounts, AgnoMedia, Source, Sources
from dragoman.adapter.pauses import requirements
from dragoman.adapter.values import clean, to_json
from dragoman.v1 import event_pb2
from dragoman.v1.event_pb2 import RunEvent

__all__ = ["FIELDS", "HANDLERS", "Accounts", "AgnoMedia", "Mapping", "requirements"]

logger = logging.getLogger(__name__)

MODULES: Final = (content, tools, runs, tasks, around, custom)
"""Importing them fills the registry."""

EXCEPTION_TEXTS: Final = frozenset({"error", "exception", "traceback"})
"""Attributes that are left out of an unmapped event: what an exception says is for the log only."""

OF_HIDDEN: Final = frozenset(
    {
        "member_run_started",
        "member_run_completed",
        "member_run_failed",
        "member_run_cancelled",
        "member_run_paused",
        "member_run_continued",
        "model_request_started",
        "model_request_completed",
    }
)
"""What is told of members that their team keeps to itself."""

MAX_JSON: Final = 64 * 1024
"""Bytes of the JSON of an unmapped event at most."""


class Mapping:
    """Maps the events of one run. Synchronous and quick; `map` never raises. Used by one task.

    `members`: those that had begun before the run was paused. `silent_teams`: Agno's ids of the teams that keep their
    members to themselves.
    """

    def __init__(
        self,
        *,
        root_run_id: str,
        agent_name: str,
        accounts: Accounts,
        members: Iterable[event_pb2.Member] = (),
        silent_teams: Collection[str] = (),
    ) -> None:
        self.unmapped: Counter[str] = Counter()
        """How often each unknown type of event has come."""
        self._sources = Sources(root_run_id, agent_name, accounts, members, silent_teams)

    def map(self, event: object) -> list[RunEvent]:
        """Our events for one object that Agno yielded, in order."""
        source = None
        try:
            source = self._sources.of(event)
            handler = HANDLERS.get(getattr(event, "event", "")) or self._fallback(event)
            made = handler(event, source)
        except Exception as error:  # noqa: BLE001  whatever an agent puts into its events, the run goes on
            made = [self._unmapped(event, error)]
        if source is None or source.member is None:
            return made
        return _of_member(made, source, source.member)

    def members(self) -> dict[str, event_pb2.Member]:
        """The members seen so far, by run id: what `requirements` needs to know of nested teams."""
        return self._sources.members()

    def _fallback(self, event: object) -> Handler:
        """The function for an event whose `event` is not registered as it is."""
        if isinstance(event, RunOutput | TeamRunOutput):
            return lambda *_: []  # the result, which Agno yields after the events: the runner reads it
        if isinstance(event, custom.CLASSES):
            return custom.map_custom
        known = HANDLERS.get(_kind(event))  # an Enum member does not hash like its value
        return known or (lambda event, _: [self._unmapped(event, None)])

    def _unmapped(self, event: object, error: Exception | None) -> RunEvent:
        name = clean(_kind(event))
        self.unmapped[name] += 1
        if self.unmapped[name] == 1:
            problem = "cannot be mapped" if error else "is not known"
            logger.warning("an event of the agent %s", problem, exc_info=error, extra={"event_type": name})
        carried = dict(vars(event)) if hasattr(event, "__dict__") else {"value": event}
        for key in EXCEPTION_TEXTS & carried.keys():
            del carried[key]
        return RunEvent(
            unmapped=event_pb2.UnmappedEvent(type=name, json=to_json(carried, max_bytes=MAX_JSON))
        )


def _of_member(made: list[RunEvent], source: Source, member: event_pb2.Member) -> list[RunEvent]:
    """The member's events, with its name; first of all, that it has begun."""
    if not source.begun:
        source.begun = True
        if not (made and made[0].HasField("member_run_started")):  # hooks come before Agno says so
            made = [RunEvent(member_run_started=event_pb2.MemberRunStarted()), *made]
    if source.hidden:
        made = [one for one in made if one.WhichOneof("event") in OF_HIDDEN]
    for one in made:
        if source.hidden and one.HasField("member_run_completed"):
            one.member_run_completed.content = ""
        one.member.CopyFrom(member)
    return made


def _kind(event: object) -> str:
    """Agno's event string; for what has none, the class."""
    try:
        kind = getattr(event, "event", None)
    except Exception:  # noqa: BLE001  a property of an author's class may raise anything
        kind = None
    kind = kind.value if isinstance(kind, Enum) else kind
    return kind if isinstance(kind, str) and kind else type(event).__name__
