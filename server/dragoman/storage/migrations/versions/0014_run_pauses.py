"""What paused runs need to go on."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_table

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `run_pauses`."""
    create_table(
        "run_pauses",
        sa.Column("run_id", types.Id(), nullable=False),
        sa.Column("continuation", types.Blob(), nullable=False),
        sa.Column("content", types.Blob(), nullable=False),
        sa.Column("active_us", sa.BigInteger(), nullable=False),
        sa.Column("expire_time", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("run_id", name="pk_run_pauses"),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name="fk_run_pauses_run_id_runs"),
    )


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("run_pauses")
