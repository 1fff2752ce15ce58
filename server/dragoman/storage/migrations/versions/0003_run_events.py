"""The event log."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_table

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `run_events`."""
    create_table(
        "run_events",
        sa.Column("run_id", types.Id(), nullable=False),
        sa.Column("first_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("events", types.Blob(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "first_sequence", name="pk_run_events"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_events_run_id_runs"),
    )


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("run_events")
