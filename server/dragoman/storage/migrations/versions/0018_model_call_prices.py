"""Prices that were replaced."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_table

revision = "0018"
down_revision = "0017"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `model_call_prices`."""
    create_table(
        "model_call_prices",
        sa.Column("call_id", types.Id(), nullable=False),
        sa.Column("replace_time", types.Instant(), nullable=False),
        sa.Column("usd", types.Money()),
        sa.Column("amount", types.Money()),
        sa.Column("price_version", types.Identifier()),
        sa.Column("exchange_rate", types.Identifier(64)),
        sa.Column("rate_date", sa.Date()),
        sa.Column("unit_prices", types.Json()),
        sa.Column("currency", types.Identifier(3), nullable=False),
        sa.PrimaryKeyConstraint("call_id", "replace_time", name="pk_model_call_prices"),
        sa.ForeignKeyConstraint(
            ["call_id"], ["model_calls.id"], name="fk_model_call_prices_call_id_model_calls"
        ),
    )


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("model_call_prices")
