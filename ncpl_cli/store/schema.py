"""The tables, as SQLAlchemy Core sees them. Alembic's migrations are what makes them (a test holds both together)."""

from __future__ import annotations

import json
from typing import Any

from sqlalchemy import (
    REAL,
    CheckConstraint,
    Column,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
)

HEAD = "0002"
"""The revision this ncpl reads and writes; equal to Alembic's head (a test says so)."""

APPLICATION_ID = 0x6E63706C
"""`ncpl` in ASCII: SQLite's mark of whose file it is."""

VERSION_TABLE = "ncpl_alembic_version"

STATUSES = ("pending", "running", "interrupted", "finished", "failed", "diverged")

WIDE = (
    "online_accuracy", "online_loss", "train_accuracy", "train_loss", "test_accuracy", "test_loss",
    "plasticity_loss", "plasticity_loss_b24", "nc1", "nc2", "nc3", "nc4", "cdnv", "dead_units", "dormant_units",
    "effective_rank", "stable_rank", "weight_norm", "feature_norm",
)  # fmt: skip
"""Metrics with a column of their own at train/last: what every epoch has. All others are rows of `measurements`."""

metadata = MetaData()
Number: Any = Double().with_variant(REAL(), "sqlite")  # STRICT tables know REAL, not DOUBLE
_strict: dict[str, Any] = {"sqlite_strict": True}
_clustered: dict[str, Any] = {"sqlite_strict": True, "sqlite_with_rowid": False}

runs = Table(
    "runs", metadata,
    Column("pk", Integer, primary_key=True),
    Column("id", Text, nullable=False, unique=True),
    Column("identity", Text, nullable=False),
    Column("scenario", Text, nullable=False),
    Column("seed", Integer, nullable=False),
    Column("settings", Text, nullable=False),
    Column("horizon", Text, nullable=False),
    Column("recorded", Text, nullable=False),
    Column("status", Text, CheckConstraint(f"status in {STATUSES!r}", name="known_status"), nullable=False),
    Column("total_epochs", Integer),
    Column("attempt", Integer, nullable=False),
    Column("owner", Text),
    Column("lease_expires", Number),
    Column("cohort", Text),
    Column("error", Text),
    Column("parent", Text),
    Column("branch_epoch", Integer),
    Column("created", Number, nullable=False),
    Column("updated", Number, nullable=False),
    Column("finished", Number),
    Column("seconds", Number, nullable=False),
    Index("runs_by_scenario", "scenario", "seed"),
    Index("runs_by_status", "status"),
    Index("runs_by_parent", "parent"),
    **_strict,
)  # fmt: skip

labels = Table(
    "labels", metadata,
    Column("run", Integer, ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True),
    Column("name", Text, primary_key=True),
    **_clustered,
)  # fmt: skip

attempts = Table(
    "attempts", metadata,
    Column("run", Integer, ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True),
    Column("attempt", Integer, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("provenance", Text, nullable=False),
    Column("started", Number, nullable=False),
    Column("ended", Number),
    Column("outcome", Text),
    **_clustered,
)  # fmt: skip

terms = Table(
    "terms", metadata,
    Column("id", Integer, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("text", Text, nullable=False),
    UniqueConstraint("kind", "text"),
    **_strict,
)  # fmt: skip

epochs = Table(
    "epochs", metadata,
    Column("run", Integer, ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("task", Integer, nullable=False),
    Column("task_epoch", Integer, nullable=False),
    Column("samples_seen", Integer, nullable=False),
    Column("seconds", Number, nullable=False),
    Column("measure_seconds", Number, nullable=False),
    *(Column(name, Number) for name in WIDE),
    **_clustered,
)  # fmt: skip


def _address() -> list[Column[int]]:
    return [
        Column("run", Integer, primary_key=True),
        Column("epoch", Integer, primary_key=True),
        *(Column(name, Integer, ForeignKey("terms.id"), primary_key=True) for name in ("metric", "split", "layer")),
    ]


def _of_an_epoch() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["run", "epoch"], ["epochs.run", "epochs.epoch"], ondelete="CASCADE")


measurements = Table(
    "measurements", metadata,
    *_address(), Column("value", Number, nullable=False), _of_an_epoch(), **_clustered,
)  # fmt: skip

undefined = Table(
    "undefined", metadata,
    *_address(), Column("reason", Integer, ForeignKey("terms.id"), nullable=False), _of_an_epoch(), **_clustered,
)  # fmt: skip

task_accuracy = Table(
    "task_accuracy", metadata,
    Column("run", Integer, primary_key=True),
    Column("epoch", Integer, primary_key=True),
    Column("evaluated_task", Integer, primary_key=True),
    Column("accuracy", Number, nullable=False),
    _of_an_epoch(),
    **_clustered,
)  # fmt: skip

sweeps = Table(
    "sweeps", metadata,
    Column("pk", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("settings", Text, nullable=False),
    Column("max_attempts", Integer, nullable=False),
    Column("created", Number, nullable=False),
    Column("cancelled", Number),
    **_strict,
)  # fmt: skip

units = Table(
    "units", metadata,
    Column("sweep", Integer, ForeignKey("sweeps.pk", ondelete="CASCADE"), primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("engine", Text, nullable=False),
    Column("tries", Integer, nullable=False),
    Column("reached", Integer, nullable=False),
    Column("error", Text),
    **_clustered,
)  # fmt: skip
"""What a worker takes: a cohort. `tries`: attempts in a row that came no further than `reached`, its last epoch."""

members = Table(
    "members", metadata,
    Column("sweep", Integer, primary_key=True),
    Column("run", Integer, ForeignKey("runs.pk", ondelete="CASCADE"), primary_key=True),
    Column("unit", Integer, nullable=False),
    Column("place", Integer, nullable=False),
    ForeignKeyConstraint(["sweep", "unit"], ["units.sweep", "units.number"], ondelete="CASCADE"),
    Index("members_by_unit", "sweep", "unit"),
    Index("members_by_run", "run"),
    **_clustered,
)  # fmt: skip

BY_EPOCH = (measurements, undefined, task_accuracy, epochs)
"""Tables with rows per epoch, children first."""


def as_json(value: object) -> str:
    """How columns with JSON are written: the same value is the same text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)
