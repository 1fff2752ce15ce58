"""The ledger: tokens of pictures, and how many requests a call took."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage.migrations.steps import add_column, create_index

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns; that takes no time. The indexes are for budgets."""
    add_column(
        "model_calls", sa.Column("input_image_tokens", sa.BigInteger(), nullable=False, server_default="0")
    )
    add_column(
        "model_calls", sa.Column("output_image_tokens", sa.BigInteger(), nullable=False, server_default="0")
    )
    add_column("model_calls", sa.Column("attempt", sa.Integer(), nullable=False, server_default="1"))
    create_index("model_calls", "principal", "start_time")
    create_index("model_calls", "root_agent_name", "start_time")


def downgrade() -> None:
    """Drops them."""
    op.drop_index("ix_model_calls_root_agent_name_start_time", "model_calls")
    op.drop_index("ix_model_calls_principal_start_time", "model_calls")
    for name in ("attempt", "output_image_tokens", "input_image_tokens"):
        op.drop_column("model_calls", name)
