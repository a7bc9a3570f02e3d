"""The epochs of an imported file: new ones are stored, those that are there are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import DataError
from ncpl_cli.records import Address
from ncpl_cli.store.csv_rows import Facts
from ncpl_cli.store.import_runs import Complaints, Known
from ncpl_cli.store.schema import WIDE, epochs, measurements, terms
from ncpl_cli.store.terms import Terms

FACTS = ("task", "task_epoch", "samples_seen", "seconds")


@dataclass
class Epoch:
    """What a batch says of one epoch of one run, over the rows of all its splits and layers."""

    line: int
    facts: Facts
    values: dict[Address, float | None] = field(default_factory=dict)
    places: set[tuple[str, str]] = field(default_factory=set)


class ImportedEpochs:
    """The epochs of one import into one transaction."""

    def __init__(self, connection: sa.Connection, numbers: Terms, words: Complaints) -> None:
        self.connection, self.terms, self.words = connection, numbers, words
        self._addresses: dict[tuple[str, str], list[Address]] = {}
        self._texts: dict[int, str] = {}

    def columns(self, place: tuple[str, str]) -> list[Address]:
        """Where the metrics of a row of this split and layer belong."""
        found = self._addresses.get(place)
        if found is None:
            # a column nc1@test says itself where it belongs
            found = [
                Address.parse(text, *place) if "@" in text else Address(address.metric, *place)
                for _, text, address in self.words.source.metrics
            ]
            self._addresses[place] = found
            self.terms.learn(self.connection, {a for a in found if not is_wide(a)})
            self._texts = self.terms.texts()
        return found

    def wide(self) -> list[Address]:
        """The file's metrics that have a column of their own."""
        return list(dict.fromkeys(a for columns in self._addresses.values() for a in columns if is_wide(a)))

    def there(self, known: Known, of_run: Mapping[int, Epoch]) -> dict[int, tuple[Facts, dict[Address, float]]]:
        """What the store holds of these epochs; nothing is looked up for epochs beyond the run's last one."""
        wanted = [number for number in of_run if number <= known.last]
        if not wanted:
            return {}
        low, high = min(wanted), max(wanted)
        here = (epochs.c.run == known.pk) & epochs.c.epoch.between(low, high)
        found: dict[int, tuple[Facts, dict[Address, float]]] = {}
        wide = self.wide()
        chosen = [epochs.c[name] for name in ("epoch", *FACTS, *(a.metric for a in wide))]
        for number, task, task_epoch, samples, seconds, *numbers in self.connection.execute(
            sa.select(*chosen).where(here)
        ):
            values = {a: value for a, value in zip(wide, numbers, strict=True) if value is not None}
            found[number] = ((task, task_epoch, samples, seconds), values)
        if any(not is_wide(a) for columns in self._addresses.values() for a in columns):
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

    def was_stored(self, known: Known, number: int) -> bool:
        place = int(known.stored.searchsorted(number))
        return place < len(known.stored) and int(known.stored[place]) == number

    def compare(self, label: str, number: int, epoch: Epoch, stored: tuple[Facts, dict[Address, float]]) -> None:
        facts, values = stored
        for column, value, there in zip(FACTS, epoch.facts, facts, strict=True):
            if value is not None and there != value:
                raise self.words.conflict(epoch.line, column, label, number, there, value)
        for address, value in epoch.values.items():
            if values.get(address) != value:
                raise self.words.conflict(epoch.line, str(address), label, number, values.get(address), value)

    def merge(
        self, known: Known, label: str, number: int, epoch: Epoch, stored: tuple[Facts, dict[Address, float]]
    ) -> None:
        """A further split or layer of an epoch that an earlier batch of this import has stored."""
        facts, values = stored
        if epoch.places & {(a.split, a.layer) for a in values} or not any(
            value is not None for value in epoch.values.values()
        ):
            raise self.words.twice(epoch.line, label, number)
        if facts[0] != epoch.facts[0]:
            raise self.words.source.error(
                epoch.line, f"run {label!r}, epoch {number}: task differs from an earlier line."
            )
        wide = {a.metric: v for a, v in epoch.values.items() if v is not None and is_wide(a)}
        if wide:
            at = (epochs.c.run == known.pk) & (epochs.c.epoch == number)
            self.connection.execute(epochs.update().where(at).values(wide))
        self._insert_long([(known, number, epoch)])

    def insert(self, new: Sequence[tuple[Known, int, Epoch]]) -> None:
        if not new:
            return
        wide = self.wide()
        rows = []
        for known, number, epoch in new:
            task, task_epoch, samples, seconds = epoch.facts
            if number < known.last:
                known.disordered = True
            elif task < known.task:
                raise self.words.source.error(
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
        insert_many(self.connection, epochs, (*columns, *(a.metric for a in wide)), rows)
        self._insert_long(new)

    def _insert_long(self, new: Sequence[tuple[Known, int, Epoch]]) -> None:
        place = {
            a: tuple(self.terms.place(a).values())
            for columns in self._addresses.values()
            for a in columns
            if not is_wide(a)
        }
        rows = [
            (known.pk, number, *place[a], value)
            for known, number, epoch in new
            for a, value in epoch.values.items()
            if value is not None and a in place
        ]
        insert_many(self.connection, measurements, ("run", "epoch", "metric", "split", "layer", "value"), rows)

    def order_tasks(self, known: Known) -> None:
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
                    f"{self.words.source.lines.path}: run {known.id} has task {task} in epoch {first}, "
                    "before the last task ends.",
                    "task counts up from 0 as epochs go on",
                )
            if not self.words.source.says_task_epoch:
                self.connection.execute(
                    epochs.update()
                    .where(epochs.c.run == known.pk, epochs.c.task == task)
                    .values(task_epoch=epochs.c.epoch - before)
                )
            before = int(last)


_WIDE_SET = frozenset(WIDE)


def insert_many(
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


def is_wide(address: Address) -> bool:
    return address.metric in _WIDE_SET and address.split == "train" and address.layer == "last"
