"""The store: runs and their epochs, one transaction per epoch, leases and fencing. It is also the queue."""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

import sqlalchemy as sa

from ncpl_cli.errors import InputError, LeaseLost, NcplError, StoreError, unknown
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store import schema
from ncpl_cli.store.connection import connect, one_at_a_time, plain_rows, shown, sqlite_path, translated
from ncpl_cli.store.migrate import ensure_head
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.recorded import recorded_addresses
from ncpl_cli.store.recorder import BY_RECORDER, Recorder
from ncpl_cli.store.schema import WIDE, attempts, epochs, labels, measurements, runs, task_accuracy, terms, undefined
from ncpl_cli.store.views import make_views

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

LEASE_SECONDS = 30.0


@dataclass(frozen=True)
class RunRow:
    """A run as the store knows it. `names` are its labels; `cohort` the ids it trains in lockstep with."""

    pk: int
    id: str
    scenario: str
    seed: int
    status: str
    settings: dict[str, Any]
    horizon: dict[str, Any]
    recorded: dict[str, Any]
    total_epochs: int | None
    attempt: int
    owner: Owner | None
    lease_expires: float | None
    cohort: list[str]
    error: str | None
    parent: str | None
    branch_epoch: int | None
    created: float
    updated: float
    finished: float | None
    seconds: float
    names: tuple[str, ...] = ()
    epochs: int = 0

    @property
    def held(self) -> bool:
        """Whether a living process holds this run."""
        if self.status != "running" or self.owner is None:
            return False
        return time.time() < (self.lease_expires or 0) and not self.owner.dead


