"""How much may be done with a key."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import add_column

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds `quotas` to `api_keys`: as they are, keys say nothing of them."""
    add_column("api_keys", sa.Column("quotas", types.Json()))


def downgrade() -> None:
    """Drops it: only what the settings say holds."""
    op.drop_column("api_keys", "quotas")
