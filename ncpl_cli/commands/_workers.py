"""How a sweep stands, on stderr: a live table of its workers at a terminal, one line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import quiet
from ncpl_cli.commands._progress import LINE_SECONDS, MOST_ROWS, Drawn
from ncpl_cli.commands._table import duration
from ncpl_cli.values import count

if TYPE_CHECKING:
    from ncpl_cli.store import Overview


class Workers(Drawn):
    """A watcher of a sweep (sweep.Watcher) that draws it; a context manager."""

    per_second = 2

    def __init__(self) -> None:
        super().__init__()
        self._shown: tuple[Overview, int] | None = None

    def update(self, overview: Overview, workers: int) -> None:
        """How it stands now."""
        self._shown = overview, workers
        if not self._live and not quiet() and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            _common.aside(f"{progress(overview)}; {count(workers, 'worker')}")

    def _table(self) -> Table:
        elapsed = f"elapsed {duration(time.monotonic() - self._began)}"
        if self._shown is None:
            return Table(caption=elapsed, box=None)
        overview, workers = self._shown
        table = Table("worker", "runs", "seeds", "epoch", "epochs/s", caption=f"{progress(overview)}; {elapsed}",
                      box=None)  # fmt: skip
        for row in working(overview)[:MOST_ROWS]:
            table.add_row(*(str(cell) for cell in row))
        idle = workers - len(overview.working)
        if idle > 0:
            table.add_row("…", f"{idle} start or wait")
        return table


def working(overview: Overview) -> list[tuple[str, str, str, str, str]]:
    """Who works on what: worker, runs, seeds, epoch of how many, epochs a second."""
    rows = []
    for one in overview.working:
        runs = one.runs[0] + (f" +{len(one.runs) - 1}" if len(one.runs) > 1 else "")
        seeds = ",".join(map(str, one.seeds[:6])) + (",…" if len(one.seeds) > 6 else "")
        total = f"/{one.total_epochs}" if one.total_epochs else ""
        pace = f"{one.epoch * len(one.runs) / one.seconds:.3g}" if one.seconds else ""
        rows.append((f"{one.owner.host}:{one.owner.pid}", runs, seeds, f"{one.epoch}{total}", pace))
    return rows


def progress(overview: Overview) -> str:
    """One line: `12/25 runs finished, 1 failed, 4 running; 1680/3500 epochs, 98 epochs/s, ETA 18s`."""
    parts = [f"{overview.runs.get('finished', 0)}/{sum(overview.runs.values())} runs finished"]
    parts += [f"{n} {status}" for status in ("failed", "diverged", "running") if (n := overview.runs.get(status))]
    if overview.probes:
        parts.append(f"{_ended(overview.probes)}/{sum(overview.probes.values())} probes ended")
    epochs = f"{overview.epochs}" + (f"/{overview.total_epochs}" if overview.total_epochs else "") + " epochs"
    if overview.pace:
        epochs += f", {overview.pace:.3g} epochs/s"
    if overview.units_left:
        epochs += f", ETA {duration(overview.seconds_left) if overview.seconds_left is not None else '?'}"
    return f"{', '.join(parts)}; {epochs}"


def _ended(counts: Mapping[str, int]) -> int:
    return sum(counts.get(status, 0) for status in ("finished", "failed", "diverged"))
