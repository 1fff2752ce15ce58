"""Media."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_table

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `media`."""
    create_table(
        "media",
        sa.Column("id", types.Id(), nullable=False),
        sa.Column("principal", types.Identifier(), nullable=False),
        sa.Column("user", types.Identifier(), nullable=False),
        sa.Column("sha256", types.Hash(), nullable=False),
        sa.Column("mime_type", types.Identifier(), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("refs", sa.BigInteger(), nullable=False),
        sa.Column("create_time", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_media"),
        sa.UniqueConstraint("principal", "user", "sha256", name="uq_media_principal_user_sha256"),
    )


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("media")
