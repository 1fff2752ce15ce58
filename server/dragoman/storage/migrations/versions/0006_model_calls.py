"""The ledger of model calls."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_index, create_table

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `model_calls`."""
    create_table(
        "model_calls",
        sa.Column("id", types.Id(), nullable=False),
        sa.Column("principal", types.Identifier(), nullable=False),
        sa.Column("user", types.Identifier(), nullable=False),
        sa.Column("session_id", types.Id(), nullable=False),
        sa.Column("root_run_id", types.Id(), nullable=False),
        sa.Column("root_agent_name", types.Identifier(), nullable=False),
        sa.Column("run_id", types.Id(), nullable=False),
        sa.Column("parent_run_id", types.Id()),
        sa.Column("agent_name", types.Identifier(), nullable=False),
        sa.Column("kind", types.Identifier(64), nullable=False),
        sa.Column("provider", types.Identifier(), nullable=False),
        sa.Column("model", types.Identifier(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_read_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cache_write_1h_tokens", sa.BigInteger(), nullable=False),
        sa.Column("reasoning_tokens", sa.BigInteger(), nullable=False),
        sa.Column("input_audio_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_audio_tokens", sa.BigInteger(), nullable=False),
        sa.Column("usd", types.Money()),
        sa.Column("amount", types.Money()),
        sa.Column("price_version", types.Identifier()),
        sa.Column("exchange_rate", types.Identifier(64)),
        sa.Column("rate_date", sa.Date()),
        sa.Column("unit_prices", types.Json()),
        sa.Column("currency", types.Identifier(3), nullable=False),
        sa.Column("status", types.Identifier(16), nullable=False),
        sa.Column("stop_reason", types.Identifier(), nullable=False),
        sa.Column("start_time", types.Instant(), nullable=False),
        sa.Column("duration_us", sa.BigInteger(), nullable=False),
        sa.Column("time_to_first_token_us", sa.BigInteger()),
        sa.PrimaryKeyConstraint("id", name="pk_model_calls"),
    )
    create_index("model_calls", "principal", "user", "start_time")
    create_index("model_calls", "root_run_id")
    create_index("model_calls", "session_id", "start_time")


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("model_calls")
