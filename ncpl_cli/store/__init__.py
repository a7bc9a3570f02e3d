"""The store: records in, frames out, over SQLite or PostgreSQL. It is also the queue."""

from __future__ import annotations

from ncpl_cli.store.connection import shown
from ncpl_cli.store.owner import Owner
from ncpl_cli.store.queue import Overview, Queue, Unit, Working
from ncpl_cli.store.recorder import Recorder, heartbeat
from ncpl_cli.store.store import RunRow, Store, not_repeated, open_store

__all__ = [
    "Overview", "Owner", "Queue", "Recorder", "RunRow", "Store", "Unit", "Working", "heartbeat", "not_repeated",
    "open_store", "shown",
]  # fmt: skip
