"""Which metrics some runs have a value of, in any of their epochs."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from ncpl_cli.records import Address
from ncpl_cli.store.schema import WIDE, epochs, measurements, runs, terms


def recorded_addresses(connection: sa.Connection, ids: Sequence[str]) -> list[Address]:
    """Every address with a value, those with a column of their own first."""
    metric, split, layer = (terms.alias() for _ in range(3))
    these = sa.select(runs.c.pk).where(runs.c.id.in_(ids))
    wide = sa.select(*(sa.func.count(epochs.c[name]) for name in WIDE)).where(epochs.c.run.in_(these))
    m = measurements.c
    places = sa.select(m.metric, m.split, m.layer).where(m.run.in_(these)).distinct().subquery()
    long = (
        sa.select(metric.c.text, split.c.text, layer.c.text)
        .select_from(places)
        .join(metric, metric.c.id == places.c.metric)
        .join(split, split.c.id == places.c.split)
        .join(layer, layer.c.id == places.c.layer)
    )
    counts = connection.execute(wide).one()
    found = [Address(name) for name, count in zip(WIDE, counts, strict=True) if count]
    return found + sorted(Address(*row) for row in connection.execute(long))
