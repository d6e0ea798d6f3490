"""Alembic's scripts: the schema's history. Revisions are numbers of four digits, so that later ones are greater."""

import re
from pathlib import Path

HEAD = max(path.name[:4] for path in Path(__file__).parent.glob("versions/[0-9]*.py"))
"""The newest revision, known without Alembic."""


def serves(revision: str | None) -> bool:
    """Whether this release can work with a schema: its own, or that of a later one. Other programs use Alembic, too."""
    return revision is not None and re.fullmatch("[0-9]{4}", revision) is not None and revision >= HEAD
