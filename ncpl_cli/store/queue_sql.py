"""The queue's statements: which units of a sweep are free, and whose they are."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import unknown
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.schema import epochs, members, runs, sweeps, units


def sweep_row(connection: sa.Connection, name: str) -> Any:
    row = connection.execute(sa.select(sweeps).where(sweeps.c.name == name)).mappings().first()
    if row is None:
        raise unknown("sweep", name, connection.execute(sa.select(sweeps.c.name)).scalars())
    return row


def most_attempts(sweep: Any) -> int:
    return int(sweep["max_attempts"])


def runs_of(sweep: Any) -> sa.Select[Any]:
    """The runs of a sweep with their units."""
    columns = (runs.c.pk, runs.c.id, runs.c.seed, runs.c.status, runs.c.owner, runs.c.lease_expires, runs.c.parent,
               runs.c.total_epochs, runs.c.seconds, runs.c.error)  # fmt: skip
    of_unit = (members.c.unit, units.c.tries, units.c.error.label("unit_error"))
    both = (units.c.sweep == members.c.sweep) & (units.c.number == members.c.unit)
    joined = members.join(runs, runs.c.pk == members.c.run).join(units, both)
    return sa.select(*columns, *of_unit).select_from(joined).where(members.c.sweep == sweep["pk"])


def to_retry(sweep: Any) -> sa.ColumnElement[bool]:
    return (runs.c.status == "failed") & (units.c.tries < most_attempts(sweep))


def orphan_of(connection: sa.Connection, sweep: Any) -> int | None:
    """A unit whose lease still runs but whose owner has died on this host."""
    if sweep["cancelled"]:
        return None
    query = runs_of(sweep).where(runs.c.status == "running").order_by(members.c.unit)
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


NEXT = _free().where(members.c.unit >= sa.bindparam("start"), units.c.tries < 2).order_by(members.c.unit)
# what has lost its workers more than once waits until the others are done: it may be what kills them
LUCKLESS = _free().where(units.c.tries >= 2).order_by(units.c.tries, members.c.unit)
UNIT = (
    sa.select(
        runs.c.id, runs.c.status, units.c.sweep, units.c.engine, units.c.tries, units.c.reached, sweeps.c.max_attempts,
        units.c.error.label("unit_error"),
        sa.select(sa.func.max(epochs.c.epoch)).where(epochs.c.run == runs.c.pk).scalar_subquery().label("last"),
    )
    .select_from(_joined())
    .where(sweeps.c.name == sa.bindparam("name"), units.c.number == sa.bindparam("number"))
    .order_by(members.c.place)
)  # fmt: skip
COUNT = units.update().where(units.c.sweep == sa.bindparam("key"), units.c.number == sa.bindparam("unit")).values(
    tries=sa.bindparam("tries_"), reached=sa.bindparam("reached_"), error=sa.bindparam("error_")
)  # fmt: skip
