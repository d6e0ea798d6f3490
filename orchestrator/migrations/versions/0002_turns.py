"""Runs that wait for their turn, threads that say whether they may, and threads found by their metadata."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

JSON = postgresql.JSON(none_as_null=True)
UNFINISHED = "status IN ('queued', 'in_progress', 'requires_action', 'cancelling')"
ACTIVE = sa.text(f"{UNFINISHED} AND NOT waiting")


def upgrade() -> None:
    # The defaults stay: during an upgrade, processes of the release before still insert without these columns.
    op.add_column("threads", sa.Column("on_active_run", sa.String(), nullable=False, server_default="reject"))
    op.create_index(
        "threads_metadata",
        "threads",
        ["metadata"],
        postgresql_using="gin",
        postgresql_ops={"metadata": "jsonb_path_ops"},
    )
    op.add_column("runs", sa.Column("waiting", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.add_column("runs", sa.Column("additional_messages", JSON, nullable=True))
    for name in ("runs_active_expires_at", "runs_active_owner", "runs_one_active_per_thread"):
        op.drop_index(name, table_name="runs")
    op.create_index("runs_one_active_per_thread", "runs", ["thread_id"], unique=True, postgresql_where=ACTIVE)
    op.create_index("runs_active_owner", "runs", ["owner"], postgresql_where=ACTIVE)
    op.create_index("runs_unfinished_expires_at", "runs", ["expires_at"], postgresql_where=sa.text(UNFINISHED))
    op.create_index("runs_waiting", "runs", ["thread_id", "position"], postgresql_where=sa.text("waiting"))


def downgrade() -> None:
    # What waits has no place in the old schema: it would own its thread together with another run.
    op.execute("UPDATE runs SET status = 'cancelled', cancelled_at = extract(epoch FROM now())::bigint WHERE waiting")
    for name in ("runs_waiting", "runs_unfinished_expires_at", "runs_active_owner", "runs_one_active_per_thread"):
        op.drop_index(name, table_name="runs")
    before = sa.text(UNFINISHED)
    op.create_index("runs_one_active_per_thread", "runs", ["thread_id"], unique=True, postgresql_where=before)
    op.create_index("runs_active_owner", "runs", ["owner"], postgresql_where=before)
    op.create_index("runs_active_expires_at", "runs", ["expires_at"], postgresql_where=before)
    op.drop_column("runs", "additional_messages")
    op.drop_column("runs", "waiting")
    op.drop_index("threads_metadata", table_name="threads")
    op.drop_column("threads", "on_active_run")
