"""What an author has built, made ours for one run: an agent, or a team with all of its members.

What the server does in Agno's place is switched off, throughout; members are attended (`members.py`). The author's own
additional messages stay, and are known as such. What a caller says is no template, though an author's instructions are.
"""

from agno.agent import Agent
from agno.models.message import Message
from agno.team import Team

from dragoman.adapter import members


def take_over(component: Agent | Team, *, is_member: bool = False) -> list[Message]:
    """Switches off what the server does in Agno's place, throughout. Returns the author's own additional messages."""
    component.telemetry = False
    if not is_member:  # members are given theirs by their team, out of what it remembers (remembering.py)
        component.add_history_to_context = False
    component.retries = 0  # another attempt would repeat what was already streamed
    component.store_events = False
    given = [message for message in map(_as_message, component.additional_input or ()) if message]
    component.additional_input = list(given) or None
    if isinstance(component, Team):
        component.stream_member_events = True  # what is told of them is the mapping's affair
        for member in known_members(component):
            members.attend(member)
            given.extend(take_over(member, is_member=True))
    return given


def known_members(team: Team) -> list[Agent | Team]:
    """Those that are known before the run; a team may also make its members when it runs."""
    found: object = team.members
    known = found if isinstance(found, list | tuple) else ()
    return [member for member in known if isinstance(member, Agent | Team)]


def silent_teams(component: Agent | Team | None) -> set[str]:
    """Agno's ids of the teams that keep their members to themselves. To be asked before they are taken over."""
    if not isinstance(component, Team):
        return set()
    silent = set().union(*(silent_teams(member) for member in known_members(component)))
    if not component.stream_member_events:
        component.set_id()
        silent.add(component.id or "")
    return silent


def _as_message(given: object) -> Message | None:
    """What an author put into `additional_input`, as Agno reads it."""
    if isinstance(given, Message):
        return given
    return Message.model_validate(given) if isinstance(given, dict) else None
