"""Files, uploads, their parts, and the blobs of all of them."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

LOOSE = sa.text("file_id IS NULL AND part_id IS NULL")
EXPIRES = sa.text("expires_at IS NOT NULL")


def upgrade() -> None:
    op.create_table(
        "files",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), server_default=sa.text("nextval('positions')"), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("files_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("files_pkey")),
    )
    op.create_index("files_expires_at", "files", ["expires_at"], unique=False, postgresql_where=EXPIRES)
    op.create_index(op.f("files_project_id_position"), "files", ["project_id", "position"], unique=False)
    op.create_index(
        op.f("files_project_id_purpose_position"), "files", ["project_id", "purpose", "position"], unique=False
    )
    op.create_table(
        "uploads",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("project_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=False),
        sa.Column("status", sa.String(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("filename", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("mime_type", sa.String(), nullable=False),
        sa.Column("lifetime", sa.BigInteger(), nullable=True),
        sa.Column("file_id", sa.String(), nullable=True),
        sa.ForeignKeyConstraint(
            ["project_id"], ["projects.id"], name=op.f("uploads_project_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("uploads_pkey")),
    )
    op.create_index(op.f("uploads_project_id"), "uploads", ["project_id"], unique=False)
    op.create_index(op.f("uploads_status_expires_at"), "uploads", ["status", "expires_at"], unique=False)
    op.create_table(
        "upload_parts",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("upload_id", sa.String(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["uploads.id"], name=op.f("upload_parts_upload_id_fkey"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("upload_parts_pkey")),
    )
    op.create_index(op.f("upload_parts_upload_id"), "upload_parts", ["upload_id"], unique=False)
    op.create_table(
        "blobs",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("file_id", sa.String(), nullable=True),
        sa.Column("part_id", sa.String(), nullable=True),
        sa.Column("ordinal", sa.Integer(), nullable=False),
        sa.Column("kept_until", sa.DateTime(timezone=True), nullable=False),
        sa.Column("doomed", sa.Boolean(), nullable=False),
        sa.ForeignKeyConstraint(["file_id"], ["files.id"], name=op.f("blobs_file_id_fkey"), ondelete="SET NULL"),
        sa.ForeignKeyConstraint(["part_id"], ["upload_parts.id"], name=op.f("blobs_part_id_fkey"), ondelete="SET NULL"),
        sa.PrimaryKeyConstraint("id", name=op.f("blobs_pkey")),
    )
    op.create_index(op.f("blobs_file_id_ordinal"), "blobs", ["file_id", "ordinal"], unique=False)
    op.create_index("blobs_loose", "blobs", ["kept_until"], unique=False, postgresql_where=LOOSE)
    op.create_index(op.f("blobs_part_id"), "blobs", ["part_id"], unique=False)


def downgrade() -> None:
    op.drop_table("blobs")
    op.drop_table("upload_parts")
    op.drop_table("uploads")
    op.drop_table("files")
