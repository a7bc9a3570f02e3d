"""Wide SQL views, for people who open the store in other tools.

epochs_of_runs  every epoch with its run's id, scenario, seed and status
wide            one row per run, epoch, split and layer, a column per metric stored in long rows
"""

from __future__ import annotations

import sqlalchemy as sa

from ncpl_cli.store.schema import WIDE, terms


def make_views(connection: sa.Connection) -> None:
    """Make the views anew; to be called when a metric appears for the first time."""
    quote = connection.dialect.identifier_preparer.quote_identifier
    kinds = connection.execute(sa.select(terms.c.id, terms.c.text).where(terms.c.kind == "metric").order_by(terms.c.id))
    columns = "".join(
        f", max(CASE WHEN m.metric = {number} THEN m.value END) AS {quote(name)}" for number, name in kinds
    )
    for name in ("wide", "epochs_of_runs"):
        connection.exec_driver_sql(f"DROP VIEW IF EXISTS {name}")
    connection.exec_driver_sql(
        "CREATE VIEW epochs_of_runs AS SELECT r.id AS run, r.scenario, r.seed, r.status, e.epoch, e.task, "
        "e.task_epoch, e.samples_seen, e.seconds, e.measure_seconds, "
        + ", ".join(f"e.{name}" for name in WIDE)
        + " FROM epochs e JOIN runs r ON r.pk = e.run"
    )
    connection.exec_driver_sql(
        "CREATE VIEW wide AS SELECT r.id AS run, r.scenario, r.seed, m.epoch, s.text AS split, l.text AS layer"
        f"{columns} FROM measurements m JOIN runs r ON r.pk = m.run JOIN terms s ON s.id = m.split "
        "JOIN terms l ON l.id = m.layer "
        "GROUP BY r.id, r.scenario, r.seed, m.epoch, s.text, l.text"
    )
