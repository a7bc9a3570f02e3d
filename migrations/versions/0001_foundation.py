"""The first schema: runs, attempts, epochs, measurements, reasons, task accuracies."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

NUMBER = sa.Double().with_variant(sa.REAL(), "sqlite")
STRICT = {"sqlite_strict": True}
CLUSTERED = {"sqlite_strict": True, "sqlite_with_rowid": False}

WIDE = (
    "online_accuracy", "online_loss", "train_accuracy", "train_loss", "test_accuracy", "test_loss",
    "plasticity_loss", "plasticity_loss_b24", "nc1", "nc2", "nc3", "nc4", "cdnv", "dead_units", "dormant_units",
    "effective_rank", "stable_rank", "weight_norm", "feature_norm",
)  # fmt: skip


def upgrade() -> None:
    """Create every table."""
    op.create_table(
        "runs",
        sa.Column("pk", sa.Integer, primary_key=True),
        sa.Column("id", sa.Text, nullable=False, unique=True),
        sa.Column("identity", sa.Text, nullable=False),
        sa.Column("scenario", sa.Text, nullable=False),
        sa.Column("seed", sa.Integer, nullable=False),
        sa.Column("settings", sa.Text, nullable=False),
        sa.Column("horizon", sa.Text, nullable=False),
        sa.Column("recorded", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("total_epochs", sa.Integer),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("lease_expires", NUMBER),
        sa.Column("cohort", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("parent", sa.Text),
        sa.Column("branch_epoch", sa.Integer),
        sa.Column("created", NUMBER, nullable=False),
        sa.Column("updated", NUMBER, nullable=False),
        sa.Column("finished", NUMBER),
        sa.Column("seconds", NUMBER, nullable=False),
        sa.CheckConstraint(
            "status in ('pending', 'running', 'interrupted', 'finished', 'failed', 'diverged')", name="known_status"
        ),
        **STRICT,
    )
    op.create_index("runs_by_scenario", "runs", ["scenario", "seed"])
    op.create_index("runs_by_status", "runs", ["status"])
    op.create_table(
        "labels",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True),
        sa.Column("name", sa.Text, primary_key=True),
        **CLUSTERED,
    )
    op.create_table(
        "attempts",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True),
        sa.Column("attempt", sa.Integer, primary_key=True),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("provenance", sa.Text, nullable=False),
        sa.Column("started", NUMBER, nullable=False),
        sa.Column("ended", NUMBER),
        sa.Column("outcome", sa.Text),
        **CLUSTERED,
    )
    op.create_table(
        "terms",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.UniqueConstraint("kind", "text"),
        **STRICT,
    )
    op.create_table(
        "epochs",
        sa.Column("run", sa.Integer, sa.ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("task", sa.Integer, nullable=False),
        sa.Column("task_epoch", sa.Integer, nullable=False),
        sa.Column("samples_seen", sa.Integer, nullable=False),
        sa.Column("seconds", NUMBER, nullable=False),
        sa.Column("measure_seconds", NUMBER, nullable=False),
        *(sa.Column(name, NUMBER) for name in WIDE),
        **CLUSTERED,
    )

    for name, last in (
        ("measurements", sa.Column("value", NUMBER, nullable=False)),
        ("undefined", sa.Column("reason", sa.Integer, sa.ForeignKey("terms.id"), nullable=False)),
    ):
        op.create_table(
            name,
            sa.Column("run", sa.Integer, primary_key=True),
            sa.Column("epoch", sa.Integer, primary_key=True),
            *(
                sa.Column(part, sa.Integer, sa.ForeignKey("terms.id"), primary_key=True)
                for part in ("metric", "split", "layer")
            ),
            last,
            sa.ForeignKeyConstraint(["run", "epoch"], ["epochs.run", "epochs.epoch"], ondelete="CASCADE"),
            **CLUSTERED,
        )
    op.create_table(
        "task_accuracy",
        sa.Column("run", sa.Integer, primary_key=True),
        sa.Column("epoch", sa.Integer, primary_key=True),
        sa.Column("evaluated_task", sa.Integer, primary_key=True),
        sa.Column("accuracy", NUMBER, nullable=False),
        sa.ForeignKeyConstraint(["run", "epoch"], ["epochs.run", "epochs.epoch"], ondelete="CASCADE"),
        **CLUSTERED,
    )
