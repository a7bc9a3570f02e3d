"""The store looks after itself: what is in it, and whether all of it makes sense."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from ncpl_cli.store import schema
from ncpl_cli.store.connection import shown, sqlite_path
from ncpl_cli.store.database import Database
from ncpl_cli.store.run_row import BY_RECORDER
from ncpl_cli.store.schema import as_json, epochs, measurements, runs, task_accuracy, undefined


class Upkeep(Database):
    """What concerns the store as a whole."""

    def info(self) -> dict[str, Any]:
        """Where the store lies, how large it is, and what is in it."""
        path = sqlite_path(self.url)
        with self.reading() as connection:
            by_status = connection.execute(sa.select(runs.c.status, sa.func.count()).group_by(runs.c.status))
            status = {name: int(count) for name, count in by_status}
            counts = {
                table.name: int(connection.execute(sa.select(sa.func.count()).select_from(table)).scalar() or 0)
                for table in (runs, epochs, measurements, undefined, task_accuracy)
            }
            database = connection.dialect.name
        wal = path.with_name(path.name + "-wal") if path else None
        return {
            "store": shown(self.url), "database": database, "schema": schema.HEAD,
            "bytes": path.stat().st_size if path else None,
            "wal_bytes": wal.stat().st_size if wal and wal.exists() else 0 if path else None,
            "checkpoints": str(self.checkpoints), "runs": status, "rows": counts,
        }  # fmt: skip

    def check(self) -> list[str]:
        """What is wrong with the store, in sentences; empty when nothing is."""
        problems = []
        with self.reading() as connection:
            if connection.dialect.name == "sqlite":
                found = connection.exec_driver_sql("PRAGMA integrity_check").scalars().all()
                problems += [f"integrity: {line}" for line in found if line != "ok"]
                broken = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
                problems += [f"foreign key: a row of {line[0]} has no {line[2]}" for line in broken]
            query = (
                sa.select(runs.c.id, sa.func.min(epochs.c.epoch), sa.func.max(epochs.c.epoch), sa.func.count())
                .join(epochs, epochs.c.run == runs.c.pk)
                .where(sa.not_(runs.c.settings.contains('"imported":true')), runs.c.recorded != as_json(BY_RECORDER))
                .group_by(runs.c.id)
            )
            for run, first, last, count in connection.execute(query):
                if count != last - first + 1:
                    problems.append(f"run {run} has {count} of its epochs {first} to {last}")
        return problems
