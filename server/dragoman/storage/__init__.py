"""Storage: the engine's `Store` on SQLite, MySQL and MariaDB, and the migrations of its schema.

    store.py      SqlStore: one transaction per call, writes that outlive their callers
    sessions.py, runs.py, events.py, messages.py, media.py, ends.py, usage.py      the statements
    rows.py       records as rows;  codec.py  large values;  types.py  column types;  tables.py  the tables
    database.py   threads, bounded queues, repetition;  engines.py  set-up per database;  failures.py  what errors mean
    migrate.py    the schema's state and upgrade;  migrations/  the Alembic revisions

Nobody else imports SQLAlchemy or Alembic.
"""

from dragoman.storage.migrate import (
    DatabaseUnusable,
    SchemaOutdated,
    SchemaState,
    generate_migration,
    migrate,
    schema_state,
)
from dragoman.storage.store import SqlStore, open_store

__all__ = [
    "DatabaseUnusable",
    "SchemaOutdated",
    "SchemaState",
    "SqlStore",
    "generate_migration",
    "migrate",
    "open_store",
    "schema_state",
]
