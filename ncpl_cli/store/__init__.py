"""The store: records in, frames out, over SQLite or PostgreSQL. It is also the queue."""

from __future__ import annotations

from ncpl_cli.store.owner import Owner
from ncpl_cli.store.recorder import Recorder, heartbeat
from ncpl_cli.store.store import RunRow, Store, not_repeated, open_store

__all__ = ["Owner", "Recorder", "RunRow", "Store", "heartbeat", "not_repeated", "open_store"]
