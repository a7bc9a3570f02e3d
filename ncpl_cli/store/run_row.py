"""A run as the store knows it, and how it is looked up."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa

from ncpl_cli.errors import StoreError
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.schema import epochs, labels, runs

_Kind = TypeVar("_Kind", dict[str, Any], list[Any])
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
LAST_MOMENT = 253402300800.0  # the year 10 000, where Python's dates end

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


_AS_THEY_ARE = (
    "pk", "id", "scenario", "seed", "status", "total_epochs", "attempt", "lease_expires", "error", "parent",
    "branch_epoch", "created", "updated", "finished", "seconds",
)  # fmt: skip
_KINDS: dict[str, tuple[type, ...]] = {
    column: (str,) if isinstance(runs.c[column].type, sa.Text) else (int, float) for column in _AS_THEY_ARE
}
_KINDS |= {column: (*kinds, type(None)) for column, kinds in _KINDS.items() if runs.c[column].nullable}
"""Columns that are taken as they are, and what may stand in them: a store of others need not be STRICT."""


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
    """A row as it is read everywhere; raises StoreError where it does not hold what a run has."""
    for name in (row["id"], *filter(None, (row["parent"],))):
        checked_id(name)
    for column, kinds in _KINDS.items():
        if not isinstance(row[column], kinds):
            raise unreadable(row["id"], column, f"{row[column]!r:.40}")
    for column in ("created", "updated", "finished"):
        if row[column] is not None and not 0 <= row[column] < LAST_MOMENT:
            raise unreadable(row["id"], column, f"{row[column]} is no time")
    cohort = from_json(row, "cohort", list)
    for name in cohort:
        checked_id(name)
    return RunRow(
        **{column: row[column] for column in _KINDS},
        settings=from_json(row, "settings", dict),
        horizon=from_json(row, "horizon", dict),
        recorded=from_json(row, "recorded", dict),
        owner=owner_of(row),
        cohort=cohort,
        names=(names or {}).get(row["pk"], ()),
        epochs=row["epochs"] or 0,
    )


def checked_id(text: Any) -> str:
    """A run's id out of a store, which names a folder of checkpoints: never a path to somewhere else."""
    if not is_id(text):
        raise StoreError(
            f"the store has a run with the id {text!r}, which no run can have.",
            "it did not come from ncpl: do not trust its other contents either",
        )
    return str(text)


def is_id(text: Any) -> bool:
    """Whether a run can be called so: letters, digits, `._-`."""
    return isinstance(text, str) and _ID.fullmatch(text) is not None


def owner_of(row: Any) -> Owner | None:
    """Who holds a run, or held it last."""
    if not row["owner"]:
        return None
    try:
        return Owner.read(row["owner"])
    except (ValueError, TypeError) as error:
        raise unreadable(row["id"], "owner", str(error)) from error


def from_json(row: Any, column: str, kind: type[_Kind]) -> _Kind:
    """A column of JSON; empty where nothing stands."""
    if row[column] is None:
        return kind()
    try:
        found = json.loads(row[column])
    except (ValueError, RecursionError) as error:
        raise unreadable(row["id"], column, str(error)) from error
    if not isinstance(found, kind):
        raise unreadable(row["id"], column, f"{row[column][:40]} is no {'list' if kind is list else 'table'}")
    return found


def unreadable(run: str, column: str, why: str) -> StoreError:
    """The error for a row that does not hold what the program reads there."""
    return StoreError(
        f"run {run} cannot be read from the store: the column {column} is broken ({why}).",
        "ncpl db check lists all that is; restore a copy, or delete the run: ncpl runs delete " + run,
    )
