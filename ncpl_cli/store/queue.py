"""The store as a queue: sweeps are runs that belong together, in units that a worker takes whole (a cohort each).

A unit is free when a run of it is to be trained, nobody holds one, and its parent (of probes) is finished. Taking it
claims its runs with lease and attempt in the same transaction (leases.claim); all later writes are fenced by those.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import LeaseLost
from ncpl_cli.store.connection import insert_new
from ncpl_cli.store.leases import TO_CLAIM, claim
from ncpl_cli.store.overview import Overview, overview
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.queue_sql import COUNT, LUCKLESS, NEXT, UNIT, most_attempts, orphan_of, runs_of, sweep_row, to_retry
from ncpl_cli.store.run_row import checked_id
from ncpl_cli.store.schema import as_json, measurements, members, runs, sweeps, terms, undefined, units
from ncpl_cli.store.store import Store

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


class Queue:
    """The sweeps of a store."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._start: dict[str, int] = {}

    def add(self, name: str, settings: Mapping[str, object], cohorts: Sequence[tuple[str, Sequence[str]]]) -> None:
        """Make a sweep, or extend it: each cohort (engine, ids of known runs) becomes a unit, in this order.

        Runs that belong to the sweep already keep their unit. A cancelled sweep is taken up again.
        """
        with self.store.writing() as connection:
            most = settings.get("max_attempts", MAX_ATTEMPTS)
            values = {"settings": as_json(settings), "max_attempts": most, "cancelled": None}
            insert_new(connection, sweeps, values | {"name": name, "created": time.time()})
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
        with self.store.reading() as connection:
            return set(connection.execute(query).scalars())

    def names(self) -> list[str]:
        """All sweeps, in the order they were made."""
        with self.store.reading() as connection:
            return list(connection.execute(sa.select(sweeps.c.name).order_by(sweeps.c.pk)).scalars())

    def settings(self, name: str) -> dict[str, Any]:
        """What a sweep was made with; raises InputError for an unknown one."""
        with self.store.reading() as connection:
            return dict(json.loads(sweep_row(connection, name)["settings"]))

    # for workers -------------------------------------------------------------------------------------------

    def take(self, name: str, owner: Owner, provenance: Mapping[str, Mapping[str, object]]) -> Unit | None:
        """Claim a free unit, in one transaction; None when there is none now.

        provenance  by engine: what is put down with the attempt
        The first one in order, but for those that are given back meanwhile: they come when the others are taken. A
        unit whose attempts come no further again and again is given up here: its runs fail.
        """
        self.store.warm()
        while True:
            wanted = {"name": name, "now": time.time(), "start": self._start.get(name, 0)}
            orphan = None
            if name not in self._start:  # nothing was free when this was asked last: look without locking
                with self.store.reading() as connection:
                    # SQLAlchemy compiles a statement when it is first run: not while others wait for the lock
                    connection.execute(UNIT, {"name": name, "number": -1})
                    connection.execute(TO_CLAIM, {"ids": [""]})
                    if connection.execute(NEXT, wanted).first() or connection.execute(LUCKLESS, wanted).first():
                        pass
                    elif (orphan := orphan_of(connection, sweep_row(connection, name))) is None:
                        return None
            try:
                with self.store.writing() as connection:
                    number = connection.execute(NEXT, wanted).scalar()
                    if number is None and wanted["start"]:
                        number = connection.execute(NEXT, wanted | {"start": 0}).scalar()
                    if number is None:
                        number = connection.execute(LUCKLESS, wanted).scalar()
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
        rows = connection.execute(UNIT, {"name": name, "number": number}).mappings().all()
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
        connection.execute(COUNT, {"key": unit["sweep"], "unit": number, **counted})
        if tries > most:
            return None
        ids = tuple(checked_id(row["id"]) for row in rows)
        claimed = claim(connection, todo, owner, provenance[unit["engine"]], self.store.lease, ids)
        return Unit(number, unit["engine"], ids, claimed, tries)

    def fail(self, name: str, unit: Unit, error: str, *, final: bool) -> None:
        """Keep a unit's last error; `final` when another attempt could not end otherwise."""
        with self.store.writing() as connection:
            sweep = sweep_row(connection, name)
            change: dict[str, Any] = {"error": error}
            if final:
                change["tries"] = most_attempts(sweep)
            here = (units.c.sweep == sweep["pk"]) & (units.c.number == unit.number)
            connection.execute(units.update().where(here).values(change))

    def put_back(self, name: str, unit: Unit) -> None:
        """An attempt that was stopped on purpose does not count."""
        with self.store.writing() as connection:
            sweep = sweep_row(connection, name)
            here = (units.c.sweep == sweep["pk"]) & (units.c.number == unit.number)
            connection.execute(units.update().where(here, units.c.tries > 0).values(tries=units.c.tries - 1))

    def is_open(self, name: str) -> bool:
        """Whether something is left to do, now or when what others are at is done."""
        with self.store.reading() as connection:
            sweep = sweep_row(connection, name)
            if sweep["cancelled"]:
                return False
            parent = runs.alias("parents")
            query = (
                runs_of(sweep).outerjoin(parent, parent.c.id == runs.c.parent)
                .where(sa.or_(runs.c.status.in_(("pending", "interrupted", "running")), to_retry(sweep)))
                .where(sa.or_(parent.c.id.is_(None), parent.c.status.not_in(("failed", "diverged"))))
            )  # fmt: skip
            return connection.execute(query.limit(1)).first() is not None

    def is_cancelled(self, name: str) -> bool:
        """Whether a sweep was cancelled."""
        with self.store.reading() as connection:
            return sweep_row(connection, name)["cancelled"] is not None

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
        with self.store.reading() as connection:
            query = (
                runs_of(sweep_row(connection, name)).with_only_columns(runs.c.id).distinct()
                .join(probe, probe.c.parent == runs.c.id)
                .where(probe.c.status.in_(("finished", "diverged")), ~sa.or_(*stands), ~unended)
            )  # fmt: skip
            return [checked_id(run) for run in connection.execute(query).scalars()]

    # for people --------------------------------------------------------------------------------------------

    def cancel(self, name: str) -> None:
        """Give out nothing more, and have workers stop after a checkpoint; running the sweep again takes it up."""
        with self.store.writing() as connection:
            sweep = sweep_row(connection, name)
            connection.execute(sweeps.update().where(sweeps.c.pk == sweep["pk"]).values(cancelled=time.time()))

    def retry(self, name: str) -> int:
        """Let failed runs be tried again; how many. What diverged would diverge again and stays."""
        with self.store.writing() as connection:
            sweep = sweep_row(connection, name)
            of = runs_of(sweep).where(runs.c.status == "failed")
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
        return overview(self.store, name)
