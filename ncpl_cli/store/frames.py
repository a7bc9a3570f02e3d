"""Out of the store, many runs at once: columns for the analyses, frames for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ncpl_cli.errors import StoreError
from ncpl_cli.records import Address
from ncpl_cli.store.connection import plain_rows
from ncpl_cli.store.reading import Reading
from ncpl_cli.store.schema import WIDE, epochs, measurements, runs, task_accuracy, terms, undefined

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray


class Frames(Reading):
    """What is stored, as series and frames."""

    def series(self, addresses: Sequence[Address], ids: Sequence[str]) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Columns of each run: epoch, task, task_epoch and every address (NaN = undefined), in order of epochs.

        Read column by column straight into arrays: a data frame of the same takes several times as long.
        """
        import numpy as np

        wide = [a for a in addresses if a.metric in WIDE and a.split == "train" and a.layer == "last"]
        chosen = [epochs.c.epoch, epochs.c.task, epochs.c.task_epoch, *(epochs.c[a.metric] for a in wide)]
        found: dict[str, dict[str, NDArray[np.float64]]] = {}
        with self.reading() as connection:
            found_runs = connection.execute(sa.select(runs.c.id, runs.c.pk).where(runs.c.id.in_(ids)))
            keys = {str(run): int(pk) for run, pk in found_runs}
            numbers = {(k, t): n for k, t, n in connection.execute(sa.select(terms.c.kind, terms.c.text, terms.c.id))}
            for run in ids:
                query = sa.select(*chosen).where(epochs.c.run == keys[run]).order_by(epochs.c.epoch)
                table = np.array(plain_rows(connection, query), dtype=np.float64).reshape(-1, len(chosen))
                columns = {"epoch": table[:, 0], "task": table[:, 1], "task_epoch": table[:, 2]}
                columns |= {str(a): table[:, 3 + i] for i, a in enumerate(wide)}
                long = {
                    a: [numbers.get(k, -1) for k in zip(("metric", "split", "layer"), a, strict=True)]
                    for a in addresses
                    if a not in wide
                }
                found[run] = columns | self._long(connection, run, keys[run], long, columns["epoch"])
        return found

    def _long(
        self, connection: sa.Connection, run: str, pk: int, places: Mapping[Address, Sequence[int]],
        axis: NDArray[np.float64],
    ) -> dict[str, NDArray[np.float64]]:  # fmt: skip
        import numpy as np

        columns = {str(address): np.full(len(axis), np.nan) for address in places}
        metrics = sorted({place[0] for place in places.values() if -1 not in place})
        if metrics:  # one pass over the run's rows for all addresses together
            m = measurements.c
            query = sa.select(m.epoch, m.metric, m.split, m.layer, m.value).where(m.run == pk, m.metric.in_(metrics))
            rows = np.array(plain_rows(connection, query), dtype=np.float64).reshape(-1, 5)
            for address, place in places.items():
                here = rows[(rows[:, 1:4] == place).all(1)]
                at = np.searchsorted(axis, here[:, 0])
                if len(lost := here[:, 0][~np.isin(here[:, 0], axis)]):
                    raise _without_epoch(run, int(lost[0]))
                columns[str(address)][at] = here[:, 4]
        return columns

    def retention(self, ids: Sequence[str]) -> dict[str, dict[int, tuple[float, int]]]:
        """How well earlier tasks are still known, per run: {tasks since: (mean test accuracy, number of values)}.

        Read at the last epoch of each task; 0 tasks since is the task just learned.
        """
        last = sa.select(epochs.c.run, sa.func.max(epochs.c.epoch).label("epoch"), epochs.c.task).group_by(
            epochs.c.run, epochs.c.task
        ).subquery()  # fmt: skip
        since = (last.c.task - task_accuracy.c.evaluated_task).label("since")
        query = (
            sa.select(runs.c.id, since, sa.func.avg(task_accuracy.c.accuracy), sa.func.count())
            .select_from(task_accuracy)
            .join(last, (last.c.run == task_accuracy.c.run) & (last.c.epoch == task_accuracy.c.epoch))
            .join(runs, runs.c.pk == task_accuracy.c.run)
            .where(runs.c.id.in_(ids))
            .group_by(runs.c.id, since)
            .order_by(runs.c.id, since)
        )
        found: dict[str, dict[int, tuple[float, int]]] = {}
        with self.reading() as connection:
            for run, age, accuracy, n in connection.execute(query):
                found.setdefault(run, {})[int(age)] = (float(accuracy), int(n))
        return found

    def undefined_counts(self, ids: Sequence[str]) -> list[tuple[str, str, int, int]]:
        """(metric, reason, number of values, number of runs) of what is undefined in these runs, most first."""
        metric, reason = terms.alias(), terms.alias()
        values = sa.func.count().label("number")
        query = (
            sa.select(metric.c.text, reason.c.text, values, sa.func.count(sa.distinct(undefined.c.run)))
            .select_from(undefined)
            .join(runs, runs.c.pk == undefined.c.run)
            .join(metric, metric.c.id == undefined.c.metric)
            .join(reason, reason.c.id == undefined.c.reason)
            .where(runs.c.id.in_(ids))
            .group_by(metric.c.text, reason.c.text)
            .order_by(values.desc(), metric.c.text)
        )
        with self.reading() as connection:
            return [(str(m), str(why), int(n), int(k)) for m, why, n, k in connection.execute(query)]

    def frame(
        self,
        ids: Sequence[str] | None = None,
        *,
        scenario: str | None = None,
        name: str | None = None,
        status: str | None = None,
    ) -> pd.DataFrame:
        """Every recorded epoch as a row, a column per metric; further rows for other splits and layers.

        Columns: run, seed, scenario, name, task, task_epoch, epoch, samples_seen, seconds, split, layer, where there
        are probes parent and branch_epoch, and metrics.
        """
        import pandas as pd

        chosen = self.select(ids, scenario=scenario, names=[name] if name is not None else (), status=status)
        by_pk = {row.pk: row for row in chosen}
        head: tuple[str, ...] = (
            "run", "seed", "scenario", "name", "task", "task_epoch", "epoch", "samples_seen", "seconds", "split",
            "layer",
        )  # fmt: skip
        if any(row.parent for row in chosen):
            head += ("parent", "branch_epoch")
        table: dict[tuple[int, int, str, str], dict[str, Any]] = {}
        metric, split, layer = (terms.alias() for _ in range(3))
        long = (
            sa.select(measurements.c.run, measurements.c.epoch, metric.c.text, split.c.text, layer.c.text,
                      measurements.c.value)
            .join(metric, metric.c.id == measurements.c.metric)
            .join(split, split.c.id == measurements.c.split)
            .join(layer, layer.c.id == measurements.c.layer)
        )  # fmt: skip
        with self.reading() as connection:
            about: dict[tuple[int, int], dict[str, Any]] = {}
            for pk, row in by_pk.items():
                for epoch in connection.execute(
                    sa.select(epochs).where(epochs.c.run == pk).order_by(epochs.c.epoch)
                ).mappings():
                    facts = {
                        "run": row.id, "seed": row.seed, "scenario": row.scenario, "name": ",".join(row.names),
                        "parent": row.parent, "branch_epoch": row.branch_epoch,
                        **{key: epoch[key] for key in ("task", "task_epoch", "epoch", "samples_seen", "seconds")},
                    }  # fmt: skip
                    about[pk, epoch["epoch"]] = facts
                    values = {name: epoch[name] for name in WIDE if epoch[name] is not None}
                    table[pk, epoch["epoch"], "train", "last"] = facts | {"split": "train", "layer": "last"} | values
                for key, number, name, at, of, value in connection.execute(long.where(measurements.c.run == pk)):
                    if (key, number) not in about:
                        raise _without_epoch(row.id, number)
                    place = (key, number, at, of)
                    if place not in table:
                        table[place] = about[key, number] | {"split": at, "layer": of}
                    table[place][name] = value
        order = sorted(
            table, key=lambda k: (list(by_pk).index(k[0]), k[1], k[2] != "train", k[2], k[3] != "last", k[3])
        )
        found = {name for row in table.values() for name in row} - {*head, "parent", "branch_epoch"}
        columns = [*head, *(n for n in WIDE if n in found), *sorted(found - set(WIDE))]
        return pd.DataFrame([table[key] for key in order], columns=columns)


def _without_epoch(run: str, epoch: int) -> StoreError:
    return StoreError(
        f"run {run} has values of epoch {epoch}, which is not in the store.", "ncpl db check lists all that is broken"
    )
