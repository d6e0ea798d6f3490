"""Files, uploads, and the bytes behind them."""

from datetime import datetime

from sqlalchemy import BigInteger, Boolean, Column, DateTime, ForeignKey, Index, text
from sqlmodel import Field, SQLModel

from orchestrator import ids
from orchestrator.tables.columns import created, owner, position, time_


class File(SQLModel, table=True):
    """Bytes that a client or a tool stored, under a name. The row is written last: where it is, its bytes are.

    The bytes are the file's blobs, one after the other in the order of `ordinal`. A file past `expires_at` is gone for
    everybody, even before housekeeping removes it.
    """

    __tablename__ = "files"
    __table_args__ = (
        Index(None, "project_id", "position"),
        Index(None, "project_id", "purpose", "position"),
        Index("files_expires_at", "expires_at", postgresql_where=text("expires_at IS NOT NULL")),
    )

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("file-"))
    position: int = position()
    project_id: str = owner("projects")
    created_at: int = created()
    purpose: str
    filename: str
    bytes: int = Field(sa_type=BigInteger)
    expires_at: int | None = time_()


class Upload(SQLModel, table=True):
    """A file that arrives in parts. `pending` until it is completed, cancelled or expired."""

    __tablename__ = "uploads"
    __table_args__ = (Index(None, "status", "expires_at"),)

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("upload_"))
    project_id: str = Field(sa_column=Column(ForeignKey("projects.id", ondelete="CASCADE"), nullable=False, index=True))
    created_at: int = created()
    expires_at: int = time_(nullable=False)
    status: str = "pending"
    purpose: str
    filename: str
    bytes: int = Field(sa_type=BigInteger)
    mime_type: str
    lifetime: int | None = time_()
    """Seconds that the file will live from the upload's creation; None for ever."""
    file_id: str | None = None


class UploadPart(SQLModel, table=True):
    """A piece of an upload, wholly arrived."""

    __tablename__ = "upload_parts"

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("part_"))
    upload_id: str = Field(sa_column=Column(ForeignKey("uploads.id", ondelete="CASCADE"), nullable=False, index=True))
    created_at: int = created()
    bytes: int = Field(sa_type=BigInteger)


class Blob(SQLModel, table=True):
    """One object of the storage. Its row is there before its first byte and until after its last.

    It belongs to a file or to a part of an upload. What belongs to neither (any more) is removed by housekeeping once
    `kept_until` is past: that is how bytes whose writer was killed go, and those of a deleted file. Whoever removes it
    says `doomed` first, whoever gives it an owner does so only while it is not: never both.
    """

    __tablename__ = "blobs"
    __table_args__ = (
        Index("blobs_loose", "kept_until", postgresql_where=text("file_id IS NULL AND part_id IS NULL")),
        Index(None, "file_id", "ordinal"),
        Index(None, "part_id"),
    )

    id: str = Field(primary_key=True, default_factory=lambda: ids.new("blob_"))
    bytes: int = Field(default=0, sa_type=BigInteger)
    file_id: str | None = Field(default=None, sa_column=Column(ForeignKey("files.id", ondelete="SET NULL")))
    part_id: str | None = Field(default=None, sa_column=Column(ForeignKey("upload_parts.id", ondelete="SET NULL")))
    ordinal: int = 0
    kept_until: datetime = Field(sa_type=DateTime(timezone=True))
    doomed: bool = Field(default=False, sa_type=Boolean)
