"""What can be wrong with a store: every row is read as the commands read it."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Collection, Iterator

import sqlalchemy as sa

from ncpl_cli import faults
from ncpl_cli.errors import StoreError, told
from ncpl_cli.store.leases import MAX_LEASE
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.run_row import BY_RECORDER, run_row, runs_query
from ncpl_cli.store.schema import HEAD, as_json, attempts, epochs, metadata, runs, sweeps, terms


def torn_pages(connection: sa.Connection) -> list[str]:
    """What SQLite itself finds in its file."""
    found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
    return [f"integrity: {line}" for line in found if line != "ok"]


def orphans(connection: sa.Connection) -> list[str]:
    """Rows whose parent is gone."""
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
    return sorted({f"foreign key: a row of {line[0]} has no {line[2]}" for line in broken})


def missing_columns(connection: sa.Connection, revision: str) -> list[str]:
    """Tables and columns that a store of this schema should have."""
    inspector = sa.inspect(connection)
    there = {name: {column["name"] for column in inspector.get_columns(name)} for name in inspector.get_table_names()}
    problems = []
    for table in metadata.sorted_tables:
        if table.name not in there:
            if revision == HEAD:
                problems.append(f"there is no table {table.name}")
        elif missing := [column.name for column in table.c if column.name not in there[table.name]]:
            problems.append(f"table {table.name} has no column {', '.join(missing)}")
    return problems


def row_faults(connection: sa.Connection) -> Iterator[str]:
    """Runs, attempts, sweeps and names that a command would stumble on."""
    ids = set(connection.execute(sa.select(runs.c.id)).scalars())
    for row in connection.execute(runs_query()).mappings():
        try:
            found = run_row(row)
        except StoreError as error:
            yield str(error).rstrip(".")
            continue
        if found.parent is not None and found.parent not in ids:
            yield f"run {found.id} is a probe of {found.parent}, which is not in the store"
        if found.status == "running" and (found.owner is None or found.lease_expires is None):
            yield f"run {found.id} is running, but nobody holds it"
        elif found.status == "running" and (found.lease_expires or 0) > time.time() + MAX_LEASE:
            yield f"run {found.id} has a lease that no ncpl gives (ncpl runs release {found.id} --force ends it)"
    query = sa.select(runs.c.id, attempts.c.attempt, attempts.c.owner, attempts.c.provenance)
    for run, attempt, owner, provenance in connection.execute(query.join(runs, runs.c.pk == attempts.c.run)):
        try:
            Owner.read(owner)
            if not isinstance(json.loads(provenance), dict):
                raise ValueError("its provenance is no table")
        except (ValueError, TypeError, RecursionError) as error:
            yield f"attempt {attempt} of run {run} cannot be read ({told(error)})"
    if sa.inspect(connection).has_table(sweeps.name):
        for name, settings in connection.execute(sa.select(sweeps.c.name, sweeps.c.settings)):
            try:
                json.loads(settings)
            except (ValueError, RecursionError) as error:
                yield f"sweep {name} has settings that cannot be read ({told(error)})"
    for kind, text in connection.execute(sa.select(terms.c.kind, terms.c.text)):
        if kind not in ("metric", "split", "layer", "reason") or not text:
            yield f"the name {text!r} is of an unknown kind {kind!r}"


def gaps(connection: sa.Connection) -> Iterator[str]:
    """Epochs that should be there: ncpl's own runs have all from their first to their last."""
    query = (
        sa.select(runs.c.id, sa.func.min(epochs.c.epoch), sa.func.max(epochs.c.epoch), sa.func.count())
        .join(epochs, epochs.c.run == runs.c.pk)
        .where(sa.not_(runs.c.settings.contains('"imported":true')), runs.c.recorded != as_json(BY_RECORDER))
        .group_by(runs.c.id)
    )
    for run, first, last, count in connection.execute(query):
        if first < 0:
            yield f"run {run} has an epoch {first}"
        if count != last - first + 1:
            yield f"run {run} has {count} of its epochs {first} to {last}"


def spoiled_probes(connection: sa.Connection, parents: Collection[str] | None = None) -> Iterator[str]:
    """Runs (among `parents`) whose probes a fault of an earlier ncpl left untreated."""
    columns = (runs.c.id, runs.c.parent, runs.c.branch_epoch, runs.c.cohort, runs.c.settings, runs.c.recorded)
    tried = sa.select(runs.c.id, attempts.c.provenance).join(runs, runs.c.pk == attempts.c.run)
    rows = connection.execute(sa.select(*columns).where(runs.c.parent.is_not(None))).mappings().all()
    branches = {row["id"]: int(row["branch_epoch"] or 0) for row in rows}
    versions: dict[str, list[str]] = {}
    spoiled: Counter[str] = Counter()
    try:
        for run, facts in connection.execute(tried.where(runs.c.parent.is_not(None))):
            versions.setdefault(run, []).append(str(json.loads(facts).get("ncpl", "0")))
        for row in rows:
            of = [branches.get(run, 0) for run in json.loads(row["cohort"] or "[]")]
            labels, recorded = json.loads(row["settings"]).get("interventions", []), json.loads(row["recorded"])
            if faults.wrongly_treated(labels, of, branches[row["id"]], versions.get(row["id"], []), recorded):
                spoiled[row["parent"]] += 1
    except (ValueError, TypeError, AttributeError, RecursionError):
        return  # what cannot be read is a fault of its own
    for parent, probes in sorted(spoiled.items()):
        if parents is None or parent in parents:
            yield faults.sentence(parent, probes)
