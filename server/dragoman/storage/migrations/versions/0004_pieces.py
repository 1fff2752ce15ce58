"""Pieces of large values."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_table

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `pieces`."""
    create_table(
        "pieces",
        sa.Column("run_id", types.Id(), nullable=False),
        sa.Column("value_id", types.Id(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", types.Blob(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", "value_id", "position", name="pk_pieces"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_pieces_run_id_runs"),
    )


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("pieces")
