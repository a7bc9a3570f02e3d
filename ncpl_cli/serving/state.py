"""What the page shows, out of the store: read again only when the store has changed, curves only of runs that moved."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis.casualties import casualties, in_words, together, varying
from ncpl_cli.errors import InputError
from ncpl_cli.records import Address
from ncpl_cli.store import open_store, shown

Array = NDArray[np.float64]

SHORT = ("online_accuracy", "nc1")
MOST_SHORT = 24
"""Points of a curve in the table."""

MOST_RUNS = 200
MOST_POINTS, FEWEST_POINTS, ALL_POINTS = 160, 24, 12_000
"""Runs of the large figure; points of one of them: so many of all, within these ends."""

KEPT_SECONDS = 10.0
"""So long lines are kept of runs that have not moved."""

Line = dict[str, Any]
"""A run in the large figure: id, seed, epochs, values."""


class Reader:
    """A store that is read; safe to call from several threads."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._kept: dict[str, tuple[Any, dict[str, list[float | None]]]] = {}
        self._lines: dict[tuple[str, str], tuple[Any, Line]] = {}
        self._read_at = "", time.monotonic()
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
        with self._lock, open_store(self._url, readonly=True) as store:
            rows = [r for r in store.select(names=[name] if name else ()) if r.parent is None][-MOST_RUNS:]
            most = max(FEWEST_POINTS, min(MOST_POINTS, ALL_POINTS // max(1, len(rows))))
            as_of = {row.id: (row.epochs, row.status, row.attempt, most) for row in rows}
            moved = [run for run, key in as_of.items() if self._lines.get((metric, run), (None,))[0] != key]
            version, now = self._changed(), time.monotonic()
            if (version != self._read_at[0] and not moved) or now - self._read_at[1] > KEPT_SECONDS:
                self._lines.clear()  # something else was written: old epochs may have been measured anew
                moved = list(as_of)
                self._read_at = version, now
            if len(moved) == len(rows) and str(address) not in map(str, store.recorded(moved)):
                raise InputError(f"{metric} is not recorded in these runs.")
            found = store.series([address], moved) if moved else {}
        for row in rows:
            if row.id in moved:
                line = {"id": row.id, "seed": row.seed, "epochs": [], "values": []}
                if row.id in found:
                    line |= _thinned(found[row.id]["epoch"], found[row.id][str(address)], most)
                self._lines[metric, row.id] = as_of[row.id], line
        about = varying(rows)
        groups: dict[str, list[Line]] = {}
        for row in rows:
            line = self._lines[metric, row.id][1]
            if line["epochs"]:
                groups.setdefault(in_words(about[row.id]) or row.scenario, []).append(line)
        return {"metric": metric, "groups": [{"group": group, "runs": runs} for group, runs in groups.items()]}


def _thinned(epochs: Array, values: Array, most: int) -> Line:
    """At most so many of the points that have a value, evenly taken, the first and the last among them."""
    kept = np.isfinite(values)
    epochs, values = epochs[kept], values[kept]
    some = np.unique(np.linspace(0, len(epochs) - 1, min(len(epochs), most)).round().astype(int))
    return {"epochs": epochs[some].tolist(), "values": values[some].tolist()}


def _short(values: list[float | None]) -> list[float | None]:
    """At most MOST_SHORT points, evenly taken, the first and the last among them."""
    known = [value for value in values if value is not None]
    if len(known) <= MOST_SHORT:
        return list(known)
    return [known[round(i * (len(known) - 1) / (MOST_SHORT - 1))] for i in range(MOST_SHORT)]
