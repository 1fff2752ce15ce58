"""${message}.

One statement of DDL, if that can be: MySQL does not roll back half a revision. Only add; what the previous release
still needs is taken away by a later one.
"""

import sqlalchemy as sa
from alembic import op
${imports if imports else ""}
from dragoman.storage import types

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}


def upgrade() -> None:
    """Forward."""
    ${upgrades if upgrades else "pass"}


def downgrade() -> None:
    """Back."""
    ${downgrades if downgrades else "pass"}
