"""What members remember: those with `add_history_to_context` are given what they said in earlier runs.

A member has no session of its own. Agno looks for what it has said in the session of the team that delegates to it, and
passes that on with the task; what comes of the task is added to the session, for the next one. So the team is given a
session in which its members' earlier runs are, and all else is Agno's: how many runs a member is given, and how.

A team within the team begins its session afresh with each task, here as with Agno's own database: its members remember
what they were asked during that task. A session that no member asks for is not made, and nothing is read.
"""

from typing import Final

from agno.agent import Agent
from agno.run import RunStatus
from agno.run.agent import RunOutput
from agno.run.team import TeamRunOutput
from agno.team import Team
from agno.team._storage import _aread_or_create_session  # the way on which a team's own run gets it

from dragoman.adapter import history
from dragoman.adapter.components import known_members
from dragoman.adapter.ports import HistorySource
from dragoman.engine.ports import RunOrder

WINDOW: Final = 100
"""Runs of a session among which members' earlier ones are looked for: what a long session costs is bounded."""

_STATUS: Final = RunStatus.running
"""Of completed runs Agno would also tell what they were asked and answered, which is not known of these."""


async def remind(team: Team, source: HistorySource, order: RunOrder) -> None:
    """Gives the team the session that its members' memories are in. Raises StorageUnavailable, MediaMissing."""
    keeping = _keeping(team)
    if not keeping:
        return
    each = max(_runs(member, team) for member in keeping.values())
    stored = await source.load_member_history(order.owner, order.session.id, list(keeping), each, WINDOW)
    earlier = await history.restored(source, order, stored)
    if not earlier:
        return
    team.set_id()
    session_id, user_id = str(order.session.id), order.owner.user or None
    session = await _aread_or_create_session(team, session_id=session_id, user_id=user_id)
    session.runs = [
        *(_output(keeping[run.agent_name], run, session_id) for run in earlier),
        *(session.runs or ()),
    ]
    team._set_cached_session(session)  # noqa: SLF001  its own run looks there first


def _keeping(team: Team) -> dict[str, Agent | Team]:
    """The members that keep their history, by the names under which they are stored.

    Agno lets a leader delegate to members of its members, too. Of two with one name nobody could say who spoke.
    """
    found: dict[str, Agent | Team] = {}
    twice: set[str] = set()
    for member in _all(team):
        member.set_id()
        name = member.name or member.id or ""
        twice.update({name} & found.keys())
        found[name] = member
    return {
        name: member for name, member in found.items() if member.add_history_to_context and name not in twice
    }


def _all(team: Team) -> list[Agent | Team]:
    found: list[Agent | Team] = []
    for member in known_members(team):
        found.append(member)
        if isinstance(member, Team):
            found.extend(_all(member))
    return found


def _runs(member: Agent | Team, team: Team) -> int:
    """How many earlier runs the member is given at most."""
    return min(member.num_history_runs or team.num_history_runs or WINDOW, WINDOW)


def _output(member: Agent | Team, run: history.Earlier, session_id: str) -> RunOutput | TeamRunOutput:
    """The member's earlier run as Agno keeps it in the session of its team."""
    run_id, parent_run_id = str(run.run_id), str(run.parent_run_id)
    if isinstance(member, Agent):
        return RunOutput(
            run_id=run_id,
            parent_run_id=parent_run_id,
            session_id=session_id,
            agent_id=member.id,
            agent_name=member.name,
            messages=run.messages,
            status=_STATUS,
        )
    return TeamRunOutput(
        run_id=run_id,
        parent_run_id=parent_run_id,
        session_id=session_id,
        team_id=member.id,
        team_name=member.name,
        messages=run.messages,
        status=_STATUS,
    )
