"""The bytes of media."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_table

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `media_chunks`."""
    create_table(
        "media_chunks",
        sa.Column("media_id", types.Id(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("data", types.Blob(), nullable=False),
        sa.PrimaryKeyConstraint("media_id", "position", name="pk_media_chunks"),
        sa.ForeignKeyConstraint(["media_id"], ["media.id"], name="fk_media_chunks_media_id_media"),
    )


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("media_chunks")
