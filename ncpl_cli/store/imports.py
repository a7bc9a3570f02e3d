"""Anyone's logs into the store: a CSV with a row per recorded epoch, read as a stream, all of it or nothing.

A run is known by scenario, name and its label in the file. What is stored already is compared, not written again, so
the same file twice changes nothing; other values are an error unless the run is to be replaced.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from ncpl_cli.store.csv_rows import Row, Source
from ncpl_cli.store.import_epochs import Epoch, ImportedEpochs
from ncpl_cli.store.import_runs import Complaints, ImportedRuns, Known
from ncpl_cli.store.schema import attempts, epochs, runs
from ncpl_cli.store.writing import Writing

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
    store: Writing,
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
    source = Source(Path(path), tuple(skip))
    with store.terms.kept_if_done(), source.opened() as rows, store.writing(durable=True) as connection:
        words = Complaints(source, name)
        work = _Import(
            connection, ImportedRuns(connection, words, scenario, replace, dict(provenance or {})),
            ImportedEpochs(connection, store.terms, words), words,
        )  # fmt: skip
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
            epoch = of_run.get(row.epoch)
            if epoch is None:
                epoch = of_run[row.epoch] = Epoch(row.line, row.facts)
            elif row.place in epoch.places:
                raise self.words.twice(row.line, row.run, row.epoch)
            elif row.facts != epoch.facts:
                raise self.words.source.error(
                    row.line, f"run {row.run!r}, epoch {row.epoch}: task or times differ from line {epoch.line}."
                )
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
            **count,
        )
