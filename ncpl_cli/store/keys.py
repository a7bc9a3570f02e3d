"""What people call a run: its id, a label of it, or the beginning of its id; and how they choose some."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ncpl_cli.errors import InputError, unknown
from ncpl_cli.store.run_row import by_id
from ncpl_cli.store.schema import STATUSES, labels, runs

SHOWN = 20
"""How many names an error lists."""


def meant(connection: sa.Connection, key: str) -> tuple[int, str]:
    """The one run (pk, id) that a key means. The first of these that fits any run decides:

    its id, a label, the beginning of its id; to the letter, without wildcards.
    """
    of_label = runs.c.pk.in_(sa.select(labels.c.run).where(labels.c.name == key))
    begins = sa.func.substr(runs.c.id, 1, len(key)) == key
    for kind, condition in (("id", runs.c.id == key), ("label", of_label), ("beginning", begins)):
        found = connection.execute(sa.select(runs.c.pk, runs.c.id).where(condition).order_by(runs.c.pk)).all()
        if len(found) == 1 and key:
            return int(found[0][0]), str(found[0][1])
        if found and key:
            some = ", ".join(str(run) for _, run in found[:SHOWN]) + (", ..." if len(found) > SHOWN else "")
            said = f"{key!r} is a label of" if kind == "label" else f"{key!r} begins the ids of"
            raise InputError(f"{said} {len(found)} runs.", f"name one of them: {some}")
    ids = connection.execute(sa.select(runs.c.id).order_by(runs.c.pk.desc()).limit(1000)).scalars().all()
    names = connection.execute(sa.select(labels.c.name).distinct().limit(1000)).scalars().all()
    raise unknown("run", key, [*ids, *names], shown=SHOWN)


def all_meant(connection: sa.Connection, keys: Sequence[str]) -> set[int]:
    """The runs (pk) that keys mean, each its own one."""
    exact = {str(row["id"]): int(row["pk"]) for row in by_id(connection, (runs.c.id, runs.c.pk), list(keys))}
    return {exact[key] if key in exact else meant(connection, key)[0] for key in keys}


def check_filters(connection: sa.Connection, scenario: str | None, names: Sequence[str], status: str | None) -> None:
    """Refuse a scenario or label that no run has, and a status that none can have."""
    if status is not None and status not in STATUSES:
        raise unknown("status", status, STATUSES)
    if scenario is not None:
        there = connection.execute(sa.select(runs.c.scenario).distinct()).scalars().all()
        if scenario not in there:
            raise unknown("scenario of this store", scenario, there)
    if names:
        known = set(connection.execute(sa.select(labels.c.name).distinct()).scalars())
        for name in names:
            if name not in known:
                raise unknown("label", name, known, shown=SHOWN)
