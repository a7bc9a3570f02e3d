"""Anyone's logs into the store: a table with a row per recorded epoch, read as a stream, all of it or nothing.

Rows of one epoch that complete each other (one of training, one of validation) are one; where a log has steps, the
last value of an epoch counts. A log whose epochs count from 0 is stored one higher.

A run is known by scenario, name and its label in the file. What is stored already is compared, not written again, so
the same file twice changes nothing; other values are an error unless the run is to be replaced.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from ncpl_cli.store.csv_rows import Facts, Row, Source
from ncpl_cli.store.import_epochs import Epoch, ImportedEpochs
from ncpl_cli.store.import_runs import Complaints, ImportedRuns, Known
from ncpl_cli.store.places import SPLITS
from ncpl_cli.store.schema import attempts, epochs, runs
from ncpl_cli.store.tracker_logs import lines_of
from ncpl_cli.store.writing import Writing
from ncpl_cli.values import count

BATCH = 4096


@dataclass(frozen=True)
class Imported:
    """What an import did.

    runs        ids by label, in the order of the file
    rows        rows read; epochs: epochs stored that were not there
    new, extended, replaced, unchanged   how many runs of each kind
    metrics     the columns that were taken as metrics
    ignored     columns left out
    not_finite  values that were nan or infinite, and so are undefined
    notes       what was taken otherwise than it stands in the file
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
    notes: tuple[str, ...] = ()


