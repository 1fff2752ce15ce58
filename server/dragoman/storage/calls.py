"""The ledger's rows: model calls, booked while their run goes on and once more, for good, when it ends.

A call has one id from its first report of usage on. To book it again is to delete and to insert it: every database does
that alike, and a transaction shows nobody the moment in between.
"""

from collections.abc import Iterable
from uuid import UUID

import sqlalchemy as sa

from dragoman.records import ModelCall, Owner, RunCalls, RunEnd
from dragoman.storage.rows import Values, call_of, call_values
from dragoman.storage.runs import exists
from dragoman.storage.sessions import BATCH
from dragoman.storage.tables import model_call_prices, model_calls

_INSERT = sa.insert(model_calls)
_DELETE = sa.delete(model_calls).where(model_calls.c.id.in_(sa.bindparam("calls", expanding=True)))
_OF_CALLS = model_call_prices.c.call_id.in_(sa.bindparam("calls", expanding=True))
_HISTORY = sa.select(model_call_prices).where(_OF_CALLS)
_FORGET = sa.delete(model_call_prices).where(_OF_CALLS)
_REMEMBER = sa.insert(model_call_prices)
_OF_RUN = (
    sa.select(model_calls)
    .where(model_calls.c.root_run_id == sa.bindparam("run"))
    .order_by(model_calls.c.start_time, model_calls.c.id)
)


def book(connection: sa.Connection, booked: Iterable[RunCalls]) -> None:
    """Books calls of runs under way, in place of what was booked of them before."""
    _replace(
        connection,
        [
            call_values(
                call, of_run.owner, of_run.session_id, of_run.run_id, of_run.agent_name, of_run.currency
            )
            for of_run in booked
            for call in of_run.calls
        ],
    )


def settle(connection: sa.Connection, end: RunEnd, agent_name: str, *, booked: bool) -> None:
    """Books the calls of a run that ends. `booked`: some of them may be there already."""
    rows = [
        call_values(call, end.owner, end.session_id, end.run_id, agent_name, end.totals.currency)
        for call in end.calls
    ]
    if booked:
        _replace(connection, rows)
    elif rows:
        connection.execute(_INSERT, rows)


def settle_late(connection: sa.Connection, end: RunEnd, agent_name: str) -> None:
    """Books the calls of a run that another process has ended, in place of what that one has booked.

    Only ended runs are priced again (see reprice.py), so it is only here that a call may have earlier prices, which refer to
    its row. They stay; but its cost is again the one that it had when it was made.
    """
    ids = [call.id for call in end.calls]
    earlier: list[Values] = []
    for start in range(0, len(ids), BATCH):
        named = {"calls": ids[start : start + BATCH]}
        earlier += [dict(row) for row in connection.execute(_HISTORY, named).mappings()]
        connection.execute(_FORGET, named)
    settle(connection, end, agent_name, booked=True)
    if earlier:
        connection.execute(_REMEMBER, earlier)


def of_run(connection: sa.Connection, owner: Owner, run_id: UUID) -> list[ModelCall]:
    """Those of a run and its members, by the time at which they began; none when the owner has no such run."""
    # Not with the owner's columns in one query: SQLite would go through all calls of the owner.
    if not exists(connection, owner, run_id):
        return []
    return [call_of(row) for row in connection.execute(_OF_RUN, {"run": run_id})]


def _replace(connection: sa.Connection, rows: list[Values]) -> None:
    # By their ids and in their order, the last of each alone: two processes must not wait for each other.
    latest = {row["id"]: row for row in rows}
    ordered = [latest[key] for key in sorted(latest)]
    for start in range(0, len(ordered), BATCH):
        some = ordered[start : start + BATCH]
        connection.execute(_DELETE, {"calls": [row["id"] for row in some]})
        connection.execute(_INSERT, some)
