"""The store as a queue: sweeps are runs that belong together, in units that a worker takes whole (a cohort each).

A unit is free when a run of it is to be trained, nobody holds one, and its parent (of probes) is finished. Taking it
claims its runs with lease and attempt in the same transaction (store.Store); all later writes are fenced by those.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import LeaseLost, unknown
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.schema import epochs, measurements, members, runs, sweeps, terms, undefined, units
from ncpl_cli.store.store import TO_CLAIM, Store, _ignore_insert, _json

MAX_ATTEMPTS = 5
"""Attempts in a row that get no further before a unit is given up."""


@dataclass(frozen=True)
class Unit:
    """What a worker has taken: a cohort, of which `attempts` names the runs still to be trained."""

    number: int
    engine: str
    ids: tuple[str, ...]
    attempts: dict[str, int]
    tries: int


@dataclass(frozen=True)
class Working:
    """A unit in training. `epoch` is its last stored one, `seconds` what training and measuring took so far."""

    owner: Owner
    unit: int
    runs: tuple[str, ...]
    seeds: tuple[int, ...]
    epoch: int
    total_epochs: int | None
    seconds: float


@dataclass(frozen=True)
class Overview:
    """How a sweep stands.

    runs, probes  how many by status; a failed run that will be tried again is `pending`
    statuses      the status of each run by id, probes left out
    epochs        stored ones, of `total_epochs` (None where a run ends when it ends)
    units_left    units with a run that is neither finished nor given up
    errors        (run, tries, error) of units whose last attempt went wrong and that are not finished since
    """

    name: str
    settings: dict[str, Any]
    created: float
    cancelled: float | None
    runs: dict[str, int]
    probes: dict[str, int]
    statuses: dict[str, str]
    epochs: int
    total_epochs: int | None
    working: tuple[Working, ...]
    units_left: int
    errors: tuple[tuple[str, int, str], ...]
    seconds_left: float | None = field(default=None)
    """Seconds until all is done, at the pace so far and with the workers at work now; None where nobody can know."""

    @property
    def pace(self) -> float | None:
        """Epochs a second, all workers together."""
        if not self.working or self.seconds_left is None or self.total_epochs is None:
            return None
        left = self.total_epochs - self.epochs
        return left / self.seconds_left if self.seconds_left else None


class Queue:
    """The sweeps of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._start: dict[str, int] = {}

    def add(self, name: str, settings: Mapping[str, object], cohorts: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Make a sweep, or extend it: each cohort (engine, ids of known runs) becomes a unit, in this order.

        Runs that belong to the sweep already keep their unit. A cancelled sweep is taken up again.
        """
        with self.store._write() as connection:
            most = settings.get("max_attempts", MAX_ATTEMPTS)
            values = {"settings": _json(settings), "max_attempts": most, "cancelled": None}
            _ignore_insert(connection, sweeps, values | {"name": name, "created": time.time()})
            sweep = int(connection.execute(sa.select(sweeps.c.pk).where(sweeps.c.name == name)).scalar_one())
            connection.execute(sweeps.update().where(sweeps.c.pk == sweep).values(values))
            inside = set(connection.execute(sa.select(members.c.run).where(members.c.sweep == sweep)).scalars())
            last = connection.execute(sa.select(sa.func.max(units.c.number)).where(units.c.sweep == sweep)).scalar()
            number = -1 if last is None else int(last)
            pks = {str(run): int(pk) for run, pk in connection.execute(sa.select(runs.c.id, runs.c.pk))}
            new_units, new_members = [], []
            for engine, ids in cohorts:
                fresh = [pks[run] for run in ids if pks[run] not in inside]
                if not fresh:
                    continue
                inside.update(fresh)
                number += 1
                new_units.append({"sweep": sweep, "number": number, "engine": engine, "tries": 0, "reached": -1})
                new_members += [
                    {"sweep": sweep, "run": pk, "unit": number, "place": place} for place, pk in enumerate(fresh)
                ]
            if new_units:
                connection.execute(units.insert(), new_units)
                connection.execute(members.insert(), new_members)

    def members(self, name: str) -> set[str]:
        """Ids of the runs of a sweep; empty when there is no such sweep."""
        query = (
            sa.select(runs.c.id).join(members, members.c.run == runs.c.pk)
            .join(sweeps, sweeps.c.pk == members.c.sweep).where(sweeps.c.name == name)
        )  # fmt: skip
        with self.store._read() as connection:
            return set(connection.execute(query).scalars())

    def names(self) -> list[str]:
        """All sweeps, in the order they were made."""
        with self.store._read() as connection:
            return list(connection.execute(sa.select(sweeps.c.name).order_by(sweeps.c.pk)).scalars())

    def settings(self, name: str) -> dict[str, Any]:
        """What a sweep was made with; raises InputError for an unknown one."""
        with self.store._read() as connection:
            return dict(json.loads(_sweep(connection, name)["settings"]))

    # for workers -------------------------------------------------------------------------------------------

    def take(self, name: str, owner: Owner, provenance: Mapping[str, Mapping[str, object]]) -> Unit | None:
        """Claim a free unit, in one transaction; None when there is none now.

        provenance  by engine: what is put down with the attempt
        The first one in order, but for those that are given back meanwhile: they come when the others are taken. A
        unit whose attempts come no further again and again is given up here: its runs fail.
        """
        while True:
            wanted = {"name": name, "now": time.time(), "start": self._start.get(name, 0)}
            orphan = None
            if name not in self._start:  # nothing was free when this was asked last: look without locking
                with self.store._read() as connection:
                    # SQLAlchemy compiles a statement when it is first run: not while others wait for the lock
                    connection.execute(_UNIT, {"name": name, "number": -1})
                    connection.execute(TO_CLAIM, {"ids": [""]})
                    if connection.execute(_NEXT, wanted).first() or connection.execute(_LUCKLESS, wanted).first():
                        pass
                    elif (orphan := _orphan(connection, _sweep(connection, name))) is None:
                        return None
            try:
                with self.store._write() as connection:
                    number = connection.execute(_NEXT, wanted).scalar()
                    if number is None and wanted["start"]:
                        number = connection.execute(_NEXT, wanted | {"start": 0}).scalar()
                    if number is None:
                        number = connection.execute(_LUCKLESS, wanted).scalar()
                    if number is None:
                        number = orphan
                    if number is None:
                        self._start.pop(name, None)
                        continue
                    self._start[name] = int(number)
                    taken = self._take(connection, name, int(number), owner, provenance)
            except LeaseLost:  # another was faster
                continue
            if taken is not None:
                return taken

    def _take(
        self, connection: sa.Connection, name: str, number: int, owner: Owner,
        provenance: Mapping[str, Mapping[str, object]],
    ) -> Unit | None:  # fmt: skip
        rows = connection.execute(_UNIT, {"name": name, "number": number}).mappings().all()
        unit = rows[0]
        todo = [row["id"] for row in rows if row["status"] not in ("finished", "diverged")]
        if not todo:  # another has just finished it
            return None
        reached = max((row["last"] for row in rows if row["last"] is not None), default=-1)
        tries = 1 if reached > unit["reached"] else unit["tries"] + 1
        most, error = unit["max_attempts"], unit["unit_error"]
        if tries > most:
            why = f"its worker was lost {most} times in a row without getting further"
            error = f"{why}; before that: {error}" if error else why
            connection.execute(
                runs.update().where(runs.c.id.in_(todo)).values(
                    status="failed", error=error, owner=None, lease_expires=None, finished=time.time()
                )
            )  # fmt: skip
        counted = {"tries_": min(tries, most), "reached_": max(reached, unit["reached"]), "error_": error}
        connection.execute(_COUNT, {"key": unit["sweep"], "unit": number, **counted})
        if tries > most:
            return None
        ids = tuple(row["id"] for row in rows)
        claimed = self.store._claim(connection, todo, owner, provenance[unit["engine"]], self.store.lease, ids)
        return Unit(number, unit["engine"], ids, claimed, tries)

    def fail(self, name: str, unit: Unit, error: str, *, final: bool) -> None:
        """Keep a unit's last error; `final` when another attempt could not end otherwise."""
        with self.store._write() as connection:
            sweep = _sweep(connection, name)
            change: dict[str, Any] = {"error": error}
            if final:
                change["tries"] = _most(sweep)
            here = (units.c.sweep == sweep["pk"]) & (units.c.number == unit.number)
            connection.execute(units.update().where(here).values(change))

    def put_back(self, name: str, unit: Unit) -> None:
        """An attempt that was stopped on purpose does not count."""
        with self.store._write() as connection:
            sweep = _sweep(connection, name)
            here = (units.c.sweep == sweep["pk"]) & (units.c.number == unit.number)
            connection.execute(units.update().where(here, units.c.tries > 0).values(tries=units.c.tries - 1))

    def is_open(self, name: str) -> bool:
        """Whether something is left to do, now or when what others are at is done."""
        with self.store._read() as connection:
            sweep = _sweep(connection, name)
            if sweep["cancelled"]:
                return False
            parent = runs.alias("parents")
            query = (
                _of(sweep).outerjoin(parent, parent.c.id == runs.c.parent)
                .where(sa.or_(runs.c.status.in_(("pending", "interrupted", "running")), _to_retry(sweep)))
                .where(sa.or_(parent.c.id.is_(None), parent.c.status.not_in(("failed", "diverged"))))
            )  # fmt: skip
            return connection.execute(query.limit(1)).first() is not None

    def is_cancelled(self, name: str) -> bool:
        """Whether a sweep was cancelled."""
        with self.store._read() as connection:
            return _sweep(connection, name)["cancelled"] is not None

    def unharvested(self, name: str) -> list[str]:
        """Parents whose probes have all ended, of which one's result does not stand on the parent's row yet."""
        probe, sibling = runs.alias("probes"), runs.alias("siblings")
        stands = [
            sa.exists().where(
                table.c.run == runs.c.pk, table.c.epoch == probe.c.branch_epoch,
                table.c.metric == sa.select(terms.c.id)
                .where(terms.c.kind == "metric", terms.c.text == "probe_test_accuracy").scalar_subquery(),
            )
            for table in (measurements, undefined)
        ]  # fmt: skip
        unended = sa.exists().where(
            sibling.c.parent == runs.c.id, sibling.c.status.not_in(("finished", "diverged", "failed"))
        )
        with self.store._read() as connection:
            query = (
                _of(_sweep(connection, name)).with_only_columns(runs.c.id).distinct()
                .join(probe, probe.c.parent == runs.c.id)
                .where(probe.c.status.in_(("finished", "diverged")), ~sa.or_(*stands), ~unended)
            )  # fmt: skip
            return list(connection.execute(query).scalars())

    # for people --------------------------------------------------------------------------------------------

    def cancel(self, name: str) -> None:
        """Give out nothing more, and have workers stop after a checkpoint; running the sweep again takes it up."""
        with self.store._write() as connection:
            sweep = _sweep(connection, name)
            connection.execute(sweeps.update().where(sweeps.c.pk == sweep["pk"]).values(cancelled=time.time()))

    def retry(self, name: str) -> int:
        """Let failed runs be tried again; how many. What diverged would diverge again and stays."""
        with self.store._write() as connection:
            sweep = _sweep(connection, name)
            of = _of(sweep).where(runs.c.status == "failed")
            found = connection.execute(of).mappings().all()
            numbers, pks = {row["unit"] for row in found}, [row["pk"] for row in found]
            for start in range(0, len(pks), 500):
                some = pks[start : start + 500]
                connection.execute(runs.update().where(runs.c.pk.in_(some)).values(status="interrupted", finished=None))
            for number in numbers:
                here = (units.c.sweep == sweep["pk"]) & (units.c.number == number)
                connection.execute(units.update().where(here).values(tries=0))
            connection.execute(sweeps.update().where(sweeps.c.pk == sweep["pk"]).values(cancelled=None))
            return len(pks)

    def overview(self, name: str) -> Overview:
        """How a sweep stands, from one query over its runs."""
        last = sa.select(sa.func.max(epochs.c.epoch)).where(epochs.c.run == runs.c.pk).scalar_subquery()
        with self.store._read() as connection:
            sweep = _sweep(connection, name)
            query = _of(sweep).add_columns(last.label("last")).order_by(members.c.unit, members.c.place)
            rows = connection.execute(query).mappings().all()
        most, now = _most(sweep), time.time()
        by_kind: dict[bool, Counter[str]] = {False: Counter(), True: Counter()}
        statuses: dict[str, str] = {}
        busy: dict[int, list[Any]] = {}
        dead: dict[str, bool] = {}
        errors: dict[int, tuple[str, int, str]] = {}
        done, total, seconds = 0, 0, 0.0
        known = True
        unended: set[int] = set()
        for row in rows:
            status = row["status"]
            if status == "running":
                gone = now >= (row["lease_expires"] or 0)
                if not gone and row["owner"] not in dead:
                    dead[row["owner"]] = Owner.read(row["owner"]).dead
                if gone or dead[row["owner"]]:
                    status = "interrupted"
                else:
                    busy.setdefault(row["unit"], []).append(row)
            elif status == "failed" and row["tries"] < most:
                status = "pending"
            by_kind[row["parent"] is not None][status] += 1
            if row["parent"] is None:
                statuses[row["id"]] = status
            if (row["unit_error"] or status == "failed") and status not in ("finished", "diverged"):
                errors.setdefault(row["unit"], (row["id"], row["tries"], row["unit_error"] or row["error"] or ""))
            here = int(row["last"] or 0)
            done, seconds = done + here, seconds + row["seconds"]
            over = status in ("finished", "diverged", "failed")
            if not over:
                unended.add(row["unit"])
            known = known and (over or row["total_epochs"] is not None)
            total += here if over else int(row["total_epochs"] or 0)
        working = tuple(
            Working(
                Owner.read(of[0]["owner"]), unit, tuple(r["id"] for r in of), tuple(r["seed"] for r in of),
                min(int(r["last"] or 0) for r in of), of[0]["total_epochs"], sum(r["seconds"] for r in of),
            )
            for unit, of in busy.items()
        )  # fmt: skip
        left = (total - done) * seconds / done / len(working) if known and done and working else None
        return Overview(
            name, json.loads(sweep["settings"]), sweep["created"], sweep["cancelled"], dict(by_kind[False]),
            dict(by_kind[True]), statuses, done, total if known else None, working, len(unended),
            tuple(errors.values()), left,
        )  # fmt: skip


def _sweep(connection: sa.Connection, name: str) -> Any:
    row = connection.execute(sa.select(sweeps).where(sweeps.c.name == name)).mappings().first()
    if row is None:
        raise unknown("sweep", name, connection.execute(sa.select(sweeps.c.name)).scalars())
    return row


def _most(sweep: Any) -> int:
    return int(sweep["max_attempts"])


def _of(sweep: Any) -> sa.Select[Any]:
    """The runs of a sweep with their units."""
    columns = (runs.c.pk, runs.c.id, runs.c.seed, runs.c.status, runs.c.owner, runs.c.lease_expires, runs.c.parent,
               runs.c.total_epochs, runs.c.seconds, runs.c.error)  # fmt: skip
    of_unit = (members.c.unit, units.c.tries, units.c.error.label("unit_error"))
    both = (units.c.sweep == members.c.sweep) & (units.c.number == members.c.unit)
    joined = members.join(runs, runs.c.pk == members.c.run).join(units, both)
    return sa.select(*columns, *of_unit).select_from(joined).where(members.c.sweep == sweep["pk"])


def _to_retry(sweep: Any) -> sa.ColumnElement[bool]:
    return (runs.c.status == "failed") & (units.c.tries < _most(sweep))


def _orphan(connection: sa.Connection, sweep: Any) -> int | None:
    """A unit whose lease still runs but whose owner has died on this host."""
    if sweep["cancelled"]:
        return None
    query = _of(sweep).where(runs.c.status == "running").order_by(members.c.unit)
    rows = connection.execute(query).mappings().all()
    dead = {owner: Owner.read(owner).dead for owner in {row["owner"] for row in rows}}
    held = {row["unit"] for row in rows if not dead[row["owner"]]}
    return next((int(row["unit"]) for row in rows if row["unit"] not in held), None)


# built once: building a statement takes longer than running it, and claims are waited for


def _free() -> sa.Select[Any]:
    """Units that are free by their runs' statuses and leases; locked, on PostgreSQL, which gives others the next."""
    now: sa.BindParameter[float] = sa.bindparam("now")
    parent, sibling, other = runs.alias("parents"), runs.alias("siblings"), members.alias("others")
    finished = sa.select(parent.c.pk).where(parent.c.id == runs.c.parent, parent.c.status == "finished")
    held = sa.select(sibling.c.pk).join(other, other.c.run == sibling.c.pk).where(
        other.c.sweep == members.c.sweep, other.c.unit == members.c.unit,
        sibling.c.status == "running", sibling.c.lease_expires >= now,
    )  # fmt: skip
    lapsed = (runs.c.status == "running") & (runs.c.lease_expires < now)
    again = (runs.c.status == "failed") & (units.c.tries < sweeps.c.max_attempts)
    return (
        sa.select(members.c.unit)
        .select_from(_joined())
        .where(sweeps.c.name == sa.bindparam("name"), sweeps.c.cancelled.is_(None))
        .where(sa.or_(runs.c.status.in_(("pending", "interrupted")), lapsed, again))
        .where(runs.c.parent.is_(None) | sa.exists(finished), ~sa.exists(held))
        .limit(1)
        .with_for_update(of=units, skip_locked=True)
    )


def _joined() -> sa.Join:
    both = (units.c.sweep == members.c.sweep) & (units.c.number == members.c.unit)
    return sweeps.join(members, members.c.sweep == sweeps.c.pk).join(units, both).join(runs, runs.c.pk == members.c.run)


_NEXT = _free().where(members.c.unit >= sa.bindparam("start"), units.c.tries < 2).order_by(members.c.unit)
# what has lost its workers more than once waits until the others are done: it may be what kills them
_LUCKLESS = _free().where(units.c.tries >= 2).order_by(units.c.tries, members.c.unit)
_UNIT = (
    sa.select(
        runs.c.id, runs.c.status, units.c.sweep, units.c.engine, units.c.tries, units.c.reached, sweeps.c.max_attempts,
        units.c.error.label("unit_error"),
        sa.select(sa.func.max(epochs.c.epoch)).where(epochs.c.run == runs.c.pk).scalar_subquery().label("last"),
    )
    .select_from(_joined())
    .where(sweeps.c.name == sa.bindparam("name"), units.c.number == sa.bindparam("number"))
    .order_by(members.c.place)
)  # fmt: skip
_COUNT = units.update().where(units.c.sweep == sa.bindparam("key"), units.c.number == sa.bindparam("unit")).values(
    tries=sa.bindparam("tries_"), reached=sa.bindparam("reached_"), error=sa.bindparam("error_")
)  # fmt: skip


__all__ = ["MAX_ATTEMPTS", "Overview", "Queue", "Unit", "Working"]