class Store:
    """An open store. Its methods may be called from several threads; each is one transaction.

    lease  seconds for which a claim, and each write after it, holds a run
    """

    def __init__(self, url: str, engine: sa.Engine) -> None:
        self.url = url
        self.lease = LEASE_SECONDS
        self._engine = engine
        self._terms: dict[tuple[str, str], int] = {}
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back all connections."""
        self._engine.dispose()

    @property
    def checkpoints(self) -> Path:
        """The directory of checkpoints: beside an SQLite file, else in the current directory."""
        path = sqlite_path(self.url)
        base = path if path is not None else Path(f"{(sa.make_url(self.url).database or 'ncpl')}.db").absolute()
        return base.with_name(f"{base.stem}.checkpoints")

    @contextlib.contextmanager
    def _write(self, *, durable: bool = False) -> Iterator[sa.Connection]:
        with translated(self.url), self._engine.connect() as connection:
            sqlite = durable and connection.dialect.name == "sqlite"
            raw: Any = connection.connection.driver_connection
            if sqlite:
                raw.execute("PRAGMA synchronous = FULL")
            try:
                with connection.begin():
                    yield connection
            finally:
                if sqlite:
                    raw.execute("PRAGMA synchronous = NORMAL")

    @contextlib.contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with translated(self.url), self._engine.connect() as connection:
            connection = connection.execution_options(ncpl_reader=True)
            with connection.begin():
                yield connection

    # runs --------------------------------------------------------------------------------------------------

    def register(self, info: RunInfo, name: str | None = None) -> RunRow:
        """Make a run known. One that is known keeps its epochs; a longer horizon opens a finished one again."""
        self.register_all([(info, [name] if name is not None else [])])
        return self.run(info.id)

    def register_all(self, infos: Sequence[tuple[RunInfo, Sequence[str]]]) -> None:
        """Make many runs known, each with its labels, in one transaction."""
        with self._write() as connection:
            self._register_all(connection, infos)

    def _register_all(self, connection: sa.Connection, infos: Sequence[tuple[RunInfo, Sequence[str]]]) -> None:
        now = time.time()
        unique = {info.id: info for info, _ in infos}
        known = {row["id"]: row for row in _by_id(connection, runs.c, list(unique))}
        fresh = [
            {
                "id": info.id, "identity": info.identity, "scenario": info.scenario, "seed": info.seed,
                "settings": _json(info.settings), "horizon": _json(info.horizon), "recorded": _json(info.recorded),
                "status": "pending", "total_epochs": info.total_epochs, "attempt": 0, "parent": info.parent,
                "branch_epoch": info.branch_epoch, "created": now, "updated": now, "seconds": 0.0,
            }
            for info in unique.values() if info.id not in known
        ]  # fmt: skip
        _ignore_insert(connection, runs, fresh)
        for run, row in known.items():
            info, change = unique[run], {}
            horizon = json.loads(row["horizon"])
            longer = {k: v for k, v in info.horizon.items() if k not in horizon or v > horizon[k]}
            if longer:
                change = {
                    "horizon": _json(horizon | longer), "total_epochs": info.total_epochs, "updated": now,
                    "settings": _json(info.settings),
                }  # fmt: skip
                if row["status"] == "finished":
                    change |= {"status": "interrupted", "finished": None}
            if row["attempt"] == 0 and row["recorded"] != (recorded := _json(info.recorded)):
                change["recorded"] = recorded  # nothing is measured yet: the latest wish counts
            if change:
                connection.execute(runs.update().where(runs.c.pk == row["pk"]).values(change))
        named = [(info.id, name) for info, names in infos for name in names]
        if named:
            pks = {row["id"]: row["pk"] for row in _by_id(connection, (runs.c.id, runs.c.pk), list(unique))}
            _ignore_insert(connection, labels, [{"run": pks[run], "name": name} for run, name in named])

    def claim(
        self,
        ids: Sequence[str],
        owner: Owner,
        provenance: Mapping[str, object],
        *,
        lease: float | None = None,
        cohort: Sequence[str] | None = None,
    ) -> dict[str, int]:
        """Take runs over, all or none, raising each one's attempt; what an older attempt still writes is refused.

        Free are runs that nobody holds, whose lease has run out, or whose owner has died on this host.
        Raises LeaseLost, naming who holds it, when one is not free.
        """
        with self._write() as connection:
            return self._claim(connection, ids, owner, provenance, lease or self.lease, cohort or ids)

    def _claim(
        self, connection: sa.Connection, ids: Sequence[str], owner: Owner, provenance: Mapping[str, object],
        lease: float, cohort: Sequence[str],
    ) -> dict[str, int]:  # fmt: skip
        now, claimed, pks = time.time(), {}, {}
        rows = {row["id"]: row for row in connection.execute(TO_CLAIM, {"ids": list(ids)}).mappings()}
        for run in ids:
            if (row := rows.get(run)) is None:
                raise StoreError(f"run {run} is no longer in the store.")
            holder = Owner.read(row["owner"]) if row["owner"] else None
            if row["status"] == "running" and holder and now < (row["lease_expires"] or 0) and not holder.dead:
                raise LeaseLost(
                    f"run {run} (seed {row['seed']}) is being trained by process {holder.pid} on {holder.host}.",
                    "wait for it (ncpl runs list shows it), or stop that process; its lease then ends by itself",
                )
            claimed[run], pks[run] = row["attempt"] + 1, row["pk"]
        common = {"new_owner": str(owner), "expires": now + lease, "now": now, "together": _json(list(cohort))}
        each = [{"key": pks[run], "next": attempt, **common} for run, attempt in claimed.items()]
        connection.execute(_CLAIM, each)
        if before := [{"key": pks[run]} for run, attempt in claimed.items() if attempt > 1]:
            connection.execute(_LOSE, before)
        tried = {"owner": str(owner), "provenance": _json(provenance), "started": now}
        connection.execute(attempts.insert(), [{"run": pks[r], "attempt": n, **tried} for r, n in claimed.items()])
        return claimed

    def renew(self, claimed: Mapping[str, int], *, lease: float | None = None) -> None:
        """Lengthen the leases of runs; raises LeaseLost for one that another process has taken over."""
        with self._write() as connection:
            for run, attempt in claimed.items():
                _hold(connection, run, attempt, lease or self.lease)

    def save(self, batch: Sequence[tuple[str, int, EpochRecord]], *, durable: bool = False) -> None:
        """Store an epoch of every run of a cohort in one transaction, and lengthen the leases.

        `durable` has the disk confirm it, as is needed before a checkpoint is written. Raises LeaseLost, storing
        nothing, when another process has taken a run over.
        """
        with self._write(durable=durable) as connection:
            for run, attempt, record in batch:
                pk = _hold(connection, run, attempt, self.lease, record.seconds + record.measure_seconds)
                self._insert(connection, pk, record)

    def _insert(self, connection: sa.Connection, pk: int, record: EpochRecord) -> None:
        key = {"run": pk, "epoch": record.epoch}
        wide = {name: None if (value := record.get(name)) is None else float(value) for name in WIDE}
        connection.execute(  # values beside the statement, always the same keys: it is compiled once
            epochs.insert(),
            {
                **key, "task": record.task, "task_epoch": record.task_epoch, "samples_seen": record.samples_seen,
                "seconds": float(record.seconds), "measure_seconds": float(record.measure_seconds), **wide,
            },
        )  # fmt: skip
        long = [a for a in record.values if not (a.metric in WIDE and a.split == "train" and a.layer == "last")]
        self._learn(connection, {*long, *record.undefined}, record.undefined.values())
        if long:
            rows = [{**key, **self._place(a), "value": float(record.values[a])} for a in long]
            connection.execute(measurements.insert(), rows)
        if record.undefined:
            reasons = [
                {**key, **self._place(a), "reason": self._terms["reason", why]} for a, why in record.undefined.items()
            ]
            connection.execute(undefined.insert(), reasons)
        if record.task_accuracy:
            seen = [{**key, "evaluated_task": t, "accuracy": float(a)} for t, a in record.task_accuracy.items()]
            connection.execute(task_accuracy.insert(), seen)

    def _place(self, address: Address) -> dict[str, int]:
        return {
            "metric": self._terms["metric", address.metric],
            "split": self._terms["split", address.split],
            "layer": self._terms["layer", address.layer],
        }

    def _learn(self, connection: sa.Connection, addresses: set[Address], reasons: Any) -> None:
        """Give every new name its number. The numbers are remembered only once they are in the database."""
        wanted = {("metric", a.metric) for a in addresses} | {("split", a.split) for a in addresses}
        wanted |= {("layer", a.layer) for a in addresses} | {("reason", text) for text in reasons}
        self._number(connection, wanted)

    def _number(self, connection: sa.Connection, wanted: Set[tuple[str, str]]) -> None:
        missing = wanted - self._terms.keys()
        if not missing:
            return
        one_at_a_time(connection)
        for kind, text in sorted(missing):
            _ignore_insert(connection, terms, {"kind": kind, "text": text})
        found = connection.execute(sa.select(terms.c.kind, terms.c.text, terms.c.id)).all()
        with self._lock:
            self._terms |= {(kind, text): number for kind, text, number in found}
        if any(kind == "metric" for kind, _ in missing):
            make_views(connection)

    def supplement(self, run: str, attempt: int, record: EpochRecord) -> None:
        """Add to a stored epoch what it lacks, when it is measured again; what stands already stays as it is.

        Raises StoreError when the epoch was not reproduced: its online accuracy must be the same to the bit.
        """
        with self._write() as connection:
            pk = _hold(connection, run, attempt, self.lease)
            at = (epochs.c.run == pk) & (epochs.c.epoch == record.epoch)
            row = connection.execute(sa.select(epochs).where(at)).mappings().one()
            if row["online_accuracy"] != record.get("online_accuracy"):
                raise not_repeated(run, record.epoch)
            wide = {name: v for name in WIDE if row[name] is None and (v := record.get(name)) is not None}
            if wide:
                connection.execute(epochs.update().where(at).values(wide))
            long = [a for a in record.values if not (a.metric in WIDE and a.split == "train" and a.layer == "last")]
            self._learn(connection, {*long, *record.undefined}, record.undefined.values())
            key = {"run": pk, "epoch": record.epoch}
            for address in long:
                _ignore_insert(
                    connection, measurements, {**key, **self._place(address), "value": float(record.values[address])}
                )
            for address, why in record.undefined.items():
                _ignore_insert(
                    connection, undefined, {**key, **self._place(address), "reason": self._terms["reason", why]}
                )

    def annotate(
        self, run: str, values: Mapping[int, Mapping[str, float]], undefined_: Mapping[int, Mapping[str, str]]
    ) -> None:
        """Put down what is known of a run's epochs from elsewhere (its probes), by epoch and metric, at train/last.

        What stood there before is replaced; epochs that are not stored are left out.
        """
        with self._write() as connection:
            pk = int(_one(connection, runs.c.id == run, run)["pk"])
            stored = set(connection.execute(sa.select(epochs.c.epoch).where(epochs.c.run == pk)).scalars())
            addresses = {Address(name) for of in (*values.values(), *undefined_.values()) for name in of}
            self._learn(connection, addresses, {why for of in undefined_.values() for why in of.values()})
            for epoch in sorted(stored & (values.keys() | undefined_.keys())):
                key = {"run": pk, "epoch": epoch}
                given, lacking = values.get(epoch, {}), undefined_.get(epoch, {})
                for name in (*given, *lacking):
                    place = self._place(Address(name))
                    for table in (measurements, undefined):
                        here = [table.c[column] == value for column, value in {**key, **place}.items()]
                        connection.execute(table.delete().where(*here))
                    if name in given:
                        connection.execute(measurements.insert().values(**key, **place, value=float(given[name])))
                    else:
                        why = self._terms["reason", lacking[name]]
                        connection.execute(undefined.insert().values(**key, **place, reason=why))

    def remember(self, run: str, attempt: int, recorded: Mapping[str, object]) -> None:
        """Put down what a run's epochs have been measured for."""
        with self._write() as connection:
            pk = _hold(connection, run, attempt, self.lease)
            connection.execute(runs.update().where(runs.c.pk == pk).values(recorded=_json(recorded)))

    def truncate(self, run: str, attempt: int, after: int) -> None:
        """Delete the epochs after `after` (-1 = all): they were not in the checkpoint and are trained again."""
        with self._write() as connection:
            pk = _hold(connection, run, attempt, self.lease)
            connection.execute(epochs.delete().where(epochs.c.run == pk, epochs.c.epoch > after))

    def finish(self, run: str, attempt: int, status: str, error: str | None = None) -> None:
        """End a run: finished, diverged or failed (with the error)."""
        now = time.time()
        with self._write(durable=True) as connection:
            pk = _hold(connection, run, attempt, 0.0)
            connection.execute(
                runs.update().where(runs.c.pk == pk).values(
                    status=status, error=error, finished=now, updated=now, owner=None, lease_expires=None
                )
            )  # fmt: skip
            _end_attempt(connection, pk, attempt, status, now)

    def release(self, run: str, attempt: int) -> None:
        """Give a run back unfinished, so that it can go on at once."""
        now = time.time()
        with self._write() as connection:
            pk = _hold(connection, run, attempt, 0.0)
            connection.execute(
                runs.update().where(runs.c.pk == pk).values(
                    status="interrupted", owner=None, lease_expires=None, updated=now
                )
            )  # fmt: skip
            _end_attempt(connection, pk, attempt, "interrupted", now)

    def delete(self, run: str) -> None:
        """Delete a run and all that belongs to it; raises InputError while a living process trains it."""
        row = self.run(run)
        if row.held:
            assert row.owner is not None
            raise InputError(
                f"run {row.id} is being trained by process {row.owner.pid} on {row.owner.host}: stop that first.",
                "ncpl runs list shows who trains what",
            )
        with self._write() as connection:
            connection.execute(runs.delete().where(runs.c.pk == row.pk))

    # reading -----------------------------------------------------------------------------------------------

    @overload
    def run(self, key: str) -> RunRow: ...

    @overload
    def run(
        self, key: str, *, seed: int, name: str | None = None, config: Mapping[str, Any] | None = None
    ) -> Recorder: ...

    def run(
        self, key: str, *, seed: int | None = None, name: str | None = None, config: Mapping[str, Any] | None = None
    ) -> RunRow | Recorder:
        """A stored run by id, by the beginning of its id, or by a label that only it has.

        With a seed, `key` is a scenario and this a run of the caller's own loop, to be recorded in a `with` block.
        """
        if seed is not None:
            return Recorder(self, key, seed, name, config)
        if name is not None or config is not None:
            raise InputError("a run of your own needs a seed.", "with store.run(scenario, seed=0, ...) as run:")
        with self._read() as connection:
            exact = connection.execute(_runs_query().where(runs.c.id == key)).mappings().all()
            found = exact or connection.execute(_runs_query().where(runs.c.id.startswith(key))).mappings().all()
            if not found:
                named = sa.select(labels.c.run).where(labels.c.name == key)
                found = connection.execute(_runs_query().where(runs.c.pk.in_(named))).mappings().all()
            if len(found) == 1 and key:
                return _run_row(found[0], _names(connection, [found[0]["pk"]]))
            if not found:
                raise unknown("run", key, connection.execute(sa.select(runs.c.id)).scalars().all()[:20])
        raise InputError(f"{key!r} means {len(found)} runs.", f"one of: {', '.join(r['id'] for r in found[:8])}")

    def runs(
        self,
        ids: Sequence[str] | None = None,
        *,
        scenario: str | None = None,
        name: str | None = None,
        status: str | None = None,
        parent: str | None = None,
    ) -> list[RunRow]:
        """All runs that fit, in the order they were made; `parent`: probes of that run."""
        query = _runs_query().order_by(runs.c.pk)
        if ids is not None:
            query = query.where(runs.c.id.in_([self.run(key).id for key in ids]))
        if scenario is not None:
            query = query.where(runs.c.scenario == scenario)
        if status is not None:
            query = query.where(runs.c.status == status)
        if parent is not None:
            query = query.where(runs.c.parent == parent)
        if name is not None:
            query = query.where(runs.c.pk.in_(sa.select(labels.c.run).where(labels.c.name == name)))
        with self._read() as connection:
            found = connection.execute(query).mappings().all()
            names = _names(connection, None)
        return [_run_row(row, names) for row in found]

    def standing(self, ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Status, begun cohort, horizon and what is recorded of many runs by id; unknown ones are left out."""
        columns = (runs.c.id, runs.c.status, runs.c.cohort, runs.c.horizon, runs.c.recorded)
        with self._read() as connection:
            return {
                row["id"]: {
                    "status": row["status"], "cohort": json.loads(row["cohort"] or "[]"),
                    "horizon": json.loads(row["horizon"]), "recorded": json.loads(row["recorded"]),
                }
                for row in _by_id(connection, columns, ids)
            }  # fmt: skip

    def attempts(self, run: str) -> list[dict[str, Any]]:
        """Every attempt at a run with its provenance, first to last."""
        pk = self.run(run).pk
        with self._read() as connection:
            found = connection.execute(sa.select(attempts).where(attempts.c.run == pk).order_by(attempts.c.attempt))
            return [dict(row) | {"provenance": json.loads(row["provenance"])} for row in found.mappings()]

    def last_epoch(self, run: str) -> int:
        """The last stored epoch of a run, -1 when there is none."""
        with self._read() as connection:
            query = sa.select(sa.func.max(epochs.c.epoch)).join(runs, runs.c.pk == epochs.c.run).where(runs.c.id == run)
            last = connection.execute(query).scalar()
        return -1 if last is None else int(last)

    def history(self, run: str, up_to: int) -> list[tuple[int, int, float]]:
        """(task, task_epoch, online_accuracy) of a run's epochs 1 to `up_to`."""
        query = (
            sa.select(epochs.c.task, epochs.c.task_epoch, epochs.c.online_accuracy)
            .join(runs, runs.c.pk == epochs.c.run)
            .where(runs.c.id == run, epochs.c.epoch > 0, epochs.c.epoch <= up_to)
            .order_by(epochs.c.epoch)
        )
        with self._read() as connection:
            return [(int(t), int(e), float(a)) for t, e, a in connection.execute(query)]

    def rows(self, run: str) -> list[dict[str, Any]]:
        """A run's epochs as the wide table has them, in order."""
        query = sa.select(epochs).join(runs, runs.c.pk == epochs.c.run).where(runs.c.id == run).order_by(epochs.c.epoch)
        with self._read() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def final(self, run: str) -> dict[str, Any]:
        """A run's last stored epoch as the wide table has it; empty when there is none."""
        query = (
            sa.select(epochs).join(runs, runs.c.pk == epochs.c.run).where(runs.c.id == run)
            .order_by(epochs.c.epoch.desc()).limit(1)
        )  # fmt: skip
        with self._read() as connection:
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
        with self._read() as connection:
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
        with self._read() as connection:
            row = connection.execute(wide.where(runs.c.id == run, epochs.c.epoch == epoch)).mappings().first()
            found = {Address(name): float(row[name]) for name in WIDE if row[name] is not None} if row else {}
            return found | {Address(m, s, la): float(v) for m, s, la, v in connection.execute(query)}

    def recorded(self, ids: Sequence[str]) -> list[Address]:
        """Every address that some of these runs have a value of, in any epoch."""
        with self._read() as connection:
            return recorded_addresses(connection, ids)

    def task_accuracies(self, run: str) -> list[tuple[int, int, float]]:
        """(epoch, evaluated task, accuracy): the forgetting matrix, row by row."""
        query = (
            sa.select(task_accuracy.c.epoch, task_accuracy.c.evaluated_task, task_accuracy.c.accuracy)
            .join(runs, runs.c.pk == task_accuracy.c.run)
            .where(runs.c.id == run)
            .order_by(task_accuracy.c.epoch, task_accuracy.c.evaluated_task)
        )
        with self._read() as connection:
            return [(int(e), int(t), float(a)) for e, t, a in connection.execute(query)]

    def series(self, addresses: Sequence[Address], ids: Sequence[str]) -> dict[str, dict[str, NDArray[np.float64]]]:
        """Columns of each run: epoch, task, task_epoch and every address (NaN = undefined), in order of epochs.

        Read column by column straight into arrays: a data frame of the same takes several times as long.
        """
        import numpy as np

        wide = [a for a in addresses if a.metric in WIDE and a.split == "train" and a.layer == "last"]
        chosen = [epochs.c.epoch, epochs.c.task, epochs.c.task_epoch, *(epochs.c[a.metric] for a in wide)]
        found: dict[str, dict[str, NDArray[np.float64]]] = {}
        with self._read() as connection:
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
                found[run] = columns | self._long(connection, keys[run], long, columns["epoch"])
        return found

    def _long(
        self, connection: sa.Connection, pk: int, places: Mapping[Address, Sequence[int]], axis: NDArray[np.float64]
    ) -> dict[str, NDArray[np.float64]]:
        import numpy as np

        columns = {str(address): np.full(len(axis), np.nan) for address in places}
        metrics = sorted({place[0] for place in places.values() if -1 not in place})
        if metrics:  # one pass over the run's rows for all addresses together
            m = measurements.c
            query = sa.select(m.epoch, m.metric, m.split, m.layer, m.value).where(m.run == pk, m.metric.in_(metrics))
            rows = np.array(plain_rows(connection, query), dtype=np.float64).reshape(-1, 5)
            for address, place in places.items():
                here = rows[(rows[:, 1:4] == place).all(1)]
                columns[str(address)][np.searchsorted(axis, here[:, 0])] = here[:, 4]
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
        with self._read() as connection:
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
        with self._read() as connection:
            return [(str(m), str(why), int(n), int(k)) for m, why, n, k in connection.execute(query)]

    def frame(self, ids: Sequence[str] | None = None, **filters: str | None) -> pd.DataFrame:
        """Every recorded epoch as a row, a column per metric; further rows for other splits and layers.

        Columns: run, seed, scenario, name, task, task_epoch, epoch, samples_seen, seconds, split, layer, where there
        are probes parent and branch_epoch, and metrics.
        """
        import pandas as pd

        chosen = self.runs(ids, **filters)
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
        with self._read() as connection:
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

    # the store itself --------------------------------------------------------------------------------------

    def info(self) -> dict[str, Any]:
        """Where the store lies, how large it is, and what is in it."""
        path = sqlite_path(self.url)
        with self._read() as connection:
            by_status = connection.execute(sa.select(runs.c.status, sa.func.count()).group_by(runs.c.status))
            status = {name: int(count) for name, count in by_status}
            counts = {
                table.name: int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0)
                for table in (runs, epochs, measurements, undefined, task_accuracy)
            }
            database = connection.dialect.name
        wal = path.with_name(path.name + "-wal") if path else None
        return {
            "store": shown(self.url), "database": database, "schema": schema.HEAD,
            "bytes": path.stat().st_size if path else None,
            "wal_bytes": wal.stat().st_size if wal and wal.exists() else 0 if path else None,
            "checkpoints": str(self.checkpoints), "runs": status, "rows": counts,
        }  # fmt: skip

    def check(self) -> list[str]:
        """What is wrong with the store, in sentences; empty when nothing is."""
        problems = []
        with self._read() as connection:
            if connection.dialect.name == "sqlite":
                found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
                problems += [f"integrity: {line}" for line in found if line != "ok"]
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                problems += [f"foreign key: a row of {line[0]} has no {line[2]}" for line in broken]
            query = (
                sa.select(runs.c.id, sa.func.min(epochs.c.epoch), sa.func.max(epochs.c.epoch), sa.func.count())
                .join(epochs, epochs.c.run == runs.c.pk)
                .where(sa.not_(runs.c.settings.contains('"imported":true')), runs.c.recorded != _json(BY_RECORDER))
                .group_by(runs.c.id)
            )
            for run, first, last, count in connection.execute(query):
                if count != last - first + 1:
                    problems.append(f"run {run} has {count} of its epochs {first} to {last}")
        return problems


