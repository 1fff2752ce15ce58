"""Requests that callers have given an id."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_index, create_table

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `requests`."""
    create_table(
        "requests",
        sa.Column("principal", types.Identifier(), nullable=False),
        sa.Column("user", types.Identifier(), nullable=False),
        sa.Column("request_id", types.Identifier(128), nullable=False),
        sa.Column("digest", types.Hash(), nullable=False),
        sa.Column("session_id", types.Id(), nullable=False),
        sa.Column("run_id", types.Id()),
        sa.Column("after_sequence", sa.BigInteger(), nullable=False),
        sa.Column("create_time", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("principal", "user", "request_id", name="pk_requests"),
    )
    create_index("requests", "create_time")
    create_index("requests", "session_id")


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("requests")