def import_csv(
    store: Writing,
    path: str | os.PathLike[str],
    *,
    scenario: str,
    name: str,
    replace: bool = False,
    skip: Sequence[str] = (),
    kind: str = "csv",
    epochs_from: int | None = None,
    provenance: Mapping[str, object] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Imported:
    """Store the runs of a log under a name, in one transaction.

    skip         columns to leave out
    kind         csv, lightning, tensorboard, trackio or jsonl
    epochs_from  what the log calls its first trained epoch: 0 or 1 (then 0 is the untrained network); None: see
                 `Source.scan`
    progress     called with the number of rows read so far, every now and then
    Raises InputError when there is no such file, DataError naming file, line and column for a malformed row and for
    a run that is stored with other values (unless `replace`); nothing of the file is then stored.
    """
    lines = lines_of(kind, Path(path))
    source = Source(lines, skip, 0 if kind == "lightning" and epochs_from is None else epochs_from)
    source.scan()
    with store.terms.kept_if_done(), closing(source.read()) as rows, store.writing(durable=True) as connection:
        words = Complaints(source, name)
        work = _Import(
            connection, ImportedRuns(connection, words, scenario, replace, dict(provenance or {})),
            ImportedEpochs(connection, store.terms, words), words,
        )  # fmt: skip
        batch: list[Row] = []
        for row in rows:
            batch.append(row)
            if len(batch) >= BATCH and not source.repeats:
                work.take(batch)
                batch = []
                if progress is not None:
                    progress(source.rows)
        work.take(batch)
        return work.end()


@dataclass
class _Import:
    """One import into one transaction."""

    connection: sa.Connection
    runs: ImportedRuns
    epochs: ImportedEpochs
    words: Complaints

    def take(self, batch: Sequence[Row]) -> None:
        """Store or compare some rows."""
        found: dict[str, dict[int, Epoch]] = {}
        for row in batch:
            known = self.runs.known.get(row.run) or self.runs.begin(row)
            if row.seed != known.seed:
                raise self.words.source.error(
                    row.line, f"run {row.run!r} has seed {known.seed} in line {known.line} and seed {row.seed} here.",
                    "give every run a label of its own", "seed",
                )  # fmt: skip
            if row.branch != known.branch:
                raise self.words.source.error(
                    row.line, f"run {row.run!r} has another parent in line {known.line}.",
                    "a probe is copied from one run in one epoch", "parent",
                )  # fmt: skip
            of_run = found.setdefault(row.run, {})
            number = row.epoch + known.shift
            epoch = of_run.get(number)
            if epoch is None:
                epoch = of_run[number] = Epoch(row.line, row.facts)
            else:
                epoch.facts = self._facts(row, epoch)
            if row.place in epoch.places:
                self._complete(row, epoch)
            else:
                epoch.places.add(row.place)
                epoch.values.update(zip(self.epochs.columns(row.place), row.values, strict=True))
        new: list[tuple[Known, int, Epoch]] = []
        for label, of_run in found.items():
            known = self.runs.known[label]
            there = self.epochs.there(known, of_run)
            for number, epoch in of_run.items():
                stored = there.get(number)
                if stored is None:
                    new.append((known, number, epoch))
                elif self.epochs.was_stored(known, number):
                    self.epochs.compare(label, number, epoch, stored)
                else:
                    self.epochs.merge(known, label, number, epoch, stored)
        self.epochs.insert(new)

    def _facts(self, row: Row, epoch: Epoch) -> Facts:
        """What two rows of an epoch say of it together; in a log of steps the later one counts."""
        pairs = zip(row.facts, epoch.facts, strict=True)
        differ = any(None not in (new, old) and new != old for new, old in pairs)
        if row.facts[0] != epoch.facts[0] or (differ and not self.words.source.has_steps):
            raise self.words.source.error(
                row.line, f"run {row.run!r}, epoch {row.epoch}: task or times differ from line {epoch.line}."
            )
        task, task_epoch, samples, seconds = row.facts
        _, old_epoch, old_samples, old_seconds = epoch.facts
        return (
            task, old_epoch if task_epoch is None else task_epoch, old_samples if samples is None else samples,
            old_seconds if seconds is None else seconds,
        )  # fmt: skip

    def _complete(self, row: Row, epoch: Epoch) -> None:
        """A further row of the same split and layer: it brings what the earlier ones lack, or steps of the epoch."""
        source = self.words.source
        values, brings = epoch.values, not any(value is not None for value in row.values)
        addresses = self.epochs.columns(row.place)
        for (_, column, _), address, value in zip(source.metrics, addresses, row.values, strict=True):
            old = values.get(address)
            if value is None or value == old:
                continue
            if old is not None:
                if not source.has_steps:
                    raise self.words.twice(row.line, row.run, row.epoch, column)
                source.several.add(column)
            values[address], brings = value, True
        if not brings and not source.has_steps:
            raise self.words.twice(row.line, row.run, row.epoch)

    def end(self) -> Imported:
        """Finish the runs, and say what was done."""
        now = time.time()
        count = dict.fromkeys(("new", "extended", "replaced", "unchanged"), 0)
        for known in self.runs.known.values():
            state = "extended" if known.state == "unchanged" and known.added else known.state
            count[state] += 1
            if known.disordered:
                self.epochs.order_tasks(known)
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
            runs={label: known.id for label, known in self.runs.known.items()},
            rows=self.words.source.rows,
            epochs=sum(known.added for known in self.runs.known.values()),
            metrics=tuple(n for _, n, _ in self.words.source.metrics),
            ignored=tuple(self.words.source.ignored),
            not_finite=self.words.source.not_finite,
            notes=(*self.words.source.lines.notes, *self._notes()),
            **count,
        )

    def _notes(self) -> list[str]:
        """What was taken otherwise than it stands in the file."""
        source, notes = self.words.source, []
        if shifted := sum(known.shift for known in self.runs.known.values()):
            notes.append(
                f"epochs count from 0 here ({count(shifted, 'run')}): all are stored one higher, so that epoch 0, the "
                "first that was trained, counts as epoch 1. If 0 is the untrained network: --epochs-from 1 (and "
                "--replace)."
            )
        elif source.has_epoch_0:
            notes.append("epoch 0 is the untrained network: it is stored, and no part of any series.")
        if source.without_epoch:
            notes.append(f"{count(source.without_epoch, 'row')} of steps without an epoch: left out.")
        if source.several:
            names = ", ".join(sorted(source.several))
            notes.append(f"several steps of an epoch have a value, of which the last is kept: {names}.")
        if own := sorted({split for split, _ in source.places} - set(SPLITS)):
            notes.append(f"splits of your own: {', '.join(own)}.")
        return notes