def open_store(url: str | os.PathLike[str], *, create: bool = True, upgrade: bool = True) -> Store:
    """Open a store by path or SQLAlchemy URL, making or upgrading it where that is needed and allowed.

    Raises StoreError when it is foreign, newer, corrupt, locked, read-only or on a network file system.
    """
    text = os.fspath(url)
    path = sqlite_path(text)
    if path is not None and not create and not path.exists():
        raise StoreError(f"there is no store {text}.", "name one with --db, or fill it first: ncpl train --help")
    engine = connect(text)
    try:
        with translated(text):
            ensure_head(engine, text, upgrade=upgrade)
    except NcplError:
        engine.dispose()
        raise
    return Store(text, engine)


# built once: building a statement takes longer than running it, and claims are waited for
TO_CLAIM = (
    sa.select(runs.c.pk, runs.c.id, runs.c.seed, runs.c.status, runs.c.owner, runs.c.lease_expires, runs.c.attempt)
    .where(runs.c.id.in_(sa.bindparam("ids", expanding=True)))
    .with_for_update()  # SQLite has locked the whole store already, and leaves this out
)
_CLAIM = runs.update().where(runs.c.pk == sa.bindparam("key")).values(
    attempt=sa.bindparam("next"), owner=sa.bindparam("new_owner"), lease_expires=sa.bindparam("expires"),
    updated=sa.bindparam("now"), cohort=sa.bindparam("together"), status="running", error=None,
)  # fmt: skip
_HOLD = (
    runs.update()
    .where(runs.c.id == sa.bindparam("key"), runs.c.attempt == sa.bindparam("mine"), runs.c.status == "running")
    .values(
        lease_expires=sa.bindparam("expires"), updated=sa.bindparam("now"),
        seconds=runs.c.seconds + sa.bindparam("more", type_=schema.Number),
    )
    .returning(runs.c.pk)
)  # fmt: skip
_LOSE = (
    attempts.update().where(attempts.c.run == sa.bindparam("key"), attempts.c.ended.is_(None)).values(outcome="lost")
)


