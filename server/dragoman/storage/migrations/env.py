"""Alembic's entry: runs migrations on the connection that `dragoman.storage.migrate` has opened."""

from typing import Literal

from alembic import context

from dragoman.storage import types
from dragoman.storage.migrate import VERSION_TABLE
from dragoman.storage.tables import metadata


def ours(name: str | None, kind: str, parents: object) -> bool:
    """Leaves tables alone that others have in the same database, Agno's `ai_*` for example."""
    return kind != "table" or name in metadata.tables


def by_name(kind: str, item: object, _context: object) -> str | Literal[False]:
    """Writes a column type of ours into a revision as it is written in tables.py."""
    if kind != "type" or type(item).__module__ != types.__name__:
        return False
    arguments = str(item.length) if isinstance(item, types.Identifier) else ""
    return f"types.{type(item).__name__}({arguments})"


attributes = context.config.attributes
context.configure(
    connection=attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    include_name=ours,
    compare_type=True,
    render_item=by_name,
    on_version_apply=attributes.get("on_version_apply"),
    # SQLite cannot alter tables but by making them anew. Its DDL can be rolled back, though Alembic supposes not.
    render_as_batch=True,
    transactional_ddl=True if attributes["connection"].dialect.name == "sqlite" else None,
)
with context.begin_transaction():
    context.run_migrations()
