"""Anyone's logs into the store: a CSV with a row per recorded epoch, read as a stream, all of it or nothing.

A run is known by scenario, name and its label in the file. What is stored already is compared, not written again, so
the same file twice changes nothing; other values are an error unless the run is to be replaced.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ncpl_cli.errors import DataError
from ncpl_cli.records import Address
from ncpl_cli.store.csv_rows import Row, Source
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.schema import WIDE, attempts, epochs, labels, measurements, runs, terms
from ncpl_cli.store.store import Store, _json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FACTS = ("task", "task_epoch", "samples_seen", "seconds")

Facts = tuple[int, int | None, int | None, float | None]

BATCH = 4096
_PLAIN_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Imported:
    """What an import did.

    runs        ids by label, in the order of the file
    rows        rows read; epochs: epochs stored that were not there
    new, extended, replaced, unchanged   how many runs of each kind
    metrics     the columns that were taken as metrics
    ignored     columns left out
    not_finite  values that were nan or infinite, and so are undefined
    """

    runs: Mapping[str, str]
    rows: int
    epochs: int
    new: int
    extended: int
    replaced: int
    unchanged: int
    metrics: tuple[str, ...]
    ignored: tuple[str, ...]
    not_finite: int


def import_csv(
    store: Store,
    path: str | os.PathLike[str],
    *,
    scenario: str,
    name: str,
    replace: bool = False,
    skip: Sequence[str] = (),
    provenance: Mapping[str, object] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Imported:
    """Store the runs of a CSV file under a name, in one transaction.

    skip      columns to leave out
    progress  called with the number of rows read so far, every now and then
    Raises InputError when there is no such file, DataError naming file, line and column for a malformed row and for
    a run that is stored with other values (unless `replace`); nothing of the file is then stored.
    """
    file = Path(path)
    source = Source(file, tuple(skip))
    known_terms = dict(store._terms)
    try:
        with source.opened() as rows, store._write(durable=True) as connection:
            work = _Import(store, connection, source, scenario, name, replace, dict(provenance or {}))
            batch: list[Row] = []
            for row in rows:
                batch.append(row)
                if len(batch) == BATCH:
                    work.take(batch)
                    batch = []
                    if progress is not None:
                        progress(source.rows)
            work.take(batch)
            return work.end()
    except BaseException:
        store._terms = known_terms  # names that the transaction gave numbers to are gone with it
        raise


@dataclass
class _Known:
    """A run of the file. `stored`: epochs that were in the store before; `last`: the highest one stored by now."""

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


@dataclass
class _Epoch:
    """What a batch says of one epoch of one run, over the rows of all its splits and layers."""

    line: int
    facts: Facts
    values: dict[Address, float | None] = field(default_factory=dict)
    places: set[tuple[str, str]] = field(default_factory=set)


class _Import:
    """One import into one transaction."""

    def __init__(
        self, store: Store, connection: sa.Connection, source: Source, scenario: str, name: str, replace: bool,
        provenance: dict[str, object],
    ) -> None:  # fmt: skip
        self.store, self.connection, self.source = store, connection, source
        self.scenario, self.name, self.replace, self.provenance = scenario, name, replace, provenance
        self.known: dict[str, _Known] = {}
        self._addresses: dict[tuple[str, str], list[Address]] = {}
        self._texts: dict[int, str] = {}

    def take(self, batch: Sequence[Row]) -> None:
        """Store or compare some rows."""
        found: dict[str, dict[int, _Epoch]] = {}
        for row in batch:
            known = self.known.get(row.run) or self._begin(row)
            if row.seed != known.seed:
                raise self.source.error(
                    row.line, f"run {row.run!r} has seed {known.seed} in line {known.line} and seed {row.seed} here.",
                    "give every run a label of its own", "seed",
                )  # fmt: skip
            if row.branch != known.branch:
                raise self.source.error(
                    row.line, f"run {row.run!r} has another parent in line {known.line}.",
                    "a probe is copied from one run in one epoch", "parent",
                )  # fmt: skip
            of_run = found.setdefault(row.run, {})
            epoch = of_run.get(row.epoch)
            if epoch is None:
                epoch = of_run[row.epoch] = _Epoch(row.line, row.facts)
            elif row.place in epoch.places:
                raise self._twice(row.line, row.run, row.epoch)
            elif row.facts != epoch.facts:
                raise self.source.error(
                    row.line, f"run {row.run!r}, epoch {row.epoch}: task or times differ from line {epoch.line}."
                )
            epoch.places.add(row.place)
            epoch.values.update(zip(self._columns(row.place), row.values, strict=True))
        new: list[tuple[_Known, int, _Epoch]] = []
        for label, of_run in found.items():
            known = self.known[label]
            there = self._there(known, of_run)
            for number, epoch in of_run.items():
                stored = there.get(number)
                if stored is None:
                    new.append((known, number, epoch))
                elif self._was_stored(known, number):
                    self._compare(label, number, epoch, stored)
                else:
                    self._merge(known, label, number, epoch, stored)
        self._insert(new)

    def end(self) -> Imported:
        """Finish the runs, and say what was done."""
        now = time.time()
        count = dict.fromkeys(("new", "extended", "replaced", "unchanged"), 0)
        for known in self.known.values():
            state = "extended" if known.state == "unchanged" and known.added else known.state
            count[state] += 1
            if known.disordered:
                self._order_tasks(known)
            if known.added or state == "replaced":
                seconds = known.seconds if state != "extended" else runs.c.seconds + known.seconds
                last = sa.select(sa.func.max(epochs.c.epoch)).where(epochs.c.run == known.pk).scalar_subquery()
                self.connection.execute(
                    runs.update().where(runs.c.pk == known.pk).values(
                        updated=now, finished=now, seconds=seconds, total_epochs=last
                    )
                )  # fmt: skip
                self.connection.execute(
                    attempts.update().where(attempts.c.run == known.pk, attempts.c.ended.is_(None)).values(
                        ended=now, outcome="imported"
                    )
                )  # fmt: skip
        return Imported(
            runs={label: known.id for label, known in self.known.items()},
            rows=self.source.rows,
            epochs=sum(known.added for known in self.known.values()),
            metrics=tuple(n for _, n, _ in self.source.metrics),
            ignored=tuple(self.source.ignored),
            not_finite=self.source.not_finite,
            **count,
        )

    # runs ------------------------------------------------------------------------------------------------------

    def _begin(self, row: Row) -> _Known:
        """A run that appears for the first time in the file: made, or found in the store."""
        import numpy as np

        none = np.array([], dtype=np.int64)
        identity = self._identity(row.run)
        there = self.connection.execute(
            sa.select(runs.c.pk, runs.c.id, runs.c.seed, runs.c.attempt, runs.c.parent, runs.c.branch_epoch)
            .where(runs.c.identity == identity)
        ).first()  # fmt: skip
        branch = self._branch(row)
        now = time.time()
        if there is None:
            chosen = self._free_id(row.run, identity)
            pk = self.connection.execute(
                runs.insert().values(
                    id=chosen, identity=identity, scenario=self.scenario, seed=row.seed,
                    settings=_json({"imported": True}), horizon="{}", recorded=_json({"run": row.run}),
                    status="finished", attempt=1, created=now, updated=now, seconds=0.0, **branch,
                ).returning(runs.c.pk)
            ).scalar_one()  # fmt: skip
            self.connection.execute(labels.insert().values(run=pk, name=self.name))
            known = _Known(int(pk), chosen, row.seed, row.line, "new", none, row.branch)
            attempt = 1
        elif self.replace:
            attempt = int(there.attempt) + 1
            self.connection.execute(epochs.delete().where(epochs.c.run == there.pk))
            self.connection.execute(
                runs.update().where(runs.c.pk == there.pk).values(seed=row.seed, attempt=attempt, seconds=0.0, **branch)
            )
            known = _Known(int(there.pk), there.id, row.seed, row.line, "replaced", none, row.branch)
        else:
            if there.seed != row.seed:
                raise self._conflict(row.line, "seed", row.run, row.epoch, there.seed, row.seed)
            for column, value in branch.items():
                if there._mapping[column] != value:
                    raise self._conflict(row.line, column, row.run, row.epoch, there._mapping[column], value)
            numbers = self.connection.execute(
                sa.select(epochs.c.epoch).where(epochs.c.run == there.pk).order_by(epochs.c.epoch)
            ).scalars()
            stored = np.fromiter(numbers, dtype=np.int64)
            known = _Known(int(there.pk), there.id, row.seed, row.line, "unchanged", stored, row.branch)
            if len(stored):
                known.last = int(stored[-1])
                self._go_on(known)
            attempt = 0
        if attempt:
            self.connection.execute(
                attempts.insert().values(
                    run=known.pk, attempt=attempt, owner=str(Owner.current()), started=now,
                    provenance=_json({**self.provenance, "file": self.source.path.name}),
                )
            )  # fmt: skip
        self.known[row.run] = known
        return known

    def _identity(self, label: str) -> str:
        return _json({"imported": {"name": self.name, "run": label, "scenario": self.scenario}})

    def _branch(self, row: Row) -> dict[str, object]:
        """A probe's parent by its id; the analyses read probes on their parent's rows and never as runs."""
        if row.branch is None:
            return {"parent": None, "branch_epoch": None}
        label, epoch = row.branch
        identity = self._identity(label)
        parent = self.connection.execute(sa.select(runs.c.id).where(runs.c.identity == identity)).scalar()
        if parent is None:
            raise self.source.error(
                row.line, f"run {row.run!r} is a probe of {label!r}, which is not in the file before it.",
                "put the parent's rows first, or leave the column out: --skip parent", "parent",
            )  # fmt: skip
        return {"parent": parent, "branch_epoch": epoch}

    def _go_on(self, known: _Known) -> None:
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

    # epochs ----------------------------------------------------------------------------------------------------

    def _columns(self, place: tuple[str, str]) -> list[Address]:
        """Where the metrics of a row of this split and layer belong."""
        found = self._addresses.get(place)
        if found is None:
            # a column nc1@test says itself where it belongs
            found = [
                Address.parse(text, *place) if "@" in text else Address(address.metric, *place)
                for _, text, address in self.source.metrics
            ]
            self._addresses[place] = found
            self.store._learn(self.connection, {a for a in found if not _is_wide(a)}, ())
            self._texts = {number: text for (_, text), number in self.store._terms.items()}
        return found

    def _wide(self) -> list[Address]:
        """The file's metrics that have a column of their own."""
        return list(dict.fromkeys(a for columns in self._addresses.values() for a in columns if _is_wide(a)))

    def _there(self, known: _Known, of_run: Mapping[int, _Epoch]) -> dict[int, tuple[Facts, dict[Address, float]]]:
        """What the store holds of these epochs; nothing is looked up for epochs beyond the run's last one."""
        wanted = [number for number in of_run if number <= known.last]
        if not wanted:
            return {}
        low, high = min(wanted), max(wanted)
        here = (epochs.c.run == known.pk) & epochs.c.epoch.between(low, high)
        found: dict[int, tuple[Facts, dict[Address, float]]] = {}
        wide = self._wide()
        chosen = [epochs.c[name] for name in ("epoch", *FACTS, *(a.metric for a in wide))]
        for number, task, task_epoch, samples, seconds, *numbers in self.connection.execute(
            sa.select(*chosen).where(here)
        ):
            values = {a: value for a, value in zip(wide, numbers, strict=True) if value is not None}
            found[number] = ((task, task_epoch, samples, seconds), values)
        if any(not _is_wide(a) for columns in self._addresses.values() for a in columns):
            query = sa.select(
                measurements.c.epoch, measurements.c.metric, measurements.c.split, measurements.c.layer,
                measurements.c.value,
            ).where(measurements.c.run == known.pk, measurements.c.epoch.between(low, high))  # fmt: skip
            for number, metric, split, layer, value in self.connection.execute(query):
                found[number][1][Address(self._text(metric), self._text(split), self._text(layer))] = float(value)
        return {number: one for number, one in found.items() if number in of_run}

    def _text(self, number: int) -> str:
        if number not in self._texts:
            self._texts |= {int(n): str(t) for n, t in self.connection.execute(sa.select(terms.c.id, terms.c.text))}
        return self._texts[number]

    def _was_stored(self, known: _Known, number: int) -> bool:
        place = int(known.stored.searchsorted(number))
        return place < len(known.stored) and int(known.stored[place]) == number

    def _compare(self, label: str, number: int, epoch: _Epoch, stored: tuple[Facts, dict[Address, float]]) -> None:
        facts, values = stored
        for column, value, there in zip(FACTS, epoch.facts, facts, strict=True):
            if value is not None and there != value:
                raise self._conflict(epoch.line, column, label, number, there, value)
        for address, value in epoch.values.items():
            if values.get(address) != value:
                raise self._conflict(epoch.line, str(address), label, number, values.get(address), value)

    def _merge(
        self, known: _Known, label: str, number: int, epoch: _Epoch, stored: tuple[Facts, dict[Address, float]]
    ) -> None:
        """A further split or layer of an epoch that an earlier batch of this import has stored."""
        facts, values = stored
        if epoch.places & {(a.split, a.layer) for a in values} or not any(
            value is not None for value in epoch.values.values()
        ):
            raise self._twice(epoch.line, label, number)
        if facts[0] != epoch.facts[0]:
            raise self.source.error(epoch.line, f"run {label!r}, epoch {number}: task differs from an earlier line.")
        wide = {a.metric: v for a, v in epoch.values.items() if v is not None and _is_wide(a)}
        if wide:
            at = (epochs.c.run == known.pk) & (epochs.c.epoch == number)
            self.connection.execute(epochs.update().where(at).values(wide))
        self._insert_long([(known, number, epoch)])

    def _insert(self, new: Sequence[tuple[_Known, int, _Epoch]]) -> None:
        if not new:
            return
        wide = self._wide()
        rows = []
        for known, number, epoch in new:
            task, task_epoch, samples, seconds = epoch.facts
            if number < known.last:
                known.disordered = True
            elif task < known.task:
                raise self.source.error(
                    epoch.line, f"task {task} in epoch {number}, after task {known.task} in an earlier epoch.",
                    "task counts up from 0 as epochs go on", "task",
                )  # fmt: skip
            elif task != known.task:
                known.task, known.before_task = task, max(known.last, 0)
            known.last = max(known.last, number)
            known.added += 1
            known.seconds += seconds or 0.0
            values = epoch.values
            rows.append((
                known.pk, number, task, number - known.before_task if task_epoch is None else task_epoch,
                samples or 0, seconds or 0.0, 0.0, *[values.get(a) for a in wide],
            ))  # fmt: skip
        columns = ("run", "epoch", "task", "task_epoch", "samples_seen", "seconds", "measure_seconds")
        _insert_many(self.connection, epochs, (*columns, *(a.metric for a in wide)), rows)
        self._insert_long(new)

    def _insert_long(self, new: Sequence[tuple[_Known, int, _Epoch]]) -> None:
        place = {
            a: tuple(self.store._place(a).values())
            for columns in self._addresses.values()
            for a in columns
            if not _is_wide(a)
        }
        rows = [
            (known.pk, number, *place[a], value)
            for known, number, epoch in new
            for a, value in epoch.values.items()
            if value is not None and a in place
        ]
        _insert_many(self.connection, measurements, ("run", "epoch", "metric", "split", "layer", "value"), rows)

    def _order_tasks(self, known: _Known) -> None:
        """Check the tasks of a run whose rows did not come in order, and find its task_epochs where none are given:
        epochs since the task before ended."""
        query = (
            sa.select(epochs.c.task, sa.func.min(epochs.c.epoch), sa.func.max(epochs.c.epoch))
            .where(epochs.c.run == known.pk)
            .group_by(epochs.c.task)
            .order_by(epochs.c.task)
        )
        before = 0
        for task, first, last in self.connection.execute(query).all():
            if first < before:
                raise DataError(
                    f"{self.source.path}: run {known.id} has task {task} in epoch {first}, before the last task ends.",
                    "task counts up from 0 as epochs go on",
                )
            if not self.source.says_task_epoch:
                self.connection.execute(
                    epochs.update()
                    .where(epochs.c.run == known.pk, epochs.c.task == task)
                    .values(task_epoch=epochs.c.epoch - before)
                )
            before = int(last)

    # what is wrong ---------------------------------------------------------------------------------------------

    def _twice(self, line: int, label: str, number: int) -> DataError:
        return self.source.error(
            line, f"run {label!r} has epoch {number} already.",
            "one row per epoch (and split and layer); epoch counts on over tasks and never restarts", "epoch",
        )  # fmt: skip

    def _conflict(self, line: int, column: str, label: str, number: int, stored: object, given: object) -> DataError:
        return self.source.error(
            line,
            f"run {label!r} of {self.name!r} is stored with other values (epoch {number}: "
            f"{_said(stored)} in the store, {_said(given)} here).",
            "import it under another --name, or add --replace to put the file in its place", column,
        )  # fmt: skip


_WIDE_SET = frozenset(WIDE)


def _insert_many(
    connection: sa.Connection, table: sa.Table, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows; where the driver takes them as they are, without a dictionary for each, in half the time."""
    if not rows:
        return
    if connection.dialect.paramstyle == "qmark":
        holes = ", ".join("?" * len(columns))
        connection.exec_driver_sql(f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({holes})", list(rows))
    else:
        connection.execute(table.insert(), [dict(zip(columns, row, strict=True)) for row in rows])


def _is_wide(address: Address) -> bool:
    return address.metric in _WIDE_SET and address.split == "train" and address.layer == "last"


def _said(value: object) -> str:
    return "nothing" if value is None else json.dumps(value)
