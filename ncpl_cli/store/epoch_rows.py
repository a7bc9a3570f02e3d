"""The rows of an epoch, and the statements that many processes wait for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from ncpl_cli.records import Address, EpochRecord
from ncpl_cli.store.leases import claim, end_attempt, hold
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.schema import WIDE, attempts, epochs, measurements, runs, task_accuracy, undefined
from ncpl_cli.store.terms import Terms


def insert_epochs(
    connection: sa.Connection, numbers: Terms, batch: Sequence[tuple[dict[str, int], EpochRecord]]
) -> None:
    """Store epochs of runs, each with its key (run, epoch)."""
    found: dict[sa.Table, list[dict[str, Any]]] = {epochs: [], measurements: [], undefined: [], task_accuracy: []}
    values = {a for _, record in batch for a in record.values}
    long = {a for a in values if not (a.metric in WIDE and a.split == "train" and a.layer == "last")}
    addresses = long | {a for _, record in batch for a in record.undefined}
    numbers.learn(connection, addresses, {why for _, record in batch for why in record.undefined.values()})
    places = {a: numbers.place(a) for a in addresses}
    for key, record in batch:
        wide = {name: None if (value := record.get(name)) is None else float(value) for name in WIDE}
        found[epochs].append({
            **key, "task": record.task, "task_epoch": record.task_epoch, "samples_seen": record.samples_seen,
            "seconds": float(record.seconds), "measure_seconds": float(record.measure_seconds), **wide,
        })  # fmt: skip
        found[measurements] += [
            {**key, **places[a], "value": float(value)} for a, value in record.values.items() if a in long
        ]
        found[undefined] += [{**key, **places[a], "reason": numbers.reason(why)} for a, why in record.undefined.items()]
        found[task_accuracy] += [
            {**key, "evaluated_task": t, "accuracy": float(a)} for t, a in record.task_accuracy.items()
        ]
    for table, rows in found.items():
        if rows:  # values beside the statement, always the same keys: it is compiled once
            connection.execute(table.insert(), rows)


def end_run(connection: sa.Connection, pk: int, attempt: int, status: str, error: str | None, now: float) -> None:
    """Put down that a run is over, with its error."""
    change: dict[str, Any] = {"status": status, "error": error, "finished": now}
    connection.execute(
        runs.update().where(runs.c.pk == pk).values(**change, updated=now, owner=None, lease_expires=None)
    )
    end_attempt(connection, pk, attempt, status, now)


def compile_all(connection: sa.Connection, known: Terms) -> None:
    """Do once what a run does, over empty temporary tables that lie in front of the real ones, and take it back.

    SQLAlchemy compiles a statement when it is first run, which takes ten times as long as running it: that is not to
    happen while other processes wait for the lock. Names that have numbers are
    learned along the way. A transaction over temporary tables locks nothing.
    """
    one = {kind: Address("warm", kind) for kind in ("a", "b")}
    fakes = [("metric", "warm"), ("layer", "last"), ("reason", "why"), ("split", "a"), ("split", "b")]
    numbers = Terms({term: number for number, term in enumerate(fakes)})
    transaction = connection.begin()
    try:
        for table in (runs, attempts, epochs, measurements, undefined, task_accuracy):
            connection.exec_driver_sql(f"CREATE TEMP TABLE {table.name} AS SELECT * FROM main.{table.name} LIMIT 0")
        connection.exec_driver_sql(
            "INSERT INTO runs (pk, id, seed, status, attempt, seconds) VALUES (1, 'warm', 0, 'pending', 0, 0.0)"
        )
        claim(connection, ["warm"], Owner.current(), {}, 1.0, ["warm"])
        pk = hold(connection, "warm", 1, 1.0)
        for some in (["a"], ["a", "b"]):  # one row is another statement than several
            addresses = [one[kind] for kind in some]
            record = EpochRecord(
                len(some), 0, 1, 0, 0.0, 0.0, dict.fromkeys(addresses, 0.5), dict.fromkeys(addresses, "why"),
                dict.fromkeys(range(len(some)), 0.5),
            )  # fmt: skip
            insert_epochs(connection, numbers, [({"run": pk, "epoch": record.epoch}, record)])
        end_run(connection, pk, 1, "finished", None, 0.0)
        known.read(connection)
    finally:
        transaction.rollback()
