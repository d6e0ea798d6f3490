"""Worker processes, what is known of each attempt at a run, and how many were lost in a row."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

SUSPECT = "status IN ('queued', 'in_progress', 'requires_action', 'cancelling') AND NOT waiting AND losses > 0"


def upgrade() -> None:
    op.create_table(
        "workers",
        sa.Column("owner", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.PrimaryKeyConstraint("owner", name=op.f("workers_pkey")),
    )
    op.create_table(
        "run_attempts",
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("worker", sa.String(), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True), server_default=sa.text("now()"), nullable=False),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("outcome", sa.String(), nullable=True),
        sa.Column("detail", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("run_attempts_run_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("run_id", "attempt", name=op.f("run_attempts_pkey")),
    )
    # The default stays: during an upgrade, processes of the release before still insert without this column.
    op.add_column("runs", sa.Column("losses", sa.Integer(), nullable=False, server_default="0"))
    op.create_index("runs_active_losses", "runs", ["losses"], postgresql_where=sa.text(SUSPECT))


def downgrade() -> None:
    op.drop_index("runs_active_losses", table_name="runs")
    op.drop_column("runs", "losses")
    op.drop_table("run_attempts")
    op.drop_table("workers")
