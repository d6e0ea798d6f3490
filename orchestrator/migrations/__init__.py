"""Alembic's scripts: the schema's history. Revisions are numbers of four digits, so that later ones are greater."""

from pathlib import Path

HEAD = max(path.name[:4] for path in Path(__file__).parent.glob("versions/[0-9]*.py"))
"""The newest revision, known without Alembic."""
