"""What a database is like, for whoever looks whether it will do: asked in one go, changing nothing.

What is written to see whether it can be is rolled back. A SQLite file that is not there is not made.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.engine import URL, Engine

from dragoman import ids
from dragoman.records import Owner, Session, utcnow
from dragoman.storage import clock, engines, sessions
from dragoman.storage.migrate import DatabaseUnusable, SchemaState, state_of

VARIABLES = (
    "binlog_format",
    "innodb_flush_log_at_trx_commit",
    "log_bin",
    "max_allowed_packet",
    "max_connections",
    "read_only",
    "super_read_only",
    "tidb_txn_mode",
    "version",
    "version_comment",
    "wsrep_on",
    "wsrep_sync_wait",
)
STATUS = ("Ssl_cipher", "wsrep_cluster_status", "wsrep_ready")


@dataclass(frozen=True, slots=True)
class Examined:
    """What a database says of itself. Names and values are the server's own; those that it has not are missing."""

    description: str
    """Kind and place; never credentials."""
    sqlite: Path | None
    """The file, of SQLite on disk."""
    schema: SchemaState
    variables: Mapping[str, str] = field(default_factory=dict)
    isolation: str = ""
    """Of our transactions: `READ-COMMITTED`."""
    skew: float = 0.0
    """Seconds by which its clock is ahead of ours."""
    refused: str = ""
    """Why nothing can be written, in the driver's words; empty when it can, or when there are no tables yet."""

    def is_on(self, name: str) -> bool:
        """Whether a variable is switched on, however the server writes that."""
        return self.variables.get(name, "").upper() in ("1", "ON", "YES")


def examine(url: str) -> Examined:
    """What the database at `url` is like. Blocks. Raises ValueError for one that is not supported, DatabaseUnusable."""
    parsed = engines.parse(url)
    try:
        return _examine(parsed)
    except sa.exc.DBAPIError as error:
        raise DatabaseUnusable(error.orig) from error
    except (ImportError, TypeError) as error:  # no such driver; an option that it does not know
        raise DatabaseUnusable(error) from error


def _examine(url: URL) -> Examined:
    schema = state_of(url)
    if engines.is_memory(url):
        return Examined(engines.describe(url), None, schema)
    file = engines.file_of(url)
    if file is not None and not file.exists():
        folder = file.absolute().parent
        refused = "" if os.access(folder, os.W_OK) else f"the folder {folder} cannot be written to"
        return Examined(engines.describe(url), file, schema, refused=refused)
    engine = engines.for_examination(url)
    try:
        variables, isolation = ({}, "") if file is not None else _variables(engine)
        return Examined(
            engines.describe(url, mariadb=bool(getattr(engine.dialect, "is_mariadb", False))),
            file,
            schema,
            variables,
            isolation,
            _skew(engine),
            _refused(engine) if schema.up_to_date else "",
        )
    finally:
        engine.dispose()


def _variables(engine: Engine) -> tuple[dict[str, str], str]:
    found: dict[str, str] = {}
    with engine.connect() as connection:
        for kind, names in (("GLOBAL VARIABLES", VARIABLES), ("SESSION STATUS", STATUS)):
            listed = ", ".join(f"'{name}'" for name in names)
            rows = connection.exec_driver_sql(f"SHOW {kind} WHERE Variable_name IN ({listed})")
            found |= {str(name): str(value) for name, value in rows}
        return found, (connection.get_isolation_level() or "").replace(" ", "-")


def _skew(engine: Engine) -> float:
    with engine.connect() as connection:
        before = utcnow()
        told: datetime = connection.execute(sa.select(clock.now())).scalar_one()
        after = utcnow()
    return (told.astimezone(UTC) - (before + (after - before) / 2)).total_seconds()


def _refused(engine: Engine) -> str:
    """Why no session can be made; empty when one can. It is never committed."""
    now = utcnow()
    session = Session(
        id=ids.new_id(),
        owner=Owner("dragoman-doctor", ""),
        agent_name="doctor",
        title="",
        metadata={},
        inputs={},
        create_time=now,
        update_time=now,
    )
    try:
        with engine.connect() as connection, connection.begin() as transaction:
            sessions.insert(connection, session, None)
            transaction.rollback()
    except sa.exc.DBAPIError as error:
        return str(error.orig)
    return ""
