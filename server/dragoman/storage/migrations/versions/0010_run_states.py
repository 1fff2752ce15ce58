"""Who holds a run, what it may spend, who wants it to end, and what becomes of it later."""

import sqlalchemy as sa
from alembic import op

from dragoman.storage import types
from dragoman.storage.migrations.steps import add_column

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds columns to `runs`; that takes no time, however many rows there are."""
    add_column("runs", sa.Column("holder", types.Id()))
    add_column("runs", sa.Column("ticket", sa.BigInteger()))
    add_column("runs", sa.Column("limits", types.Json()))
    add_column("runs", sa.Column("cancel_reason", sa.Integer()))
    add_column("runs", sa.Column("cancel_by", types.Identifier()))
    add_column("runs", sa.Column("cancel_note", sa.Text()))
    add_column("runs", sa.Column("expire_time", types.Instant()))
    add_column("runs", sa.Column("log_time", types.Instant()))


def downgrade() -> None:
    """Drops them."""
    for name in (
        "log_time",
        "expire_time",
        "cancel_note",
        "cancel_by",
        "cancel_reason",
        "limits",
        "ticket",
        "holder",
    ):
        op.drop_column("runs", name)
