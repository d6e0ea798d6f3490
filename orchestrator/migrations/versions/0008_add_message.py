"""Messages in one round trip: lock the thread, see that no run is active, add it; each with what is committed by then.

Functions are named with a version and never changed: old and new processes call them side by side.
"""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

ADD_MESSAGE = """
CREATE FUNCTION assistantd_add_message_1(
    of_project text, of_thread text, new_id text, at bigint, speaker text, said json, attached json, pairs jsonb
) RETURNS boolean LANGUAGE plpgsql VOLATILE AS $$
BEGIN
    PERFORM FROM threads WHERE id = of_thread AND project_id = of_project FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    PERFORM FROM runs
        WHERE thread_id = of_thread
            AND status IN ('queued', 'in_progress', 'requires_action', 'cancelling') AND NOT waiting;
    IF FOUND THEN
        RETURN false;
    END IF;
    INSERT INTO messages (id, thread_id, created_at, completed_at, role, status, content, attachments, metadata)
        VALUES (new_id, of_thread, at, at, speaker, 'completed', said, attached, pairs);
    RETURN true;
END
$$
"""


def upgrade() -> None:
    op.execute(ADD_MESSAGE)


def downgrade() -> None:
    op.execute("DROP FUNCTION assistantd_add_message_1")
