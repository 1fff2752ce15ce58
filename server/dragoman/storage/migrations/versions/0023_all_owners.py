"""What administrators ask for of all owners: runs by time, and the ledger by time."""

from alembic import op

from dragoman.storage.migrations.steps import create_index

revision = "0023"
down_revision = "0022"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Makes an index on `runs` and one on `model_calls`."""
    create_index("runs", "create_time", "id")
    create_index("model_calls", "start_time")


def downgrade() -> None:
    """Drops them."""
    op.drop_index("ix_model_calls_start_time", "model_calls")
    op.drop_index("ix_runs_create_time_id", "runs")
