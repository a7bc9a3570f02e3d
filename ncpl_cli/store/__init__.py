"""The store: records in, frames out, over SQLite or PostgreSQL. It is also the queue."""

from __future__ import annotations

from ncpl_cli.store.connection import shown
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.queue import Overview, Queue, Unit, Working
from ncpl_cli.store.store import RunRow, Store, open_store

__all__ = ["Overview", "Owner", "Queue", "RunRow", "Store", "Unit", "Working", "open_store", "shown"]
