"""The runs of an imported file: each is made, or found in the store, where its first row appears."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import sqlalchemy as sa

from ncpl_cli.errors import DataError
from ncpl_cli.store.csv_rows import Row, Source
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.schema import as_json, attempts, epochs, labels, runs

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_PLAIN_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass
class Known:
    """A run of the file.

    stored  epochs that were in the store before; last: the highest one stored by now
    shift   what is added to the file's epochs: 1 where they count from 0
    """

    pk: int
    id: str
    seed: int
    line: int
    state: str
    stored: NDArray[np.int64]
    branch: tuple[str, int] | None
    last: int = -1
    task: int = 0
    before_task: int = 0
    disordered: bool = False
    added: int = 0
    seconds: float = 0.0
    shift: int = 0


@dataclass(frozen=True)
class Complaints:
    """What can be wrong between a file and the store, with the file's line."""

    source: Source
    name: str

    def twice(self, line: int, label: str, number: int, metric: str | None = None) -> DataError:
        """An epoch that stands in the file a second time, with another value of a metric or nothing new at all."""
        other = f", with another {metric}" if metric else ""
        return self.source.error(
            line, f"run {label!r} has epoch {number} already{other}.",
            "one row per epoch (and split and layer), or several that complete each other; epoch counts on over tasks "
            "and never restarts", "epoch",
        )  # fmt: skip

    def conflict(self, line: int, column: str, label: str, number: int, stored: object, given: object) -> DataError:
        """A run that is stored with other values."""
        return self.source.error(
            line,
            f"run {label!r} of {self.name!r} is stored with other values (epoch {number}: "
            f"{_said(stored)} in the store, {_said(given)} here).",
            "import it under another --name, or add --replace to put the file in its place", column,
        )  # fmt: skip


class ImportedRuns:
    """The runs of one import into one transaction, by their label in the file."""

    def __init__(
        self, connection: sa.Connection, words: Complaints, scenario: str, replace: bool,
        provenance: Mapping[str, object],
    ) -> None:  # fmt: skip
        self.connection, self.words, self.name = connection, words, words.name
        self.scenario, self.replace, self.provenance = scenario, replace, provenance
        self.known: dict[str, Known] = {}

    def begin(self, row: Row) -> Known:
        """A run that appears for the first time in the file: made, or found in the store."""
        import numpy as np

        none = np.array([], dtype=np.int64)
        identity = self._identity(row.run)
        there = self.connection.execute(
            sa.select(
                runs.c.pk, runs.c.id, runs.c.seed, runs.c.attempt, runs.c.parent, runs.c.branch_epoch, runs.c.recorded
            ).where(runs.c.identity == identity)
        ).first()  # fmt: skip
        branch = self._branch(row)
        now = time.time()
        shift = 1 if self.words.source.epochs_from == 0 else 0
        recorded = as_json({"run": row.run, "epochs_from": 0} if shift else {"run": row.run})
        if there is None:
            chosen = self._free_id(row.run, identity)
            pk = self.connection.execute(
                runs.insert().values(
                    id=chosen, identity=identity, scenario=self.scenario, seed=row.seed,
                    settings=as_json({"imported": True}), horizon="{}", recorded=recorded,
                    status="finished", attempt=1, created=now, updated=now, seconds=0.0, **branch,
                ).returning(runs.c.pk)
            ).scalar_one()  # fmt: skip
            self.connection.execute(labels.insert().values(run=pk, name=self.name))
            known = Known(int(pk), chosen, row.seed, row.line, "new", none, row.branch, shift=shift)
            attempt = 1
        elif self.replace:
            attempt = int(there.attempt) + 1
            self.connection.execute(epochs.delete().where(epochs.c.run == there.pk))
            self.connection.execute(
                runs.update().where(runs.c.pk == there.pk).values(
                    seed=row.seed, attempt=attempt, seconds=0.0, recorded=recorded, **branch
                )
            )  # fmt: skip
            known = Known(int(there.pk), there.id, row.seed, row.line, "replaced", none, row.branch, shift=shift)
        else:
            if there.seed != row.seed:
                raise self.words.conflict(row.line, "seed", row.run, row.epoch, there.seed, row.seed)
            for column, value in branch.items():
                if there._mapping[column] != value:
                    raise self.words.conflict(row.line, column, row.run, row.epoch, there._mapping[column], value)
            numbers = self.connection.execute(
                sa.select(epochs.c.epoch).where(epochs.c.run == there.pk).order_by(epochs.c.epoch)
            ).scalars()
            stored = np.fromiter(numbers, dtype=np.int64)
            # as it was stored, since a part of a log need not show where it begins
            shift = 1 if json.loads(there.recorded).get("epochs_from") == 0 else 0
            known = Known(int(there.pk), there.id, row.seed, row.line, "unchanged", stored, row.branch, shift=shift)
            if len(stored):
                known.last = int(stored[-1])
                self._go_on(known)
            attempt = 0
        if attempt:
            self.connection.execute(
                attempts.insert().values(
                    run=known.pk, attempt=attempt, owner=str(Owner.current()), started=now,
                    provenance=as_json({**self.provenance, "file": self.words.source.lines.path.name}),
                )
            )  # fmt: skip
        self.known[row.run] = known
        return known

    def _identity(self, label: str) -> str:
        return as_json({"imported": {"name": self.name, "run": label, "scenario": self.scenario}})

    def _branch(self, row: Row) -> dict[str, object]:
        """A probe's parent by its id; the analyses read probes on their parent's rows and never as runs."""
        if row.branch is None:
            return {"parent": None, "branch_epoch": None}
        label, epoch = row.branch
        identity = self._identity(label)
        parent = self.connection.execute(sa.select(runs.c.id).where(runs.c.identity == identity)).scalar()
        if parent is None:
            raise self.words.source.error(
                row.line, f"run {row.run!r} is a probe of {label!r}, which is not in the file before it.",
                "put the parent's rows first, or leave the column out: --skip parent", "parent",
            )  # fmt: skip
        return {"parent": parent, "branch_epoch": epoch}

    def _go_on(self, known: Known) -> None:
        """Where a stored run's last task began."""
        query = sa.select(epochs.c.task, epochs.c.task_epoch).where(
            epochs.c.run == known.pk, epochs.c.epoch == known.last
        )
        task, task_epoch = self.connection.execute(query).one()
        known.task, known.before_task = int(task), known.last - int(task_epoch)

    def _free_id(self, label: str, identity: str) -> str:
        """The label itself where nothing else is called so, since people know their runs by it."""
        candidates = [c for c in (label, f"{self.name}-{label}") if _PLAIN_LABEL.fullmatch(c)]
        taken = set(self.connection.execute(sa.select(runs.c.id).where(runs.c.id.in_(candidates))).scalars())
        free = [c for c in candidates if c not in taken]
        return free[0] if free else hashlib.sha256(identity.encode()).hexdigest()[:12]


def _said(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)
