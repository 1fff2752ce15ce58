"""A session's turn: who has it, who waits for it, who gets it next.

`sessions.active_run_id` has the turn. It is claimed by one conditional UPDATE; a run that comes second is refused or waits,
as QUEUED, with a ticket that is allocated under the lock of the session's row. The transaction that ends a run hands the
turn to the lowest ticket, so at no moment is the session free for somebody else. A paused run keeps it.
"""

from dataclasses import dataclass, replace
from uuid import UUID

import sqlalchemy as sa

from dragoman.engine.ports import Started
from dragoman.errors import SessionBusy, SessionNotFound, TooManyRuns
from dragoman.records import (
    Cancellation,
    RequestKey,
    Run,
    RunStatus,
    Session,
    SessionConflict,
)
from dragoman.storage import requests as request_rows
from dragoman.storage import runs as run_rows
from dragoman.storage import sessions as session_rows
from dragoman.storage.clock import now
from dragoman.storage.rows import cancellation_values, of, owned, run_values, session_values
from dragoman.storage.tables import runs, sessions
from dragoman.v1 import event_pb2

_QUEUED, _RUNNING, _PAUSED = str(RunStatus.QUEUED), str(RunStatus.RUNNING), str(RunStatus.PAUSED)

_INSERT = sa.insert(runs).values(lease_time=now())
_INSERT_SESSION = sa.insert(sessions)
_OF_AGENT = sa.and_(
    sessions.c.id == sa.bindparam("session"), owned(sessions), sessions.c.agent_name == sa.bindparam("agent")
)
_COUNT = {"run_count": sessions.c.run_count + 1, "update_time": sa.bindparam("now")}
_CLAIM = (
    sa.update(sessions)
    .where(_OF_AGENT, sessions.c.active_run_id.is_(None))
    .values(active_run_id=sa.bindparam("run"), **_COUNT)
)
_LINE_UP = sa.update(sessions).where(_OF_AGENT).values(**_COUNT)
_TURN = sa.select(sessions.c.active_run_id).where(_OF_AGENT).with_for_update()
_BEFORE = (
    sa.select(runs)
    .where(
        runs.c.session_id == sa.bindparam("session"),
        owned(runs),
        runs.c.status.in_((_QUEUED, _RUNNING, _PAUSED)),
        sa.or_(
            runs.c.id == sa.bindparam("active"),
            sa.and_(runs.c.status == _QUEUED, runs.c.ticket < sa.bindparam("own_ticket")),
        ),
    )
    .order_by(runs.c.create_time, runs.c.id)
)
_WAITING = sa.and_(
    runs.c.session_id == sa.bindparam("session"),
    runs.c.status == _QUEUED,
    # Those that are asked to end will do so, and get the turn no more.
    runs.c.cancel_reason.is_(None),
)
_AHEAD = (
    sa.select(sa.func.count()).select_from(runs).where(_WAITING, runs.c.ticket < sa.bindparam("own_ticket"))
)
_INTERRUPT = (
    sa.update(runs)
    .where(
        runs.c.id.in_(sa.bindparam("runs", expanding=True)),
        runs.c.status.in_((_QUEUED, _RUNNING)),
        runs.c.cancel_reason.is_(None),
    )
    .values(**cancellation_values(Cancellation(event_pb2.CANCEL_REASON_INTERRUPTED)))
)
_NEXT = sa.select(runs.c.id).where(_WAITING).order_by(runs.c.ticket).limit(1)
_GIVE = sa.update(runs).where(runs.c.id == sa.bindparam("run")).values(status=_RUNNING)


@dataclass(frozen=True, slots=True)
class Start:
    """What is asked for: a run, in a new session or not, and what is to be done when the turn is taken."""

    run: Run
    new_session: Session | None
    conflict: SessionConflict
    max_queued: int
    request: RequestKey | None


def start(connection: sa.Connection, wanted: Start) -> Started:
    """Claims the session's turn, or makes the session, or queues the run; and inserts it.

    Harmless a second time: an attempt whose commit was not acknowledged is recognised by the run's id.
    Raises SessionNotFound, SessionBusy, TooManyRuns, RequestIdReused, and IntegrityError when the same request has been
    made at the same moment: to try again finds it.
    """
    run = wanted.run
    if (before := _earlier(connection, wanted)) is not None:
        return before
    if wanted.new_session is None:
        return _start_in(connection, wanted)
    if session_rows.lock(connection, run.owner, run.session_id) is not None:
        return _again(connection, wanted)
    run = replace(run, status=RunStatus.RUNNING)
    taken = replace(
        wanted.new_session,
        active_run_id=run.id,
        run_count=wanted.new_session.run_count + 1,
        update_time=run.create_time,
    )
    connection.execute(_INSERT_SESSION, session_values(taken))
    _insert(connection, wanted, run, None)
    return Started(run, taken)


