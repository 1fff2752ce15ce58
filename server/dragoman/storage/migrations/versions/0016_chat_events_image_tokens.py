"""Tokens of pictures, in `chat_events`."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage.migrations.steps import add_column

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns; that takes no time."""
    add_column("chat_events", sa.Column("input_image_tokens", sa.BigInteger()))
    add_column("chat_events", sa.Column("output_image_tokens", sa.BigInteger()))


def downgrade() -> None:
    """Drops them."""
    op.drop_column("chat_events", "output_image_tokens")
    op.drop_column("chat_events", "input_image_tokens")
