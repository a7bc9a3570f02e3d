"""Who may write to a run: leases, and the fence that refuses what an older attempt still writes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from ncpl_cli.errors import LeaseLost, StoreError
from ncpl_cli.store import schema
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.schema import as_json, attempts, runs

LEASE_SECONDS = 30.0
"""For how long a claim, and each write after it, holds a run."""

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


def claim(
    connection: sa.Connection, ids: Sequence[str], owner: Owner, provenance: Mapping[str, object],
    lease: float, cohort: Sequence[str],
) -> dict[str, int]:  # fmt: skip
    """Take runs over, all or none; see `Writing.claim`."""
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
    common = {"new_owner": str(owner), "expires": now + lease, "now": now, "together": as_json(list(cohort))}
    each = [{"key": pks[run], "next": attempt, **common} for run, attempt in claimed.items()]
    connection.execute(_CLAIM, each)
    if before := [{"key": pks[run]} for run, attempt in claimed.items() if attempt > 1]:
        connection.execute(_LOSE, before)
    tried = {"owner": str(owner), "provenance": as_json(provenance), "started": now}
    connection.execute(attempts.insert(), [{"run": pks[r], "attempt": n, **tried} for r, n in claimed.items()])
    return claimed


def hold(connection: sa.Connection, run: str, attempt: int, lease: float, seconds: float = 0.0) -> int:
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


def end_attempt(connection: sa.Connection, pk: int, attempt: int, outcome: str, now: float) -> None:
    connection.execute(
        attempts.update().where(attempts.c.run == pk, attempts.c.attempt == attempt).values(ended=now, outcome=outcome)
    )
