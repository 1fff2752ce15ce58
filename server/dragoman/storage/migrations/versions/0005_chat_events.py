"""Messages."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_index, create_table

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `chat_events`."""
    create_table(
        "chat_events",
        sa.Column("id", types.Id(), nullable=False),
        sa.Column("session_id", types.Id(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("principal", types.Identifier(), nullable=False),
        sa.Column("user", types.Identifier(), nullable=False),
        sa.Column("root_run_id", types.Id(), nullable=False),
        sa.Column("run_id", types.Id(), nullable=False),
        sa.Column("parent_run_id", types.Id()),
        sa.Column("agent_name", types.Identifier(), nullable=False),
        sa.Column("role", types.Identifier(32), nullable=False),
        sa.Column("model_provider_slug", types.Identifier(), nullable=False),
        sa.Column("model", types.Identifier(), nullable=False),
        sa.Column("message_parts", types.Blob(), nullable=False),
        sa.Column("media_count", sa.Integer(), nullable=False),
        sa.Column("created_at", types.Instant(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger()),
        sa.Column("output_tokens", sa.BigInteger()),
        sa.Column("cache_read_tokens", sa.BigInteger()),
        sa.Column("cache_write_tokens", sa.BigInteger()),
        sa.Column("cache_write_1h_tokens", sa.BigInteger()),
        sa.Column("reasoning_tokens", sa.BigInteger()),
        sa.Column("input_audio_tokens", sa.BigInteger()),
        sa.Column("output_audio_tokens", sa.BigInteger()),
        sa.Column("usd", types.Money()),
        sa.Column("amount", types.Money()),
        sa.Column("price_version", types.Identifier()),
        sa.Column("exchange_rate", types.Identifier(64)),
        sa.Column("rate_date", sa.Date()),
        sa.Column("unit_prices", types.Json()),
        sa.Column("currency", types.Identifier(3)),
        sa.PrimaryKeyConstraint("id", name="pk_chat_events"),
        sa.UniqueConstraint("session_id", "sequence", name="uq_chat_events_session_id_sequence"),
        sa.ForeignKeyConstraint(["session_id"], ["sessions.id"], name="fk_chat_events_session_id_sessions"),
        sa.ForeignKeyConstraint(["root_run_id"], ["runs.id"], name="fk_chat_events_root_run_id_runs"),
    )
    create_index("chat_events", "created_at")
    create_index("chat_events", "root_run_id", "sequence")


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("chat_events")
