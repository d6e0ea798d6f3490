"""First tables: projects, keys, assistants, threads, messages, runs, run steps."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects import postgresql
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

JSON = postgresql.JSON(none_as_null=True)
ACTIVE = sa.text("status IN ('queued', 'in_progress', 'requires_action', 'cancelling')")


def upgrade() -> None:
    op.execute(sa.schema.CreateSequence(sa.Sequence("positions")))
    op.create_table(
        "projects",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("projects_pkey")),
        sa.UniqueConstraint("name", name=op.f("projects_name_key")),
    )
    op.create_table(
        "api_keys",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("hash", sa.String(), nullable=False),
        sa.Column("hint", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("api_keys_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("api_keys_pkey")),
        sa.UniqueConstraint("hash", name=op.f("api_keys_hash_key")),
    )
    op.create_index(op.f("api_keys_project_id"), "api_keys", ["project_id"], unique=False)
    op.create_table(
        "assistants",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("nextval('positions')"), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=True),
        sa.Column("description", sa.String(), nullable=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("instructions", sa.String(), nullable=True),
        sa.Column("tools", JSON, nullable=False),
        sa.Column("tool_resources", JSON, nullable=False),
        sa.Column("metadata", JSONB(), nullable=False),
        sa.Column("temperature", sa.Float(), nullable=False),
        sa.Column("top_p", sa.Float(), nullable=False),
        sa.Column("reasoning_effort", sa.String(), nullable=True),
        sa.Column("response_format", JSON, nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("assistants_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("assistants_pkey")),
    )
    op.create_index(op.f("assistants_project_id_position"), "assistants", ["project_id", "position"], unique=False)
    op.create_table(
        "threads",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("nextval('positions')"), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("tool_resources", JSON, nullable=False),
        sa.Column("metadata", JSONB(), nullable=False),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("threads_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("threads_pkey")),
    )
    op.create_index(op.f("threads_project_id_position"), "threads", ["project_id", "position"], unique=False)
    op.create_table(
        "messages",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("nextval('positions')"), nullable=False),
        sa.Column("thread_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("content", JSON, nullable=False),
        sa.Column("attachments", JSON, nullable=False),
        sa.Column("metadata", JSONB(), nullable=False),
        sa.Column("assistant_id", sa.String(), nullable=True),
        sa.Column("run_id", sa.String(), nullable=True),
        sa.Column("incomplete_details", JSON, nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("incomplete_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["thread_id"], ["threads.id"], name=op.f("messages_thread_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("messages_pkey")),
    )
    op.create_index(op.f("messages_run_id_position"), "messages", ["run_id", "position"], unique=False)
    op.create_index(op.f("messages_thread_id_position"), "messages", ["thread_id", "position"], unique=False)
    op.create_table(
        "runs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("nextval('positions')"), nullable=False),
        sa.Column("thread_id", sa.String(), nullable=False),
        sa.Column("assistant_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("started_at", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.Column("failed_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.Column("required_action", JSON, nullable=True),
        sa.Column("last_error", JSON, nullable=True),
        sa.Column("incomplete_details", JSON, nullable=True),
        sa.Column("usage", JSON, nullable=True),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("instructions", sa.String(), nullable=True),
        sa.Column("tools", JSON, nullable=False),
        sa.Column("tool_resources", JSON, nullable=False),
        sa.Column("metadata", JSONB(), nullable=False),
        sa.Column("temperature", sa.Float(), nullable=False),
        sa.Column("top_p", sa.Float(), nullable=False),
        sa.Column("reasoning_effort", sa.String(), nullable=True),
        sa.Column("max_completion_tokens", sa.Integer(), nullable=True),
        sa.Column("max_prompt_tokens", sa.Integer(), nullable=True),
        sa.Column("truncation_strategy", JSON, nullable=False),
        sa.Column("response_format", JSON, nullable=False),
        sa.Column("tool_choice", JSON, nullable=False),
        sa.Column("parallel_tool_calls", sa.Boolean(), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("owner", sa.String(), nullable=True),
        sa.Column("lease_until", sa.DateTime(timezone=True), nullable=True),
        sa.Column("wake_at", sa.DateTime(timezone=True), nullable=True),
        sa.ForeignKeyConstraint(["thread_id"], ["threads.id"], name=op.f("runs_thread_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("runs_pkey")),
    )
    op.create_index("runs_active_expires_at", "runs", ["expires_at"], unique=False, postgresql_where=ACTIVE)
    op.create_index("runs_active_owner", "runs", ["owner"], unique=False, postgresql_where=ACTIVE)
    op.create_index("runs_one_active_per_thread", "runs", ["thread_id"], unique=True, postgresql_where=ACTIVE)
    op.create_index(op.f("runs_thread_id_position"), "runs", ["thread_id", "position"], unique=False)
    op.create_table(
        "run_steps",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("nextval('positions')"), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("thread_id", sa.String(), nullable=False),
        sa.Column("assistant_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("type", sa.String(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("step_details", JSON, nullable=False),
        sa.Column("last_error", JSON, nullable=True),
        sa.Column("usage", JSON, nullable=True),
        sa.Column("metadata", JSONB(), nullable=False),
        sa.Column("expired_at", sa.BigInteger(), nullable=True),
        sa.Column("cancelled_at", sa.BigInteger(), nullable=True),
        sa.Column("failed_at", sa.BigInteger(), nullable=True),
        sa.Column("completed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(["run_id"], ["runs.id"], name=op.f("run_steps_run_id_fkey"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("id", name=op.f("run_steps_pkey")),
    )
    op.create_index(op.f("run_steps_run_id_position"), "run_steps", ["run_id", "position"], unique=False)
    op.create_index(
        "run_steps_tool_calls",
        "run_steps",
        ["thread_id", "position"],
        unique=False,
        postgresql_where=sa.text("type = 'tool_calls'"),
    )


def downgrade() -> None:
    op.drop_index("run_steps_tool_calls", table_name="run_steps", postgresql_where=sa.text("type = 'tool_calls'"))
    op.drop_index(op.f("run_steps_run_id_position"), table_name="run_steps")
    op.drop_table("run_steps")
    op.drop_index(op.f("runs_thread_id_position"), table_name="runs")
    op.drop_index("runs_one_active_per_thread", table_name="runs", postgresql_where=ACTIVE)
    op.drop_index("runs_active_owner", table_name="runs", postgresql_where=ACTIVE)
    op.drop_index("runs_active_expires_at", table_name="runs", postgresql_where=ACTIVE)
    op.drop_table("runs")
    op.drop_index(op.f("messages_thread_id_position"), table_name="messages")
    op.drop_index(op.f("messages_run_id_position"), table_name="messages")
    op.drop_table("messages")
    op.drop_index(op.f("threads_project_id_position"), table_name="threads")
    op.drop_table("threads")
    op.drop_index(op.f("assistants_project_id_position"), table_name="assistants")
    op.drop_table("assistants")
    op.drop_index(op.f("api_keys_project_id"), table_name="api_keys")
    op.drop_table("api_keys")
    op.drop_table("projects")
    op.execute(sa.schema.DropSequence(sa.Sequence("positions")))
