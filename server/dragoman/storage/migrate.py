"""Brings a database's schema to where this release needs it, with the Alembic revisions shipped in `migrations/`.

Any number of processes may do so at once. On MySQL and MariaDB the first takes a named lock and the others wait; there DDL
commits by itself, so a revision makes one table and what was done when the power failed is known. On SQLite everything
is one transaction that has the write lock from its beginning.

A release must run on the schema of the next one (expand, then contract). So a database that is ahead of this release
counts as up to date.
"""

import hashlib
import logging
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext, MigrationInfo
from alembic.script import ScriptDirectory
from sqlalchemy.engine import URL, Engine

from dragoman.storage import engines

logger = logging.getLogger(__name__)

VERSION_TABLE = "dragoman_version"
"""Not Alembic's default: the database may be shared with an application that has migrations of its own."""

MIGRATIONS = Path(__file__).parent / "migrations"

# Alembic keeps the migration under way in module globals.
_one_at_a_time = threading.Lock()


@dataclass(frozen=True, slots=True)
class SchemaState:
    """Where a database stands."""

    current: str | None
    """The revision it has; None when it is empty."""
    head: str
    """The revision that this release needs."""
    up_to_date: bool
    """Whether this release runs on it: it has the revision that is needed, or one of a later release."""


class SchemaOutdated(RuntimeError):
    """The database's schema is older than this release needs. The text is for the operator."""

    def __init__(self, state: SchemaState) -> None:
        at = "is empty" if state.current is None else f"is at revision {state.current}"
        super().__init__(f"the database {at}, this release needs revision {state.head}")
        self.state = state


class DatabaseUnusable(RuntimeError):
    """The database does not answer, or refuses, or its driver does. The text, with the driver's own words, is for the
    operator."""

    def __init__(self, cause: BaseException | None) -> None:
        lines = str(cause).splitlines() or [type(cause).__name__]
        super().__init__(f"the database cannot be used: {lines[0]}")


def migrate(url: str) -> list[str]:
    """Applies what is missing. Returns the revisions applied, the oldest first. Blocks.

    Raises ValueError for a URL that is not supported, DatabaseUnusable.
    """
    with _told():
        return upgrade(engines.parse(url))


def schema_state(url: str) -> SchemaState:
    """Where the database stands. Changes nothing. Blocks. Raises as `migrate`."""
    with _told():
        return state_of(engines.parse(url))


def generate_migration(url: str, message: str) -> Path:
    """Writes a new revision with what the tables have and the database at `url`, which must be up to date, has not.

    For developers: read what was generated before you keep it. Returns the new file. Raises SchemaOutdated, and
    RuntimeError when there is no difference; DatabaseUnusable.
    """
    parsed = engines.parse(url)
    with _told():
        state = state_of(parsed)
    if not state.up_to_date:
        raise SchemaOutdated(state)
    with _told(), _engine(parsed) as engine, _connected(engine) as connection:
        config = _config(connection)

        def refuse_empty(_context: object, _revision: object, directives: list[Any]) -> None:
            if directives[0].upgrade_ops.is_empty():
                raise RuntimeError("the tables and the database are the same: there is nothing to migrate")

        number = f"{len(list((MIGRATIONS / 'versions').glob('[0-9]*.py'))) + 1:04}"
        with _one_at_a_time:
            script = command.revision(
                config,
                message,
                autogenerate=True,
                rev_id=number,
                process_revision_directives=refuse_empty,
            )
    if script is None or isinstance(script, list):
        raise RuntimeError("Alembic has made no revision")
    path = Path(script.path)
    _tidy(path)
    return path


def _tidy(path: Path) -> None:
    """In the style of the tree, where its formatter is installed beside this Python: Alembic writes a style of its own."""
    ruff = Path(sys.executable).with_name("ruff")
    if ruff.exists():
        for arguments in (("check", "--fix", "--quiet"), ("format", "--quiet")):
            subprocess.run([ruff, *arguments, path], check=False)  # noqa: S603 - our own tool on our own file


def upgrade(url: URL) -> list[str]:
    """`migrate` for a parsed URL."""
    with _engine(url) as engine:
        return migrate_engine(engine)


def migrate_engine(engine: Engine) -> list[str]:
    """`migrate` on an engine of the caller's, whose transactions begin with the write lock on SQLite."""
    with _connected(engine) as connection, _alone(connection):
        if _state(connection).up_to_date:
            return []
        if connection.dialect.name != "sqlite":
            # Else Alembic takes the transaction that has begun by reading for ours, and does not commit its version.
            connection.commit()
        applied: list[str] = []

        def note(step: MigrationInfo, **_: object) -> None:
            applied.extend(step.up_revision_ids)
            logger.info("schema migrated", extra={"revision": step.up_revision_id})

        config = _config(connection, on_version_apply=note)
        with _one_at_a_time:
            command.upgrade(config, "head")
        return applied


def state_of(url: URL) -> SchemaState:
    """`schema_state` for a parsed URL."""
    file = engines.file_of(url)
    if file is not None and not file.exists():
        return SchemaState(
            None, _scripts().get_current_head() or "", up_to_date=False
        )  # not to make the file
    with _engine(url) as engine, _connected(engine) as connection:
        return _state(connection)


def _state(connection: sa.Connection) -> SchemaState:
    scripts = _scripts()
    head = scripts.get_current_head()
    if head is None:
        raise RuntimeError("the migrations of this installation are missing")
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    current = context.get_current_revision()
    known = {revision.revision for revision in scripts.walk_revisions()}
    return SchemaState(
        current, head, up_to_date=current == head or (current is not None and current not in known)
    )


@contextmanager
def _told() -> Iterator[None]:
    """What the driver raises becomes a sentence of ours."""
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise DatabaseUnusable(error.orig) from error


@contextmanager
def _engine(url: URL) -> Iterator[Engine]:
    try:
        engine = engines.for_migration(url)
    except ImportError as error:  # the URL names a driver that is not installed
        raise DatabaseUnusable(error) from error
    try:
        yield engine
    finally:
        engine.dispose()


@contextmanager
def _connected(engine: Engine) -> Iterator[sa.Connection]:
    try:
        connection = engine.connect()
    except TypeError as error:  # the URL has an option that the driver does not know
        raise DatabaseUnusable(error) from error
    with connection:
        yield connection


@contextmanager
def _alone(connection: sa.Connection) -> Iterator[None]:
    """While no other process migrates the same database. Raises RuntimeError when one takes too long."""
    if connection.dialect.name == "sqlite":
        with connection.begin():
            yield
        return
    # The name is the server's, not the database's, and at most 64 characters.
    database = str(connection.exec_driver_sql("SELECT DATABASE()").scalar_one())
    name = f"dragoman-migrate-{hashlib.sha256(database.encode()).hexdigest()[:32]}"
    got = connection.scalar(sa.select(sa.func.get_lock(name, engines.MIGRATION_LOCK_TIMEOUT)))
    connection.commit()
    if got != 1:
        raise RuntimeError("another process has been migrating the database for too long")
    try:
        yield
    finally:
        connection.rollback()
        connection.scalar(sa.select(sa.func.release_lock(name)))
        connection.commit()


def _config(connection: sa.Connection, on_version_apply: Callable[..., None] | None = None) -> Config:
    config = Config(attributes={"connection": connection, "on_version_apply": on_version_apply})
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("file_template", "%%(rev)s_%%(slug)s")
    return config


def _scripts() -> ScriptDirectory:
    return ScriptDirectory(str(MIGRATIONS))
