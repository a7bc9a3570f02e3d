"""The store looks after itself: what is in it, and whether all of it makes sense."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from ncpl_cli.store.checks import gaps, missing_columns, orphans, row_faults, spoiled_probes, torn_pages
from ncpl_cli.store.connection import shown
from ncpl_cli.store.database import Database
from ncpl_cli.store.schema import epochs, measurements, runs, task_accuracy, undefined


class Upkeep(Database):
    """What concerns the store as a whole."""

    def info(self) -> dict[str, Any]:
        """Where the store lies, how large it is, and what is in it."""
        path = self.file.path if self.file is not None else None
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
            "store": shown(self.url), "database": database, "schema": self.revision,
            "bytes": path.stat().st_size if path else None,
            "wal_bytes": wal.stat().st_size if wal and wal.exists() else 0 if path else None,
            "checkpoints": str(self.checkpoints), "runs": status, "rows": counts,
        }  # fmt: skip

    def check(self) -> list[str]:
        """What is wrong with the store, in sentences; empty when nothing is."""
        with self.reading() as connection:
            sqlite = connection.dialect.name == "sqlite"
            if sqlite and (torn := torn_pages(connection)):
                return torn  # rows of a broken file cannot be told from broken rows
            lost = orphans(connection) if sqlite else []
            if missing := missing_columns(connection, self.revision):
                return lost + missing
            return [*lost, *row_faults(connection), *gaps(connection), *spoiled_probes(connection)]

    def spoiled(self, parents: Collection[str]) -> list[str]:
        """Which of these runs carry numbers that a fault of an earlier ncpl spoiled, in sentences."""
        with self.reading() as connection:
            return list(spoiled_probes(connection, parents))
