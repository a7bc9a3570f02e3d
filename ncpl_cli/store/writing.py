"""Into the store: runs are registered and claimed, their epochs saved, and they are finished or given back.

One transaction each; whatever belongs to a run states its attempt and is refused once another has taken over.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ncpl_cli.errors import InputError, StoreError
from ncpl_cli.records import Address, EpochRecord, RunInfo
from ncpl_cli.store.connection import insert_new, translated
from ncpl_cli.store.epoch_rows import compile_all, end_run, insert_epochs
from ncpl_cli.store.keys import meant
from ncpl_cli.store.leases import break_lease, checked_lease, claim, end_attempt, held_by, hold
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.reading import Reading
from ncpl_cli.store.run_row import RunRow, by_id, one_run, run_row
from ncpl_cli.store.schema import WIDE, as_json, epochs, labels, measurements, runs, undefined


@dataclass(frozen=True)
class Belongings:
    """Runs, the probes that branch off them, and how many epochs all of them have."""

    runs: tuple[str, ...]
    probes: tuple[str, ...]
    epochs: int


class Writing(Reading):
    """What changes runs."""

    _warm = False

    def register(self, info: RunInfo, name: str | None = None) -> RunRow:
        """Make a run known. One that is known keeps its epochs; a longer horizon opens a finished one again."""
        self.register_all([(info, [name] if name is not None else [])])
        return self.run(info.id)

    def register_all(self, infos: Sequence[tuple[RunInfo, Sequence[str]]]) -> None:
        """Make many runs known, each with its labels, in one transaction."""
        with self.writing() as connection:
            _register(connection, infos)

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
        self.warm()
        with self.writing() as connection:
            return claim(connection, ids, owner, provenance, self.lease if lease is None else lease, cohort or ids)

    def warm(self) -> None:
        """Have the statements of a claim, a save and a finish compiled before the store is locked for the first."""
        if not self._warm and self.file is not None:
            with translated(self.url), self.engine.connect() as connection:
                compile_all(connection.execution_options(ncpl_reader=True), self.terms)
        self._warm = True

    def renew(self, claimed: Mapping[str, int], *, lease: float | None = None) -> None:
        """Lengthen the leases of runs; raises LeaseLost for one that another process has taken over."""
        length = checked_lease(self.lease if lease is None else lease)
        with self.writing() as connection:
            for run, attempt in claimed.items():
                hold(connection, run, attempt, length)

    def save(self, batch: Sequence[tuple[str, int, EpochRecord]], *, durable: bool = False) -> None:
        """Store epochs of runs (run, attempt, record) in one transaction, and lengthen the leases.

        `durable` has the disk confirm it, as is needed before a checkpoint is written. Raises LeaseLost, storing
        nothing, when another process has taken a run over.
        """
        with self.writing(durable=durable) as connection:
            took: defaultdict[tuple[str, int], float] = defaultdict(float)
            for run, attempt, record in batch:
                took[run, attempt] += record.seconds + record.measure_seconds
            pks = {run: hold(connection, run, attempt, self.lease, took[run, attempt]) for run, attempt in took}
            insert_epochs(
                connection, self.terms,
                [({"run": pks[run], "epoch": record.epoch}, record) for run, _, record in batch],
            )  # fmt: skip

    def supplement(self, run: str, attempt: int, record: EpochRecord) -> None:
        """Add to a stored epoch what it lacks, when it is measured again; what stands already stays as it is.

        Raises StoreError when the epoch was not reproduced: its online accuracy must be the same to the bit.
        """
        with self.writing() as connection:
            pk = hold(connection, run, attempt, self.lease)
            at = (epochs.c.run == pk) & (epochs.c.epoch == record.epoch)
            row = connection.execute(sa.select(epochs).where(at)).mappings().one()
            if row["online_accuracy"] != record.get("online_accuracy"):
                raise not_repeated(run, record.epoch)
            wide = {name: v for name in WIDE if row[name] is None and (v := record.get(name)) is not None}
            if wide:
                connection.execute(epochs.update().where(at).values(wide))
            long = [a for a in record.values if not (a.metric in WIDE and a.split == "train" and a.layer == "last")]
            self.terms.learn(connection, {*long, *record.undefined}, record.undefined.values())
            key = {"run": pk, "epoch": record.epoch}
            for address in long:
                insert_new(
                    connection,
                    measurements,
                    {**key, **self.terms.place(address), "value": float(record.values[address])},
                )
            for address, why in record.undefined.items():
                insert_new(
                    connection, undefined, {**key, **self.terms.place(address), "reason": self.terms.reason(why)}
                )

    def annotate(
        self, run: str, values: Mapping[int, Mapping[str, float]], undefined_: Mapping[int, Mapping[str, str]]
    ) -> None:
        """Put down what is known of a run's epochs from elsewhere (its probes), by epoch and address.

        What stood there before is replaced; epochs that are not stored are left out.
        """
        with self.writing() as connection:
            pk = int(one_run(connection, runs.c.id == run, run)["pk"])
            stored = set(connection.execute(sa.select(epochs.c.epoch).where(epochs.c.run == pk)).scalars())
            addresses = {Address.parse(name) for of in (*values.values(), *undefined_.values()) for name in of}
            self.terms.learn(connection, addresses, {why for of in undefined_.values() for why in of.values()})
            for epoch in sorted(stored & (values.keys() | undefined_.keys())):
                key = {"run": pk, "epoch": epoch}
                given, lacking = values.get(epoch, {}), undefined_.get(epoch, {})
                for name in (*given, *lacking):
                    place = self.terms.place(Address.parse(name))
                    for table in (measurements, undefined):
                        here = [table.c[column] == value for column, value in {**key, **place}.items()]
                        connection.execute(table.delete().where(*here))
                    if name in given:
                        connection.execute(measurements.insert().values(**key, **place, value=float(given[name])))
                    else:
                        why = self.terms.reason(lacking[name])
                        connection.execute(undefined.insert().values(**key, **place, reason=why))

    def remember(self, run: str, attempt: int, recorded: Mapping[str, object]) -> None:
        """Put down what a run's epochs have been measured for."""
        with self.writing() as connection:
            pk = hold(connection, run, attempt, self.lease)
            connection.execute(runs.update().where(runs.c.pk == pk).values(recorded=as_json(recorded)))

    def truncate(self, run: str, attempt: int, after: int) -> None:
        """Delete the epochs after `after` (-1 = all): they were not in the checkpoint and are trained again."""
        with self.writing() as connection:
            pk = hold(connection, run, attempt, self.lease)
            connection.execute(epochs.delete().where(epochs.c.run == pk, epochs.c.epoch > after))

    def finish(self, run: str, attempt: int, status: str, error: str | None = None) -> None:
        """End a run: finished, diverged or failed (with the error)."""
        now = time.time()
        with self.writing(durable=True) as connection:
            pk = hold(connection, run, attempt, 0.0)
            end_run(connection, pk, attempt, status, error, now)

    def release(self, run: str, attempt: int) -> None:
        """Give a run back unfinished, so that it can go on at once."""
        now = time.time()
        with self.writing() as connection:
            pk = hold(connection, run, attempt, 0.0)
            connection.execute(
                runs.update().where(runs.c.pk == pk).values(
                    status="interrupted", owner=None, lease_expires=None, updated=now
                )
            )  # fmt: skip
            end_attempt(connection, pk, attempt, "interrupted", now)

    def break_lease(self, key: str, *, force: bool = False) -> RunRow:
        """Take a run away from a process that is lost; returns it as it was. `force`: though its lease still lasts.

        It is then interrupted, so that it can go on at once; what that process still writes is refused.
        """
        with self.writing() as connection:
            pk, run = meant(connection, key)
            row = run_row(one_run(connection, runs.c.pk == pk, run))
            if row.held and row.owner is not None and not force:
                raise InputError(*held_by(run, row.owner, row.lease_expires or 0))
            if row.status == "running":
                break_lease(connection, pk, row.attempt)
        return row

    def belongings(self, keys: Sequence[str]) -> Belongings:
        """What `delete` would take away with these runs."""
        with self.reading() as connection:
            mine, probes = _with_probes(connection, keys)
            count = sa.select(sa.func.count()).select_from(epochs)
            rows = sum(connection.execute(count.where(epochs.c.run == pk)).scalar_one() for pk in {**mine, **probes})
        return Belongings(tuple(mine.values()), tuple(probes.values()), int(rows))

    def delete(self, *keys: str) -> tuple[str, ...]:
        """Delete runs with all that belongs to them, their probes too: all or none; returns the ids.

        Raises InputError while a living process trains one. A run that cannot be read any more can be deleted.
        """
        with self.writing() as connection:
            mine, probes = _with_probes(connection, keys)
            for pk, run in {**mine, **probes}.items():
                with contextlib.suppress(StoreError):  # what cannot be read holds nothing
                    row = run_row(one_run(connection, runs.c.pk == pk, run))
                    if row.held and row.owner is not None:
                        raise InputError(*held_by(run, row.owner, row.lease_expires or 0))
                connection.execute(runs.delete().where(runs.c.pk == pk))
        return (*mine.values(), *probes.values())


