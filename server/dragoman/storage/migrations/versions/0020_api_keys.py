"""Keys by which services prove who they are."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import create_index, create_table

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes the table `api_keys`."""
    create_table(
        "api_keys",
        sa.Column("id", types.Identifier(32), nullable=False),
        sa.Column("principal", types.Identifier(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("salt", types.Hash(), nullable=False),
        sa.Column("digest", types.Hash(), nullable=False),
        sa.Column("scopes", types.Json(), nullable=False),
        sa.Column("agents", types.Json(), nullable=False),
        sa.Column("acts_for_users", sa.Boolean(), nullable=False),
        sa.Column("create_time", types.Instant(), nullable=False),
        sa.Column("expire_time", types.Instant()),
        sa.Column("revoke_time", types.Instant()),
        sa.Column("update_time", types.Instant(), nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
    )
    create_index("api_keys", "update_time")


def downgrade() -> None:
    """Drops it: nobody can prove who it is any more."""
    op.drop_table("api_keys")
