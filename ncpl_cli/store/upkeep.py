"""The store looks after itself: what is in it, and whether all of it makes sense."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from ncpl_cli.errors import InputError, told
from ncpl_cli.store.checks import gaps, missing_columns, orphans, row_faults, spoiled_probes, torn_pages
from ncpl_cli.store.connection import shown
from ncpl_cli.store.database import Database
from ncpl_cli.store.schema import epochs, measurements, runs, task_accuracy, undefined

_SELECT = 'ncpl db query "SELECT id, seed, status FROM runs"; the README lists tables and columns'
_READING = (sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, sqlite3.SQLITE_RECURSIVE)


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

    def query(self, sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
        """Columns and rows of one SELECT of one's own; raises InputError for what is wrong with it or would change."""
        with self.reading() as connection:
            raw: Any = connection.connection.driver_connection
            sqlite = connection.dialect.name == "sqlite"
            if sqlite:  # asked once for everything a statement would do
                raw.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in _READING else sqlite3.SQLITE_DENY)
            try:
                cursor = raw.execute(sql)
            except (sqlite3.Error, sqlite3.Warning) as error:
                if "not authorized" in str(error) or "prohibited" in str(error):
                    raise InputError("a query only reads: that statement would do something else.", _SELECT) from error
                raise InputError(f"the query cannot be run ({told(error)}).", _SELECT) from error
            except Exception as error:
                if not type(error).__module__.startswith("psycopg"):
                    raise
                raise InputError(f"the query cannot be run ({str(error).splitlines()[0]}).", _SELECT) from error
            finally:
                if sqlite:
                    raw.set_authorizer(None)
            if cursor.description is None:
                raise InputError("the query gives no rows.", _SELECT)
            return [str(column[0]) for column in cursor.description], list(cursor.fetchall())

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
