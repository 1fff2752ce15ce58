"""Sessions."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_index, create_table

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `sessions`."""
    create_table(
        "sessions",
        sa.Column("id", types.Id(), nullable=False),
        sa.Column("principal", types.Identifier(), nullable=False),
        sa.Column("user", types.Identifier(), nullable=False),
        sa.Column("agent_name", types.Identifier(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("metadata", types.Json(), nullable=False),
        sa.Column("inputs", types.Json(), nullable=False),
        sa.Column("create_time", types.Instant(), nullable=False),
        sa.Column("update_time", types.Instant(), nullable=False),
        sa.Column("message_count", sa.BigInteger(), nullable=False),
        sa.Column("run_count", sa.BigInteger(), nullable=False),
        sa.Column("active_run_id", types.Id()),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sessions"),
    )
    create_index("sessions", "principal", "user", "agent_name", "update_time", "id")
    create_index("sessions", "principal", "user", "update_time", "id")


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("sessions")
