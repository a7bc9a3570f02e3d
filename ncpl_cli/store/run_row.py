"""A run as the store knows it, and how it is looked up."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import StoreError
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.schema import epochs, labels, runs

BY_RECORDER = {"by": "recorder"}
"""What marks a run as a user's own: its epochs need not be without gaps."""


@dataclass(frozen=True)
class RunRow:
    """A run as the store knows it. `names` are its labels; `cohort` the ids it trains in lockstep with."""

    pk: int
    id: str
    scenario: str
    seed: int
    status: str
    settings: dict[str, Any]
    horizon: dict[str, Any]
    recorded: dict[str, Any]
    total_epochs: int | None
    attempt: int
    owner: Owner | None
    lease_expires: float | None
    cohort: list[str]
    error: str | None
    parent: str | None
    branch_epoch: int | None
    created: float
    updated: float
    finished: float | None
    seconds: float
    names: tuple[str, ...] = ()
    epochs: int = 0

    @property
    def held(self) -> bool:
        """Whether a living process holds this run."""
        if self.status != "running" or self.owner is None:
            return False
        return time.time() < (self.lease_expires or 0) and not self.owner.dead


def by_id(connection: sa.Connection, columns: Iterable[Any], ids: Sequence[str]) -> Iterator[Any]:
    """Rows of runs by id; a statement takes only so many parameters."""
    for start in range(0, len(ids), 500):
        query = sa.select(*columns).where(runs.c.id.in_(ids[start : start + 500]))
        yield from connection.execute(query).mappings()


def runs_query() -> sa.Select[Any]:
    last = sa.select(sa.func.max(epochs.c.epoch)).where(epochs.c.run == runs.c.pk).scalar_subquery()
    return sa.select(runs, last.label("epochs"))


def one_run(connection: sa.Connection, condition: sa.ColumnElement[bool], name: str) -> Any:
    row = connection.execute(runs_query().where(condition)).mappings().first()
    if row is None:
        raise StoreError(f"run {name} is no longer in the store.")
    return row


def names_of(connection: sa.Connection, pks: Sequence[int] | None) -> dict[int, tuple[str, ...]]:
    query = sa.select(labels.c.run, labels.c.name).order_by(labels.c.name)
    if pks is not None:
        query = query.where(labels.c.run.in_(pks))
    found: dict[int, tuple[str, ...]] = {}
    for run, name in connection.execute(query):
        found[run] = (*found.get(run, ()), name)
    return found


def run_row(row: Any, names: Mapping[int, tuple[str, ...]] | None = None) -> RunRow:
    as_they_are = (
        "pk", "id", "scenario", "seed", "status", "total_epochs", "attempt", "lease_expires", "error", "parent",
        "branch_epoch", "created", "updated", "finished", "seconds",
    )  # fmt: skip
    plain = {key: row[key] for key in as_they_are}
    return RunRow(
        **plain,
        settings=json.loads(row["settings"]),
        horizon=json.loads(row["horizon"]),
        recorded=json.loads(row["recorded"]),
        owner=Owner.read(row["owner"]) if row["owner"] else None,
        cohort=json.loads(row["cohort"]) if row["cohort"] else [],
        names=(names or {}).get(row["pk"], ()),
        epochs=row["epochs"] or 0,
    )
