"""Steps of a migration that was killed half-way do nothing where they have been done."""

import sqlalchemy as sa
from alembic.migration import MigrationContext
from alembic.operations import Operations

from dragoman.storage.migrations import steps


def test_each_step_may_be_taken_twice() -> None:
    with sa.create_engine("sqlite://").begin() as connection:
        with Operations.context(MigrationContext.configure(connection)):
            for _ in range(2):
                steps.create_table("things", sa.Column("id", sa.Integer(), primary_key=True))
                steps.add_column("things", sa.Column("colour", sa.Integer()))
                steps.create_index("things", "colour")
        inspector = sa.inspect(connection)
        assert [column["name"] for column in inspector.get_columns("things")] == ["id", "colour"]
        assert [index["name"] for index in inspector.get_indexes("things")] == ["ix_things_colour"]
