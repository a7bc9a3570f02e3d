"""Out of the store, many runs at once: columns for the analyses, frames for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from ncpl_cli.errors import StoreError
from ncpl_cli.matrix import OF_MATRIX
from ncpl_cli.records import Address
from ncpl_cli.store import matrix
from ncpl_cli.store.connection import plain_array
from ncpl_cli.store.reading import Reading
from ncpl_cli.store.run_row import RunRow
from ncpl_cli.store.schema import WIDE, as_json, epochs, measurements, runs, task_accuracy, terms, undefined

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

        wide = [a for a in addresses if a.metric in WIDE and a.split == "train" and a.layer == "last"]
        chosen = [epochs.c.epoch, epochs.c.task, epochs.c.task_epoch, *(epochs.c[a.metric] for a in wide)]
        found: dict[str, dict[str, NDArray[np.float64]]] = {}
        with self.reading() as connection:
            found_runs = connection.execute(sa.select(runs.c.id, runs.c.pk).where(runs.c.id.in_(ids)))
            keys = {str(run): int(pk) for run, pk in found_runs}
            numbers = {(k, t): n for k, t, n in connection.execute(sa.select(terms.c.kind, terms.c.text, terms.c.id))}
            for run in ids:
                query = sa.select(*chosen).where(epochs.c.run == keys[run]).order_by(epochs.c.epoch)
                table = plain_array(connection, query)
                columns = {"epoch": table[:, 0], "task": table[:, 1], "task_epoch": table[:, 2]}
                columns |= {str(a): table[:, 3 + i] for i, a in enumerate(wide)}
                long = {
                    a: [numbers.get(k, -1) for k in zip(("metric", "split", "layer"), a, strict=True)]
                    for a in addresses
                    if a not in wide
                }
                found[run] = columns | self._long(connection, run, keys[run], long, columns["epoch"])
            if of_matrix := [a for a in addresses if of_stored_rows(a)]:
                for run, of_rows in matrix.numbers(connection, ids):
                    for a in of_matrix:
                        _fill(found[run][str(a)], found[run]["epoch"], of_rows.get(a.metric, {}))
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
            rows = plain_array(connection, query)
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
        settings: bool = False,
    ) -> pd.DataFrame:
        """Every recorded epoch as a row, a column per metric; further rows for other splits and layers.

        Columns: run, seed, scenario, name, task, task_epoch, epoch, samples_seen, seconds, split, layer, where there
        are probes parent and branch_epoch, with `settings` each setting that varies between these runs, and metrics.
        """
        import pandas as pd

        of_runs, pieces = self.pieces(ids, scenario=scenario, name=name, status=status, settings=settings)
        return pd.concat([*pieces] or [of_runs.iloc[:0]], ignore_index=True)

    def pieces(
        self, ids: Sequence[str] | None = None, *, scenario: str | None = None, name: str | None = None,
        status: str | None = None, settings: bool = False,
    ) -> tuple[pd.DataFrame, Iterator[pd.DataFrame]]:  # fmt: skip
        """The same frame a few runs at a time, in order, for what would not fit: (a row a run with the columns and
        types of all, the pieces)."""
        import numpy as np
        import pandas as pd

        chosen = self.select(ids, scenario=scenario, names=[name] if name is not None else (), status=status)
        head = ["run", "seed", "scenario", "name", *FACTS, "split", "layer"]
        if any(row.parent for row in chosen):
            head += ["parent", "branch_epoch"]
        # a probe's settings name its parent and epoch, which have columns of their own
        varying = [key for key in _varying(chosen) if key not in ("parent", "branch_epoch")] if settings else []
        titles = {key: f"settings.{key}" if key in head else key for key in varying}
        cells = {key: _cells([row.settings.get(key) for row in chosen]) for key in varying}
        everybody = [row.id for row in chosen]
        found = {address.metric for address in self.recorded(everybody)}
        with self.reading() as connection:
            of_matrix = {*OF_MATRIX}
            for _, numbers in matrix.numbers(connection, everybody if of_matrix - found else []):
                found |= numbers.keys()
                if of_matrix <= found:
                    break
            trained = sa.select(runs.c.id).where(runs.c.pk.in_(sa.select(epochs.c.run).distinct()))
            with_rows = {str(run) for (run,) in connection.execute(trained)}
        columns = [*head, *titles.values(), *(n for n in WIDE if n in found), *sorted(found - set(WIDE))]
        rows = [
            {"run": row.id, "seed": row.seed, "scenario": row.scenario, "name": ",".join(row.names)}
            | dict.fromkeys(FACTS[:4], 0) | {"seconds": 0.0, "split": "train", "layer": "last", "parent": row.parent}
            | {"branch_epoch": np.nan if row.branch_epoch is None else row.branch_epoch}
            | {titles[key]: cells[key][at] for key in varying} | dict.fromkeys(found, np.nan)
            for at, row in enumerate(chosen)
        ]  # fmt: skip
        known = [at for at, row in enumerate(chosen) if row.id in with_rows]
        place = {at: number for number, at in enumerate(known)}
        of_runs = pd.DataFrame([rows[at] for at in known], columns=columns)
        for title in titles.values():  # whole numbers stay such beside runs without
            if any(rows[at][title] is None for at in known):
                of_runs[title] = pd.Series([rows[at][title] for at in known], dtype=object)

        def pieces() -> Iterator[pd.DataFrame]:
            held: list[pd.DataFrame] = []
            with self.reading() as connection:
                texts = {int(n): str(text) for n, text in connection.execute(sa.select(terms.c.id, terms.c.text))}
                for at, row in enumerate(chosen):  # a run at a time, as arrays: dictionaries take gigabytes
                    part = _of_run(connection, row, texts)
                    if not (number := len(part["epoch"])):
                        continue
                    about = of_runs.iloc[np.full(number, place[at])].reset_index(drop=True)
                    held.append(about.assign(**part)[columns])
                    if sum(map(len, held)) >= PIECE:
                        yield pd.concat(held, ignore_index=True)
                        held = []
            if held:
                yield pd.concat(held, ignore_index=True)

        return of_runs, pieces()


PIECE = 50_000
"""Rows at a time, at least."""


def of_stored_rows(address: Address) -> bool:
    """Whether what was not recorded follows from the rows of the forgetting matrix."""
    return address.metric in OF_MATRIX and address.split == "train" and address.layer == "last"


def _fill(values: NDArray[np.float64], axis: NDArray[Any], by_epoch: Mapping[int, float]) -> NDArray[np.float64]:
    """A column with what was not recorded of the forgetting matrix, in place."""
    for i, epoch in enumerate(axis):
        if values[i] != values[i] and int(epoch) in by_epoch:
            values[i] = by_epoch[int(epoch)]
    return values


FACTS = ("task", "task_epoch", "epoch", "samples_seen", "seconds")


def _of_run(connection: sa.Connection, run: RunRow, texts: Mapping[int, str]) -> dict[str, Any]:
    """A run's rows, with the numbers of the forgetting matrix that were not recorded."""
    import numpy as np

    part = _rows_of(connection, run, texts)
    here = (part["split"] == "train") & (part["layer"] == "last")
    for _, of_rows in matrix.numbers(connection, [run.id]):
        for metric, by_epoch in of_rows.items():
            values = part.setdefault(metric, np.full(len(here), np.nan))
            values[here] = _fill(values[here], part["epoch"][here], by_epoch)
    return part


