"""Storage: the engine's `Store` on SQLite, MySQL and MariaDB, and the migrations of its schema.

    store.py      SqlStore: one transaction per call, writes that outlive their callers
    turns.py      who has a session's turn: starts of runs;  ends.py  their ends;  pauses.py, continues.py  in between
    sessions.py, runs.py, requests.py, events.py, messages.py, media.py, calls.py, usage.py      the other statements
    reprice.py    other costs for calls that are booked
    rows.py       records as rows;  codec.py  large values;  types.py  column types;  tables.py  the tables
    database.py   threads, bounded queues, repetition;  engines.py  set-up per database;  failures.py  what errors mean
    clock.py      the database's own time
    examine.py    what a database is like
    migrate.py    the schema's state and upgrade;  migrations/  the Alembic revisions

Nobody else imports SQLAlchemy or Alembic.
"""

from dragoman.storage.engines import is_private, shared
from dragoman.storage.examine import Examined, examine
from dragoman.storage.migrate import (
    DatabaseUnusable,
    SchemaOutdated,
    SchemaState,
    generate_migration,
    migrate,
    schema_state,
)
from dragoman.storage.reprice import Change, Chosen, LedgerRow, Replaced, Stretch
from dragoman.storage.store import SqlStore, open_store

__all__ = [
    "Change",
    "Chosen",
    "DatabaseUnusable",
    "Examined",
    "LedgerRow",
    "Replaced",
    "SchemaOutdated",
    "SchemaState",
    "SqlStore",
    "Stretch",
    "examine",
    "generate_migration",
    "is_private",
    "migrate",
    "open_store",
    "schema_state",
    "shared",
]
