"""The store: records in, frames out, over SQLite or PostgreSQL. It is also the queue."""

from __future__ import annotations

from ncpl_cli.store.connection import shown
from ncpl_cli.store.heartbeat import heartbeat
from ncpl_cli.store.overview import Overview, Working
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.queue import Queue, Unit
from ncpl_cli.store.recorder import Recorder
from ncpl_cli.store.run_row import RunRow, checked_id
from ncpl_cli.store.store import Store, open_store
from ncpl_cli.store.writing import not_repeated

__all__ = [
    "Overview", "Owner", "Queue", "Recorder", "RunRow", "Store", "Unit", "Working", "checked_id", "heartbeat",
    "not_repeated", "open_store", "shown",
]  # fmt: skip
