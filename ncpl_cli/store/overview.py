"""How a sweep stands."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ncpl_cli.store.database import Database
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.queue_sql import most_attempts, runs_of, sweep_row
from ncpl_cli.store.schema import epochs, members, runs


@dataclass(frozen=True)
class Working:
    """A unit in training. `epoch` is its last stored one, `seconds` what training and measuring took so far."""

    owner: Owner
    unit: int
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    epoch: int
    total_epochs: int | None
    seconds: float


@dataclass(frozen=True)
class Overview:
    """How a sweep stands.

    runs, probes  how many by status; a failed run that will be tried again is `pending`
    statuses      the status of each run by id, probes left out
    epochs        stored ones, of `total_epochs` (None where a run ends when it ends)
    units_left    units with a run that is neither finished nor given up
    errors        (run, tries, error) of units whose last attempt went wrong and that are not finished since
    """

    name: str
    settings: dict[str, Any]
    created: float
    cancelled: float | None
    runs: dict[str, int]
    probes: dict[str, int]
    statuses: dict[str, str]
    epochs: int
    total_epochs: int | None
    working: tuple[Working, ...]
    units_left: int
    errors: tuple[tuple[str, int, str], ...]
    seconds_left: float | None = field(default=None)
    """Seconds until all is done, at the pace so far and with the workers at work now; None where nobody can know."""

    @property
    def pace(self) -> float | None:
        """Epochs a second, all workers together."""
        if not self.working or self.seconds_left is None or self.total_epochs is None:
            return None
        left = self.total_epochs - self.epochs
        return left / self.seconds_left if self.seconds_left else None


def overview(store: Database, name: str) -> Overview:
    """How a sweep stands, from one query over its runs."""
    last = sa.select(sa.func.max(epochs.c.epoch)).where(epochs.c.run == runs.c.pk).scalar_subquery()
    with store.reading() as connection:
        sweep = sweep_row(connection, name)
        query = runs_of(sweep).add_columns(last.label("last")).order_by(members.c.unit, members.c.place)
        rows = connection.execute(query).mappings().all()
    most, now = most_attempts(sweep), time.time()
    by_kind: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
    statuses: dict[str, str] = {}
    busy: dict[int, list[Any]] = {}
    dead: dict[str, bool] = {}
    errors: dict[int, tuple[str, int, str]] = {}
    done, total, seconds = 0, 0, 0.0
    known = True
    unended: set[int] = set()
    for row in rows:
        status = row["status"]
        if status == "running":
            gone = now >= (row["lease_expires"] or 0)
            if not gone and row["owner"] not in dead:
                dead[row["owner"]] = Owner.read(row["owner"]).dead
            if gone or dead[row["owner"]]:
                status = "interrupted"
            else:
                busy.setdefault(row["unit"], []).append(row)
        elif status == "failed" and row["tries"] < most:
            status = "pending"
        by_kind[row["parent"] is not None][status] += 1
        if row["parent"] is None:
            statuses[row["id"]] = status
        if (row["unit_error"] or status == "failed") and status not in ("finished", "diverged"):
            errors.setdefault(row["unit"], (row["id"], row["tries"], row["unit_error"] or row["error"] or ""))
        here = int(row["last"] or 0)
        done, seconds = done + here, seconds + row["seconds"]
        over = status in ("finished", "diverged", "failed")
        if not over:
            unended.add(row["unit"])
        known = known and (over or row["total_epochs"] is not None)
        total += here if over else int(row["total_epochs"] or 0)
    working = tuple(
        Working(
            Owner.read(of[0]["owner"]), unit, tuple(r["id"] for r in of), tuple(r["seed"] for r in of),
            min(int(r["last"] or 0) for r in of), of[0]["total_epochs"], sum(r["seconds"] for r in of),
        )
        for unit, of in busy.items()
    )  # fmt: skip
    left = (total - done) * seconds / done / len(working) if known and done and working else None
    return Overview(
        name, json.loads(sweep["settings"]), sweep["created"], sweep["cancelled"], dict(by_kind[False]),
        dict(by_kind[True]), statuses, done, total if known else None, working, len(unended),
        tuple(errors.values()), left,
    )  # fmt: skip
