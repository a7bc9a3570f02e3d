"""Sweeps: which runs belong together, and the units that workers take."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

NUMBER = sa.Double().with_variant(sa.REAL(), "sqlite")
STRICT = {"sqlite_strict": True}
CLUSTERED = {"sqlite_strict": True, "sqlite_with_rowid": False}


def upgrade() -> None:
    """Create the queue's tables."""
    op.create_table(
        "sweeps",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("created", NUMBER, nullable=False),
        sa.Column("cancelled", NUMBER),
        **STRICT,
    )
    op.create_table(
        "units",
        sa.Column("sweep", sa.Integer, sa.ForeignKey("sweeps.pk", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("engine", sa.Text, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("reached", sa.Integer, nullable=False),
        sa.Column("error", sa.Text),
        **CLUSTERED,
    )
    op.create_table(
        "members",
        sa.Column("sweep", sa.Integer, primary_key=True),
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True),
        sa.Column("unit", sa.Integer, nullable=False),
        sa.Column("place", sa.Integer, nullable=False),
        sa.ForeignKeyConstraint(["sweep", "unit"], ["units.sweep", "units.number"], ondelete="CASCADE"),
        **CLUSTERED,
    )
    op.create_index("runs_by_parent", "runs", ["parent"])
    op.create_index("members_by_unit", "members", ["sweep", "unit"])
    op.create_index("members_by_run", "members", ["run"])