def not_repeated(run: str, epoch: int) -> StoreError:
    """The error for an epoch that came out otherwise when it was trained again."""
    return StoreError(
        f"run {run} does not repeat itself here: epoch {epoch} has another online accuracy.",
        "measure it on the device and with the versions it was trained with (ncpl runs show), "
        "or train it anew with --no-resume",
    )


def _with_probes(connection: sa.Connection, keys: Sequence[str]) -> tuple[dict[int, str], dict[int, str]]:
    """The runs that keys mean and their probes, ids by pk."""
    mine = dict(meant(connection, key) for key in keys)
    probes: dict[int, str] = {}
    for run in mine.values():
        of = connection.execute(sa.select(runs.c.pk, runs.c.id).where(runs.c.parent == run))
        probes |= {int(pk): str(probe) for pk, probe in of if int(pk) not in mine}
    return mine, probes


def _register(connection: sa.Connection, infos: Sequence[tuple[RunInfo, Sequence[str]]]) -> None:
    now = time.time()
    unique = {info.id: info for info, _ in infos}
    known = {row["id"]: row for row in by_id(connection, runs.c, list(unique))}
    fresh = [
        {
            "id": info.id, "identity": info.identity, "scenario": info.scenario, "seed": info.seed,
            "settings": as_json(info.settings), "horizon": as_json(info.horizon),
            "recorded": as_json(info.recorded),
            "status": "pending", "total_epochs": info.total_epochs, "attempt": 0, "parent": info.parent,
            "branch_epoch": info.branch_epoch, "created": now, "updated": now, "seconds": 0.0,
        }
        for info in unique.values() if info.id not in known
    ]  # fmt: skip
    insert_new(connection, runs, fresh)
    for run, row in known.items():
        info, change = unique[run], {}
        horizon = json.loads(row["horizon"])
        longer = {k: v for k, v in info.horizon.items() if k not in horizon or v > horizon[k]}
        if longer:
            change = {
                "horizon": as_json(horizon | longer), "total_epochs": info.total_epochs, "updated": now,
                "settings": as_json(info.settings),
            }  # fmt: skip
            if row["status"] == "finished":
                change |= {"status": "interrupted", "finished": None}
        if row["attempt"] == 0 and row["recorded"] != (recorded := as_json(info.recorded)):
            change["recorded"] = recorded  # nothing is measured yet: the latest wish counts
        if change:
            connection.execute(runs.update().where(runs.c.pk == row["pk"]).values(change))
    named = [(info.id, name) for info, names in infos for name in names]
    if named:
        pks = {row["id"]: row["pk"] for row in by_id(connection, (runs.c.id, runs.c.pk), list(unique))}
        insert_new(connection, labels, [{"run": pks[run], "name": name} for run, name in named])
