"""The messages of one run in their order, by one index: two that had to be combined meant a sort of both."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_index(op.f("messages_run_id_thread_id_position"), "messages", ["run_id", "thread_id", "position"])
    op.drop_index(op.f("messages_run_id_position"), table_name="messages")


def downgrade() -> None:
    op.create_index(op.f("messages_run_id_position"), "messages", ["run_id", "position"])
    op.drop_index(op.f("messages_run_id_thread_id_position"), table_name="messages")
