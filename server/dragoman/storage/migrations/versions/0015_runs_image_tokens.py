"""Tokens of pictures, in `runs`."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage.migrations.steps import add_column

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns; that takes no time."""
    add_column("runs", sa.Column("input_image_tokens", sa.BigInteger(), nullable=False, server_default="0"))
    add_column("runs", sa.Column("output_image_tokens", sa.BigInteger(), nullable=False, server_default="0"))


def downgrade() -> None:
    """Drops them."""
    op.drop_column("runs", "output_image_tokens")
    op.drop_column("runs", "input_image_tokens")
