"""Out of the store, a run at a time: runs, their attempts and their epochs' rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import InputError, without_passwords
from ncpl_cli.matrix import OF_MATRIX
from ncpl_cli.records import Address
from ncpl_cli.store import matrix
from ncpl_cli.store.database import Database
from ncpl_cli.store.keys import all_meant, check_filters, meant
from ncpl_cli.store.recorded import recorded_addresses
from ncpl_cli.store.run_row import RunRow, by_id, from_json, names_of, one_run, run_row, runs_query
from ncpl_cli.store.schema import WIDE, attempts, epochs, labels, measurements, runs, task_accuracy, terms, undefined


class Reading(Database):
    """What is stored of runs."""

    def run(self, key: str) -> RunRow:
        """A stored run by its id, by a label that only it has, or by the beginning of its id, in that order."""
        with self.reading() as connection:
            pk, _ = meant(connection, key)
            return run_row(one_run(connection, runs.c.pk == pk, key), names_of(connection, [pk]))

    def runs(
        self,
        ids: Sequence[str] | None = None,
        *,
        scenario: str | None = None,
        name: str | None = None,
        status: str | None = None,
        parent: str | None = None,
    ) -> list[RunRow]:
        """All runs that fit, in the order they were made; `ids` are keys as `run` takes them, `parent`: its probes."""
        query = runs_query().order_by(runs.c.pk)
        if scenario is not None:
            query = query.where(runs.c.scenario == scenario)
        if status is not None:
            query = query.where(runs.c.status == status)
        if parent is not None:
            query = query.where(runs.c.parent == parent)
        if name is not None:
            query = query.where(runs.c.pk.in_(sa.select(labels.c.run).where(labels.c.name == name)))
        with self.reading() as connection:
            if ids is None:
                found = list(connection.execute(query).mappings())
            else:
                pks = sorted(all_meant(connection, ids))
                found = [
                    row
                    for start in range(0, len(pks), 500)
                    for row in connection.execute(query.where(runs.c.pk.in_(pks[start : start + 500]))).mappings()
                ]
            names = names_of(connection, None)
        return [run_row(row, names) for row in found]

    def select(
        self,
        ids: Sequence[str] | None = None,
        *,
        scenario: str | None = None,
        names: Sequence[str] = (),
        status: str | None = None,
    ) -> list[RunRow]:
        """What a person has chosen: as `runs`, of any of some labels; raises InputError for what matches nothing."""
        with self.reading() as connection:
            check_filters(connection, scenario, names, status)
        found = self.runs(ids, scenario=scenario, status=status)
        found = [row for row in found if not names or set(row.names) & set(names)]
        if not found and (ids or scenario is not None or names):
            raise InputError("no run fits this selection.", "ncpl runs list shows all runs and their names")
        return found

    def standing(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Status, begun cohort, horizon and what is recorded of many runs by id; unknown ones are left out."""
        columns = (runs.c.id, runs.c.status, runs.c.cohort, runs.c.horizon, runs.c.recorded)
        with self.reading() as connection:
            return {
                row["id"]: {
                    "status": row["status"], "cohort": from_json(row, "cohort", list),
                    "horizon": from_json(row, "horizon", dict), "recorded": from_json(row, "recorded", dict),
                }
                for row in by_id(connection, columns, ids)
            }  # fmt: skip

    def attempts(self, run: str) -> list[dict[str, Any]]:
        """Every attempt at a run with its provenance, first to last."""
        pk = self.run(run).pk
        with self.reading() as connection:
            found = connection.execute(sa.select(attempts).where(attempts.c.run == pk).order_by(attempts.c.attempt))
            rows = [dict(row) | {"id": run} for row in found.mappings()]
        return [row | {"provenance": _masked(from_json(row, "provenance", dict))} for row in rows]

    def last_epoch(self, run: str) -> int:
        """The last stored epoch of a run, -1 when there is none."""
        with self.reading() as connection:
            query = sa.select(sa.func.max(epochs.c.epoch)).join(runs, runs.c.pk == epochs.c.run).where(runs.c.id == run)
            last = connection.execute(query).scalar()
        return -1 if last is None else int(last)

    def epoch_seconds(self, run: str, after: int = 0) -> tuple[int, float]:
        """How many epochs a run has after one, and what each took on average, with measuring."""
        took = sa.func.avg(epochs.c.seconds + epochs.c.measure_seconds)
        query = sa.select(sa.func.count(), took).join(runs, runs.c.pk == epochs.c.run)
        with self.reading() as connection:
            number, mean = connection.execute(query.where(runs.c.id == run, epochs.c.epoch > after)).one()
        return int(number), float(mean or 0.0)

    def history(self, run: str, up_to: int) -> list[tuple[int, int, float]]:
        """(task, task_epoch, online_accuracy) of a run's epochs 1 to `up_to`; NaN where there is no accuracy."""
        query = (
            sa.select(epochs.c.task, epochs.c.task_epoch, epochs.c.online_accuracy)
            .join(runs, runs.c.pk == epochs.c.run)
            .where(runs.c.id == run, epochs.c.epoch > 0, epochs.c.epoch <= up_to)
            .order_by(epochs.c.epoch)
        )
        with self.reading() as connection:
            return [(int(t), int(e), math.nan if a is None else float(a)) for t, e, a in connection.execute(query)]

    def rows(self, run: str) -> list[dict[str, Any]]:
        """A run's epochs as the wide table has them, in order."""
        query = sa.select(epochs).join(runs, runs.c.pk == epochs.c.run).where(runs.c.id == run).order_by(epochs.c.epoch)
        with self.reading() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def final(self, run: str) -> dict[str, Any]:
        """A run's last stored epoch as the wide table has it; empty when there is none."""
        query = (
            sa.select(epochs).join(runs, runs.c.pk == epochs.c.run).where(runs.c.id == run)
            .order_by(epochs.c.epoch.desc()).limit(1)
        )  # fmt: skip
        with self.reading() as connection:
            row = connection.execute(query).mappings().first()
        return dict(row) if row else {}

    def reasons(self, run: str, epoch: int) -> dict[Address, str]:
        """Why values of an epoch are undefined."""
        metric, split, layer, reason = (terms.alias() for _ in range(4))
        query = (
            sa.select(metric.c.text, split.c.text, layer.c.text, reason.c.text)
            .select_from(undefined)
            .join(runs, runs.c.pk == undefined.c.run)
            .join(metric, metric.c.id == undefined.c.metric)
            .join(split, split.c.id == undefined.c.split)
            .join(layer, layer.c.id == undefined.c.layer)
            .join(reason, reason.c.id == undefined.c.reason)
            .where(runs.c.id == run, undefined.c.epoch == epoch)
        )
        with self.reading() as connection:
            return {Address(m, s, la): why for m, s, la, why in connection.execute(query)}

    def values(self, run: str, epoch: int) -> dict[Address, float]:
        """Every stored value of an epoch."""
        metric, split, layer = (terms.alias() for _ in range(3))
        query = (
            sa.select(metric.c.text, split.c.text, layer.c.text, measurements.c.value)
            .select_from(measurements)
            .join(runs, runs.c.pk == measurements.c.run)
            .join(metric, metric.c.id == measurements.c.metric)
            .join(split, split.c.id == measurements.c.split)
            .join(layer, layer.c.id == measurements.c.layer)
            .where(runs.c.id == run, measurements.c.epoch == epoch)
        )
        wide = sa.select(*(epochs.c[name] for name in WIDE)).join(runs, runs.c.pk == epochs.c.run)
        with self.reading() as connection:
            row = connection.execute(wide.where(runs.c.id == run, epochs.c.epoch == epoch)).mappings().first()
            found = {Address(name): float(row[name]) for name in WIDE if row[name] is not None} if row else {}
            return found | {Address(m, s, la): float(v) for m, s, la, v in connection.execute(query)}

    def recorded(self, ids: Sequence[str]) -> list[Address]:
        """Every address that some of these runs have a value of, in any epoch; numbers of the forgetting matrix also
        where they follow from its stored rows."""
        with self.reading() as connection:
            found = recorded_addresses(connection, ids)
            if missing := {name for name in OF_MATRIX if Address(name) not in found}:
                more = set[str]()
                for _, numbers in matrix.numbers(connection, ids):
                    more |= missing & numbers.keys()
                    if more >= missing - {"forward_transfer"}:
                        break
                found += [Address(name) for name in OF_MATRIX if name in more]
        return found

    def matrix_numbers(self, run: str) -> dict[str, dict[int, float]]:
        """{metric: {epoch: value}} of a run's forgetting matrix, from its stored rows."""
        with self.reading() as connection:
            return dict(matrix.numbers(connection, [run])).get(run, {})

    def curves(self, ids: Sequence[str], columns: Sequence[str]) -> dict[str, dict[str, list[float | None]]]:
        """{run id: {column of the wide table: its values in the order of epochs, from epoch 1}} of many runs."""
        found: dict[str, dict[str, list[float | None]]] = {run: {name: [] for name in columns} for run in ids}
        with self.reading() as connection:
            for start in range(0, len(ids), 500):
                query = (
                    sa.select(runs.c.id, *(epochs.c[name] for name in columns))
                    .join(runs, runs.c.pk == epochs.c.run)
                    .where(runs.c.id.in_(ids[start : start + 500]), epochs.c.epoch > 0)
                    .order_by(epochs.c.run, epochs.c.epoch)
                )
                for run, *values in connection.execute(query):
                    for name, value in zip(columns, values, strict=True):
                        found[run][name].append(value)
        return found

    def task_accuracies(self, run: str) -> list[tuple[int, int, float]]:
        """(epoch, evaluated task, accuracy): the forgetting matrix, row by row."""
        query = (
            sa.select(task_accuracy.c.epoch, task_accuracy.c.evaluated_task, task_accuracy.c.accuracy)
            .join(runs, runs.c.pk == task_accuracy.c.run)
            .where(runs.c.id == run)
            .order_by(task_accuracy.c.epoch, task_accuracy.c.evaluated_task)
        )
        with self.reading() as connection:
            return [(int(e), int(t), float(a)) for e, t, a in connection.execute(query)]


def _masked(provenance: dict[str, Any]) -> dict[str, Any]:
    """Stores of before kept the command line as it was given, with a password in it."""
    return {key: without_passwords(value) if isinstance(value, str) else value for key, value in provenance.items()}
