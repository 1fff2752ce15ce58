"""Media that nothing refers to: found, and deleted from the media store."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_index, create_table

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `unwanted_blobs`, and an index on `media`."""
    create_table(
        "unwanted_blobs",
        sa.Column("store_key", types.Identifier(), nullable=False),
        sa.Column("create_time", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("store_key", name="pk_unwanted_blobs"),
    )
    create_index("media", "refs", "create_time")


def downgrade() -> None:
    """Drops them."""
    op.drop_index("ix_media_refs_create_time", "media")
    op.drop_table("unwanted_blobs")
