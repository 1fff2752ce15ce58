"""Runs."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_index, create_table

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `runs`."""
    create_table(
        "runs",
        sa.Column("id", types.Id(), nullable=False),
        sa.Column("session_id", types.Id(), nullable=False),
        sa.Column("principal", types.Identifier(), nullable=False),
        sa.Column("user", types.Identifier(), nullable=False),
        sa.Column("agent_name", types.Identifier(), nullable=False),
        sa.Column("provider", types.Identifier(), nullable=False),
        sa.Column("model", types.Identifier(), nullable=False),
        sa.Column("status", types.Identifier(16), nullable=False),
        sa.Column("metadata", types.Json(), nullable=False),
        sa.Column("create_time", types.Instant(), nullable=False),
        sa.Column("update_time", types.Instant(), nullable=False),
        sa.Column("end_time", types.Instant()),
        sa.Column("lease_time", types.Instant(), nullable=False),
        sa.Column("last_sequence", sa.BigInteger(), nullable=False),
        sa.Column("last_message_sequence", sa.BigInteger()),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("input_audio_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_audio_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usd", types.Money(), nullable=False),
        sa.Column("amount", types.Money(), nullable=False),
        sa.Column("currency", types.Identifier(3), nullable=False),
        sa.Column("model_calls", sa.BigInteger(), nullable=False),
        sa.Column("unpriced_calls", sa.BigInteger(), nullable=False),
        sa.Column("last_event", types.Blob()),
        sa.PrimaryKeyConstraint("id", name="pk_runs"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_runs_session_id_sessions"),
    )
    create_index("runs", "principal", "user", "agent_name", "create_time", "id")
    create_index("runs", "principal", "user", "create_time", "id")
    create_index("runs", "principal", "user", "status", "create_time", "id")
    create_index("runs", "session_id", "create_time", "id")
    create_index("runs", "session_id", "last_message_sequence")
    create_index("runs", "status", "lease_time")


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("runs")