def hand_over(connection: sa.Connection, session_id: UUID) -> UUID | None:
    """Gives the turn to the run that has waited longest, and returns it; the caller notes it in the session's row, which
    is locked. None: nobody waits."""
    following: UUID | None = connection.execute(_NEXT, {"session": session_id}).scalar()
    if following is not None:
        connection.execute(_GIVE, {"run": following})
    return following


def _start_in(connection: sa.Connection, wanted: Start) -> Started:
    """Starts or queues the run in a session that is there."""
    run = wanted.run
    this = {"session": run.session_id, "agent": run.agent_name, **of(run.owner)}
    counted = {**this, "now": run.create_time}
    while not connection.execute(_CLAIM, {**counted, "run": run.id}).rowcount:
        # Locked, so that what is read is what stands: an ordinary read could show the session as free a moment later.
        turn = connection.execute(_TURN, this).first()
        if turn is None:
            raise SessionNotFound(run.session_id)
        if turn.active_run_id is not None:
            return _wait(connection, wanted, turn.active_run_id, counted)
    run = replace(run, status=RunStatus.RUNNING)
    _insert(connection, wanted, run, None)
    return Started(run, session_rows.get(connection, run.owner, run.session_id))


def _wait(
    connection: sa.Connection, wanted: Start, active_run_id: UUID, counted: dict[str, object]
) -> Started:
    """Queues the run, or refuses it, in a session whose turn is taken and whose row is locked."""
    run = wanted.run
    # Once more, now that nobody can come in between: it may be the same request that has the turn.
    if (before := _earlier(connection, wanted)) is not None:
        return before
    if run_rows.exists(connection, run.owner, run.id):
        return _again(connection, wanted)
    if wanted.conflict is SessionConflict.REJECT:
        raise SessionBusy(run.session_id, active_run_id)
    connection.execute(_LINE_UP, counted)
    session = session_rows.get(connection, run.owner, run.session_id)
    ticket = session.run_count
    interrupted: tuple[Run, ...] = ()
    if wanted.conflict is SessionConflict.INTERRUPT:
        interrupted = _before(connection, session, ticket)
        connection.execute(_INTERRUPT, {"runs": sorted(other.id for other in interrupted)})
    ahead = _ahead(connection, run.session_id, ticket)
    if wanted.conflict is SessionConflict.QUEUE and ahead >= wanted.max_queued:
        raise TooManyRuns(wanted.max_queued, run.session_id)
    run = replace(run, status=RunStatus.QUEUED)
    _insert(connection, wanted, run, ticket)
    return Started(run, session, position=ahead + 1, interrupted=interrupted)


def _insert(connection: sa.Connection, wanted: Start, run: Run, ticket: int | None) -> None:
    connection.execute(_INSERT, run_values(run, ticket))
    if wanted.request is not None:
        request_rows.insert(connection, run.owner, wanted.request, run.session_id, run.id, run.create_time)


def _earlier(connection: sa.Connection, wanted: Start) -> Started | None:
    """What the same request has come to, if it was made before: by another call, or by an attempt of this one."""
    if wanted.request is None:
        return None
    record = request_rows.find(connection, wanted.run.owner, wanted.request)
    if record is None or record.run_id is None:
        return None
    if record.run_id == wanted.run.id:
        return _again(connection, wanted)
    owner = wanted.run.owner
    run = run_rows.get(connection, owner, record.run_id)
    position = 0
    if run.status is RunStatus.QUEUED:
        position = _ahead(connection, run.session_id, run_rows.ticket(connection, run.id)) + 1
    return Started(run, session_rows.get(connection, owner, run.session_id), created=False, position=position)


def _again(connection: sa.Connection, wanted: Start) -> Started:
    """What an attempt of this call has done whose commit was not acknowledged."""
    run = run_rows.get(connection, wanted.run.owner, wanted.run.id)
    session = session_rows.get(connection, run.owner, run.session_id)
    if run.status is not RunStatus.QUEUED:
        return Started(run, session)
    ticket = run_rows.ticket(connection, run.id)
    interrupts = wanted.conflict is SessionConflict.INTERRUPT
    return Started(
        run,
        session,
        position=_ahead(connection, run.session_id, ticket) + 1,
        interrupted=_before(connection, session, ticket) if interrupts else (),
    )


def _ahead(connection: sa.Connection, session_id: UUID, ticket: int) -> int:
    """How many wait that came before."""
    return connection.execute(_AHEAD, {"session": session_id, "own_ticket": ticket}).scalar_one()


def _before(connection: sa.Connection, session: Session, ticket: int) -> tuple[Run, ...]:
    """The run that has the turn, and those that wait and came before."""
    places = {"session": session.id, "active": session.active_run_id, "own_ticket": ticket}
    return tuple(run_rows.all_of(connection, _BEFORE, {**places, **of(session.owner)}))
