"""Runs that have ended before: their events can be trimmed, and nothing continues one that is paused."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Fills `log_time` and `expire_time`, before there are indexes to be kept."""
    op.execute(
        "UPDATE runs SET log_time = end_time"
        " WHERE log_time IS NULL AND status IN ('completed', 'failed', 'cancelled')"
    )
    op.execute("UPDATE runs SET expire_time = update_time WHERE expire_time IS NULL AND status = 'paused'")


def downgrade() -> None:
    """Nothing: the columns go with the revision before."""
