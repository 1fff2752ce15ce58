"""Media that are kept outside of the database."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import add_column

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds a column; that takes no time."""
    add_column("media", sa.Column("store_key", types.Identifier()))


def downgrade() -> None:
    """Drops it: media kept elsewhere are not found any more."""
    op.drop_column("media", "store_key")