def not_repeated(run: str, epoch: int) -> StoreError:
    """The error for an epoch that came out otherwise when it was trained again."""
    return StoreError(
        f"run {run} does not repeat itself here: epoch {epoch} has another online accuracy.",
        "measure it on the device and with the versions it was trained with (ncpl runs show), "
        "or train it anew with --no-resume",
    )


def _hold(connection: sa.Connection, run: str, attempt: int, lease: float, seconds: float = 0.0) -> int:
    """The fence: a write by an attempt that is no longer the current one is refused."""
    now = time.time()
    held = {"key": run, "mine": attempt, "expires": now + lease, "now": now, "more": seconds}
    found = connection.execute(_HOLD, held).scalar()
    if found is None:
        raise LeaseLost(
            f"run {run} has been taken over by another process; attempt {attempt} stores nothing any more.",
            "ncpl runs list shows who trains it",
        )
    return int(found)


def _end_attempt(connection: sa.Connection, pk: int, attempt: int, outcome: str, now: float) -> None:
    connection.execute(
        attempts.update().where(attempts.c.run == pk, attempts.c.attempt == attempt).values(ended=now, outcome=outcome)
    )


def _ignore_insert(
    connection: sa.Connection, table: sa.Table, rows: Mapping[str, Any] | Sequence[Mapping[str, Any]]
) -> None:
    """Insert rows unless they are there: the dialects' own upsert, so that two writers cannot collide."""
    from sqlalchemy.dialects import postgresql, sqlite

    dialect = sqlite if connection.dialect.name == "sqlite" else postgresql
    if rows:
        connection.execute(dialect.insert(table).on_conflict_do_nothing(), rows)


