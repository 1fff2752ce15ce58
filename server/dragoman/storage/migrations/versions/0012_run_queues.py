"""Finding a run in its session's queue, paused runs to expire and event logs to trim."""

from alembic import op

from dragoman.storage.migrations.steps import create_index

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes indexes on `runs`."""
    create_index("runs", "session_id", "status", "ticket")
    create_index("runs", "status", "expire_time")
    create_index("runs", "log_time")


def downgrade() -> None:
    """Drops them."""
    op.drop_index("ix_runs_log_time", "runs")
    op.drop_index("ix_runs_status_expire_time", "runs")
    op.drop_index("ix_runs_session_id_status_ticket", "runs")
