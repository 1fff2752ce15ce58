"""Which messages refer to which media."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_table

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `message_media`."""
    create_table(
        "message_media",
        sa.Column("message_id", types.Id(), nullable=False),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sha256", types.Hash(), nullable=False),
        sa.PrimaryKeyConstraint("message_id", "position", name="pk_message_media"),
        sa.ForeignKeyConstraint(
            ["message_id"], ["chat_events.id"], name="fk_message_media_message_id_chat_events"
        ),
    )


def downgrade() -> None:
    """Drops it, with what is in it."""
    op.drop_table("message_media")