def _by_id(connection: sa.Connection, columns: Iterable[Any], ids: Sequence[str]) -> Iterator[Any]:
    """Rows of runs by id; a statement takes only so many parameters."""
    for start in range(0, len(ids), 500):
        query = sa.select(*columns).where(runs.c.id.in_(ids[start : start + 500]))
        yield from connection.execute(query).mappings()


def _runs_query() -> sa.Select[Any]:
    last = sa.select(sa.func.max(epochs.c.epoch)).where(epochs.c.run == runs.c.pk).scalar_subquery()
    return sa.select(runs, last.label("epochs"))


def _one(connection: sa.Connection, condition: sa.ColumnElement[bool], name: str) -> Any:
    row = connection.execute(_runs_query().where(condition)).mappings().first()
    if row is None:
        raise StoreError(f"run {name} is no longer in the store.")
    return row


def _names(connection: sa.Connection, pks: Sequence[int] | None) -> dict[int, tuple[str, ...]]:
    query = sa.select(labels.c.run, labels.c.name).order_by(labels.c.name)
    if pks is not None:
        query = query.where(labels.c.run.in_(pks))
    found: dict[int, tuple[str, ...]] = {}
    for run, name in connection.execute(query):
        found[run] = (*found.get(run, ()), name)
    return found


def _run_row(row: Any, names: Mapping[int, tuple[str, ...]] | None = None) -> RunRow:
    as_they_are = (
        "pk", "id", "scenario", "seed", "status", "total_epochs", "attempt", "lease_expires", "error", "parent",
        "branch_epoch", "created", "updated", "finished", "seconds",
    )  # fmt: skip
    plain = {key: row[key] for key in as_they_are}
    return RunRow(
        **plain,
        settings=json.loads(row["settings"]),
        horizon=json.loads(row["horizon"]),
        recorded=json.loads(row["recorded"]),
        owner=Owner.read(row["owner"]) if row["owner"] else None,
        cohort=json.loads(row["cohort"]) if row["cohort"] else [],
        names=(names or {}).get(row["pk"], ()),
        epochs=row["epochs"] or 0,
    )


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), default=list)
