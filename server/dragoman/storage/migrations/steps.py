"""Steps of a revision that can be taken up again.

MySQL and MariaDB commit each statement of DDL by itself. When a migration is killed half-way, its revision is not noted
and runs again from its beginning: a step that has been done must then do nothing.
"""

from typing import Any

import sqlalchemy as sa
from alembic import op

TABLE_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}


def create_table(name: str, *parts: Any) -> None:
    """Makes a table unless it is there."""
    if not sa.inspect(op.get_bind()).has_table(name):
        op.create_table(name, *parts, **TABLE_OPTIONS)


def create_index(table: str, *columns: str) -> None:
    """Makes an index, named by the convention, unless it is there."""
    name = f"ix_{table}_{'_'.join(columns)}"
    if all(index["name"] != name for index in sa.inspect(op.get_bind()).get_indexes(table)):
        op.create_index(name, table, list(columns))


def add_column(table: str, column: sa.Column[Any]) -> None:
    """Adds a column unless it is there. It must be nullable or have a server default: the previous release writes rows
    without it."""
    if all(there["name"] != column.name for there in sa.inspect(op.get_bind()).get_columns(table)):
        op.add_column(table, column)
