"""Places: how many runs of a project are at work is counted by an index, and what waits for room by another."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

RESTS = "'requires_action', 'cancelled', 'failed', 'completed', 'incomplete', 'expired'"
HOLDS = f"placed AND NOT waiting AND status NOT IN ({RESTS})"
LACKS = f"NOT placed AND NOT waiting AND status NOT IN ('in_progress', 'cancelling', {RESTS})"


def upgrade() -> None:
    # The defaults stay: during an upgrade, processes of the release before insert runs that they wake at once.
    op.add_column("runs", sa.Column("project_id", sa.String(), nullable=False, server_default=""))
    op.add_column("runs", sa.Column("placed", sa.Boolean(), nullable=False, server_default=sa.true()))
    op.execute(
        "UPDATE runs SET project_id = threads.project_id, placed = NOT runs.waiting AND status <> 'requires_action'"
        " FROM threads WHERE threads.id = runs.thread_id"
        " AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling')"
    )
    op.create_index("runs_with_a_place", "runs", ["project_id", "position"], postgresql_where=sa.text(HOLDS))
    op.create_index("runs_without_a_place", "runs", ["project_id", "position"], postgresql_where=sa.text(LACKS))


def downgrade() -> None:
    # Nobody else would ever wake them.
    op.execute("UPDATE runs SET wake_at = now() WHERE status = 'queued' AND NOT placed AND NOT waiting")
    op.drop_index("runs_without_a_place", table_name="runs")
    op.drop_index("runs_with_a_place", table_name="runs")
    op.drop_column("runs", "placed")
    op.drop_column("runs", "project_id")