def _rows_of(connection: sa.Connection, run: RunRow, texts: Mapping[int, str]) -> dict[str, Any]:
    """A run's rows in order: epoch by epoch, train and last first; a column per metric that has a value."""
    import numpy as np

    e, m = epochs.c, measurements.c
    wide = plain_array(
        connection, sa.select(*(e[name] for name in (*FACTS, *WIDE))).where(e.run == run.pk).order_by(e.epoch)
    )
    long = plain_array(connection, sa.select(m.epoch, m.metric, m.split, m.layer, m.value).where(m.run == run.pk))
    axis = wide[:, 2]
    if len(lost := long[:, 0][~np.isin(long[:, 0], axis)]):
        raise _without_epoch(run.id, int(lost[0]))
    pairs, of_pair = np.unique(long[:, 2:4], axis=0, return_inverse=True)
    places = [(texts[int(split)], texts[int(layer)]) for split, layer in pairs]
    ordered = sorted({*places, ("train", "last")}, key=lambda p: (p[0] != "train", p[0], p[1] != "last", p[1]))
    rank = np.array([ordered.index(place) for place in places], dtype=np.int64)
    at_long = np.searchsorted(axis, long[:, 0]) * len(ordered) + (rank[of_pair.ravel()] if len(long) else 0)
    at_wide = np.arange(len(axis)) * len(ordered) + ordered.index(("train", "last"))
    keys = np.union1d(at_long, at_wide).astype(np.int64)
    of_epoch, of_place = np.divmod(keys, len(ordered))
    whole = {name: wide[of_epoch, i].astype(np.int64) for i, name in enumerate(FACTS[:4])}
    table: dict[str, Any] = {**whole, "seconds": wide[of_epoch, 4]}
    for column, text in enumerate(("split", "layer")):
        table[text] = np.array([place[column] for place in ordered], dtype=object)[of_place]
    for i, name in enumerate(WIDE, len(FACTS)):
        if not np.isnan(wide[:, i]).all():
            table[name] = np.full(len(keys), np.nan)
            table[name][np.searchsorted(keys, at_wide)] = wide[:, i]
    for metric in np.unique(long[:, 1]):
        of_metric = long[:, 1] == metric
        values = table.setdefault(texts[int(metric)], np.full(len(keys), np.nan))
        values[np.searchsorted(keys, at_long[of_metric])] = long[of_metric, 4]
    return table


def _varying(rows: Sequence[RunRow]) -> list[str]:
    """The settings in which these runs differ, seeds left out."""
    keys = dict.fromkeys(key for row in rows for key in row.settings if key != "seed")
    return sorted(key for key in keys if len({_cell(row.settings.get(key)) for row in rows}) > 1)


def _cells(values: Sequence[object]) -> list[object]:
    """A setting's column: all are text where some are (`epochs` of 2 and of [5,1,1]), or Parquet takes none."""
    found = [_cell(value) for value in values]
    kinds = {type(value) for value in found if value is not None}
    mixed = len(kinds) > 1 and kinds != {int, float}
    return [str(value) if mixed and value is not None else value for value in found]


def _cell(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float | bool) else as_json(value)


def _without_epoch(run: str, epoch: int) -> StoreError:
    return StoreError(
        f"run {run} has values of epoch {epoch}, which is not in the store.", "ncpl db check lists all that is broken"
    )
