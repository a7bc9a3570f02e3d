"""The stored rows of the forgetting matrix as numbers: also of runs that were stored before these were recorded."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import sqlalchemy as sa

from ncpl_cli.matrix import numbers_of_rows
from ncpl_cli.store.schema import epochs, runs, task_accuracy


def has_matrix(connection: sa.Connection, ids: Sequence[str]) -> list[str]:
    """Those of some runs of which a task was tested while another one was trained."""
    t, e = task_accuracy.c, epochs.c
    other = (
        sa.select(sa.literal(1)).select_from(task_accuracy).join(epochs, (e.run == t.run) & (e.epoch == t.epoch))
        .where(t.run == runs.c.pk, t.epoch > 0, t.evaluated_task != e.task).exists()
    )  # fmt: skip
    found = {
        str(run)
        for start in range(0, len(ids), 500)
        for (run,) in connection.execute(sa.select(runs.c.id).where(runs.c.id.in_(ids[start : start + 500]), other))
    }
    return [run for run in ids if run in found]


def numbers(connection: sa.Connection, ids: Sequence[str]) -> Iterator[tuple[str, dict[str, dict[int, float]]]]:
    """(run, {metric: {epoch: value}}) of those of some runs that have a matrix, one after another."""
    t, e = task_accuracy.c, epochs.c
    for run in has_matrix(connection, ids):
        pk = sa.select(runs.c.pk).where(runs.c.id == run).scalar_subquery()
        places = connection.execute(sa.select(e.epoch, e.task).where(e.run == pk).order_by(e.epoch))
        rows: dict[int, dict[int, float]] = {}
        for epoch, k, a in connection.execute(sa.select(t.epoch, t.evaluated_task, t.accuracy).where(t.run == pk)):
            rows.setdefault(int(epoch), {})[int(k)] = float(a)
        yield run, numbers_of_rows([(int(epoch), int(task)) for epoch, task in places], rows)
