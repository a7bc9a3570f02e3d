"""Runs that were trained elsewhere, taken into a store: each run in one transaction, the same again changes nothing."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import InputError, StoreError, without_passwords
from ncpl_cli.store.connection import insert_new, shown
from ncpl_cli.store.schema import attempts, epochs, labels, measurements, runs, task_accuracy, terms, undefined
from ncpl_cli.store.writing import Writing

OVER = ("finished", "diverged", "failed")


@dataclass
class Merged:
    """How many runs were new, went further than here, brought nothing, or were being trained and so left out.

    refused  checkpoints that were not taken over, and why
    """

    new: int = 0
    extended: int = 0
    unchanged: int = 0
    held: int = 0
    refused: list[str] = field(default_factory=list)


def merge(target: Writing, source: Writing, refusal: Callable[[Path], str | None] | None = None) -> Merged:
    """Take what `source` has more of into `target`: runs, epochs, labels, attempts and checkpoints.

    refusal  says of a checkpoint why it cannot be used, None where it can
    Raises InputError, with that run left as it is, when a run has other results here for an epoch both have.
    """
    if target.url == source.url or (target.file and source.file and target.file.path.samefile(source.file.path)):
        raise InputError(f"{shown(source.url)} is the store itself.", "name another one")
    done = Merged()
    with source.reading() as reading:
        numbered = reading.execute(sa.select(terms.c.id, terms.c.kind, terms.c.text))
        of = {int(number): (str(kind), str(text)) for number, kind, text in numbered}
    for row in source.runs():
        here = {known.id: known for known in target.runs([row.id])} if target.standing([row.id]) else {}
        if row.held or (row.id in here and here[row.id].held):
            done.held += 1
            continue
        with source.reading() as reading, target.writing(durable=True) as writing:
            what = _take(target, reading, writing, row.pk, of)
        setattr(done, what, getattr(done, what) + 1)
        theirs, ours = source.checkpoints / row.id, target.checkpoints / row.id
        if what != "unchanged" or not any(ours.glob("*")):  # also what an interrupted merge had not come to
            done.refused += _copy_checkpoints(theirs, ours, refusal or (lambda path: None))
    return done


def _copy_checkpoints(theirs: Path, ours: Path, refusal: Callable[[Path], str | None]) -> list[str]:
    """Copy what are checkpoints, each whole or not at all; why others were refused."""
    refused = []
    for path in sorted(theirs.glob("epoch-*.safetensors")) if theirs.is_dir() and not theirs.is_symlink() else ():
        if path.is_symlink() or not path.is_file():  # it leads to what is not the store's
            refused.append(f"{path} is no file")
        elif why := refusal(path):
            refused.append(why)
        else:
            ours.mkdir(parents=True, exist_ok=True)
            temporary = ours / f".{path.name}.tmp"
            try:
                shutil.copyfile(path, temporary)
                temporary.replace(ours / path.name)
            except OSError as error:
                raise StoreError(
                    f"the checkpoint {ours / path.name} cannot be written ({error.strerror}).",
                    "free some space; the same command then goes on where it stopped",
                ) from error
            finally:
                temporary.unlink(missing_ok=True)
    return refused


def _take(
    target: Writing, reading: sa.Connection, writing: sa.Connection, pk: int, of: Mapping[int, tuple[str, str]]
) -> str:  # fmt: skip
    """Copy one run; `new`, `extended` or `unchanged`."""
    theirs = dict(reading.execute(sa.select(runs).where(runs.c.pk == pk)).mappings().one())
    del theirs["pk"]
    ours = writing.execute(sa.select(runs).where(runs.c.id == theirs["id"])).mappings().first()
    names = reading.execute(sa.select(labels.c.name).where(labels.c.run == pk)).scalars().all()
    if theirs["status"] == "running":  # its worker is gone
        theirs |= {"status": "interrupted", "owner": None, "lease_expires": None}
    if ours is None:
        here = int(writing.execute(runs.insert().values(theirs).returning(runs.c.pk)).scalar_one())
        what, after, first = "new", -1, 0
    else:
        here, what, first = int(ours["pk"]), "extended", int(ours["attempt"])
        after = _common_end(reading, writing, pk, here, theirs["id"])
        last = reading.execute(sa.select(sa.func.max(epochs.c.epoch)).where(epochs.c.run == pk)).scalar()
        further = (-1 if last is None else int(last)) > after
        if not further and (ours["status"] in OVER or theirs["status"] not in OVER):
            what = "unchanged"
        else:
            kept = ("status", "horizon", "settings", "total_epochs", "error", "finished", "cohort")
            change = {key: theirs[key] for key in kept} | {"updated": time.time()}
            change |= {"seconds": max(ours["seconds"], theirs["seconds"]), "attempt": first + theirs["attempt"]}
            writing.execute(runs.update().where(runs.c.pk == here).values(change))
    if names:
        insert_new(writing, labels, [{"run": here, "name": name} for name in names])
    if what == "unchanged":
        return what
    _copy(reading, writing, epochs, pk, here, epochs.c.epoch > after)
    rows = {table: _rows(reading, table, pk, table.c.epoch > after) for table in (measurements, undefined)}
    used = {row[key] for table in rows for row in rows[table] for key in ("metric", "split", "layer")}
    used |= {row["reason"] for row in rows[undefined]}
    target.terms.number(writing, {of[number] for number in used})
    number = {theirs: target.terms[of[theirs]] for theirs in used}
    for table, found in rows.items():
        named = ("metric", "split", "layer", "reason") if table is undefined else ("metric", "split", "layer")
        if found:
            writing.execute(table.insert(), [row | {"run": here} | {k: number[row[k]] for k in named} for row in found])
    _copy(reading, writing, task_accuracy, pk, here, task_accuracy.c.epoch > after)
    tried = [
        row | {"run": here, "attempt": row["attempt"] + first, "provenance": without_passwords(row["provenance"])}
        for row in _rows(reading, attempts, pk)
    ]
    if tried:
        writing.execute(attempts.insert(), tried)
    return what


def _common_end(reading: sa.Connection, writing: sa.Connection, theirs: int, ours: int, run: str) -> int:
    """The last epoch that is stored here (-1: none); raises InputError where the two differ before that."""
    columns = (epochs.c.epoch, epochs.c.samples_seen, epochs.c.online_accuracy)
    one, other = (
        {int(e): (s, a) for e, s, a in connection.execute(sa.select(*columns).where(epochs.c.run == pk))}
        for connection, pk in ((reading, theirs), (writing, ours))
    )
    if differing := sorted(epoch for epoch in one.keys() & other.keys() if one[epoch] != other[epoch]):
        raise InputError(
            f"run {run} has other results here: epoch {differing[0]} differs ({len(differing)} epochs do).",
            f"it was trained on another machine or version; to take the other one: ncpl runs delete {run}",
        )
    return max(other, default=-1)


def _rows(reading: sa.Connection, table: sa.Table, pk: int, *where: sa.ColumnElement[bool]) -> list[dict[str, Any]]:
    return [dict(row) for row in reading.execute(sa.select(table).where(table.c.run == pk, *where)).mappings()]


def _copy(
    reading: sa.Connection, writing: sa.Connection, table: sa.Table, pk: int, here: int, where: sa.ColumnElement[bool]
) -> None:  # fmt: skip
    if found := _rows(reading, table, pk, where):
        writing.execute(table.insert(), [row | {"run": here} for row in found])
