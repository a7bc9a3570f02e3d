"""Who may write to a run: leases, and the fence that refuses what an older attempt still writes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import sqlalchemy as sa

from ncpl_cli.errors import InputError, LeaseLost, StoreError
from ncpl_cli.store import schema
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.run_row import LAST_MOMENT, owner_of
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


MAX_LEASE = 86_400.0
"""No lease lasts longer: one that ends later was written by a clock that is wrong."""


def checked_lease(seconds: float) -> float:
    """How long a run is to be held; raises InputError for what would hold it never or for good."""
    if not 0 < seconds <= MAX_LEASE:
        raise InputError(f"a lease of {seconds} s is not possible.", f"allowed: more than 0, up to {MAX_LEASE:.0f} s")
    return float(seconds)


def held_by(run: str, owner: Owner, expires: float) -> tuple[str, str]:
    """Who holds a run and until when, as a sentence, and what can be done."""
    left = expires - time.time()
    said = f"run {run} is being trained by process {owner.pid} on {owner.host}"
    if left > MAX_LEASE:
        said += f", until {datetime.fromtimestamp(min(expires, LAST_MOMENT - 1), UTC):%Y-%m-%d}: its clock was wrong"
        return f"{said}.", f"where that process is lost: ncpl runs release {run} --force"
    return f"{said}.", (
        f"wait for it (ncpl runs list shows it), or stop that process; its lease then ends by itself in {left:.0f} s; "
        f"where that host is lost: ncpl runs release {run} --force"
    )


def claim(
    connection: sa.Connection, ids: Sequence[str], owner: Owner, provenance: Mapping[str, object],
    lease: float, cohort: Sequence[str],
) -> dict[str, int]:  # fmt: skip
    """Take runs over, all or none; see `Writing.claim`."""
    now, claimed, pks, lease = time.time(), {}, {}, checked_lease(lease)
    rows = {row["id"]: row for row in connection.execute(TO_CLAIM, {"ids": list(ids)}).mappings()}
    for run in ids:
        if (row := rows.get(run)) is None:
            raise StoreError(f"run {run} is no longer in the store.")
        holder = owner_of(row)
        if row["status"] == "running" and holder and now < (row["lease_expires"] or 0) and not holder.dead:
            raise LeaseLost(*held_by(run, holder, row["lease_expires"]))
        claimed[run], pks[run] = row["attempt"] + 1, row["pk"]
    common = {"new_owner": str(owner), "expires": now + lease, "now": now, "together": as_json(list(cohort))}
    each = [{"key": pks[run], "next": attempt, **common} for run, attempt in claimed.items()]
    connection.execute(_CLAIM, each)
    if before := [{"key": pks[run]} for run, attempt in claimed.items() if attempt > 1]:
        connection.execute(_LOSE, before)
    tried = {"owner": str(owner), "provenance": as_json(provenance), "started": now}
    connection.execute(attempts.insert(), [{"run": pks[r], "attempt": n, **tried} for r, n in claimed.items()])
    return claimed


def break_lease(connection: sa.Connection, pk: int, attempt: int) -> None:
    """Take a run away from whoever holds it: it is interrupted, and what that process still writes is refused."""
    now = time.time()
    free = {"status": "interrupted", "owner": None, "lease_expires": None, "updated": now}
    connection.execute(runs.update().where(runs.c.pk == pk).values(free))
    end_attempt(connection, pk, attempt, "released", now)


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
