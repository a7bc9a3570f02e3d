"""What the page shows, out of the store: read again only when the store has changed, curves only of runs that moved."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

from ncpl_cli.analysis.casualties import casualties, in_words, together, varying
from ncpl_cli.errors import InputError
from ncpl_cli.records import Address
from ncpl_cli.store import open_store, shown

SHORT = ("online_accuracy", "nc1")
MOST_SHORT = 24
"""Points of a curve in the table."""

MOST_POINTS = 160
MOST_RUNS = 200
"""Points and runs of the large figure."""


class Reader:
    """A store that is read; safe to call from several threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Any, dict[str, list[float | None]]]] = {}
        self._version, self._state = "", dict[str, Any]()

    def state(self, since: str | None = None) -> dict[str, Any] | None:
        """Everything the page's tables need; None where nothing has changed since that version."""
        with self._lock:
            version = self._changed()
            if version != self._version or not self._state:
                self._state = self._read() | {"version": version}
                self._version = version
            return None if since == self._version else self._state

    def _changed(self) -> str:
        """A text that changes when the store does: of a file its time and size, of a server the second."""
        path = self._url.removeprefix("sqlite:///")
        if "://" in path:
            return str(int(time.time()))
        parts = []
        for name in (path, f"{path}-wal"):
            try:
                found = Path(name).stat()
                parts.append(f"{found.st_mtime_ns}-{found.st_size}")
            except OSError:
                parts.append("-")
        return ".".join(parts)

    def _read(self) -> dict[str, Any]:
        with open_store(self._url, readonly=True) as store:
            rows = store.runs()
            about = varying(rows)
            parents = [row for row in rows if row.parent is None]
            moved = [row for row in parents if self._kept.get(row.id, (None,))[0] != (row.epochs, row.status)]
            fresh = store.curves([row.id for row in moved], list(SHORT))
            metrics = [str(address) for address in store.recorded([row.id for row in parents[-MOST_RUNS:]])]
        for row in moved:
            curves = {name: _short(values) for name, values in fresh[row.id].items()}
            self._kept[row.id] = ((row.epochs, row.status), curves)
        counts: dict[str, int] = {}
        for row in parents:
            status = "interrupted" if row.status == "running" and not row.held else row.status
            counts[status] = counts.get(status, 0) + 1
        return {
            "store": shown(self._url),
            "counts": counts,
            "labels": list(dict.fromkeys(name for row in reversed(parents) for name in row.names)),
            "metrics": metrics,
            "failures": together(casualties(parents)),
            "runs": [
                {
                    "id": row.id, "scenario": row.scenario, "seed": row.seed, "names": list(row.names),
                    "status": "interrupted" if row.status == "running" and not row.held else row.status,
                    "epochs": row.epochs, "total": row.total_epochs, "seconds": row.seconds,
                    "settings": in_words(about[row.id]), "curves": self._kept[row.id][1],
                }
                for row in reversed(parents)
            ],
        }  # fmt: skip

    def curves(self, metric: str, name: str | None) -> dict[str, Any]:
        """A metric of the runs of a label, by group: [{group, runs: [{id, seed, epochs, values}]}]."""
        address = Address.parse(metric)
        with open_store(self._url, readonly=True) as store:
            rows = [r for r in store.select(names=[name] if name else ()) if r.parent is None][-MOST_RUNS:]
            if str(address) not in map(str, store.recorded([row.id for row in rows])):
                raise InputError(f"{metric} is not recorded in these runs.")
            found = store.series([address], [row.id for row in rows])
        about = varying(rows)
        groups: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row.id in found:
                epochs, values = found[row.id]["epoch"], found[row.id][str(address)]
                kept = np.isfinite(values)
                epochs, values = epochs[kept], values[kept]
                some = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), MOST_POINTS)).round().astype(int))
                line = {
                    "id": row.id,
                    "seed": row.seed,
                    "epochs": epochs[some].tolist(),
                    "values": values[some].tolist(),
                }
                groups.setdefault(in_words(about[row.id]) or row.scenario, []).append(line)
        return {"metric": metric, "groups": [{"group": group, "runs": runs} for group, runs in groups.items()]}


def _short(values: list[float | None]) -> list[float | None]:
    """At most MOST_SHORT points, evenly taken, the first and the last among them."""
    known = [value for value in values if value is not None]
    if len(known) <= MOST_SHORT:
        return list(known)
    return [known[round(i * (len(known) - 1) / (MOST_SHORT - 1))] for i in range(MOST_SHORT)]
