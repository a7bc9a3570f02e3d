"""Progress on stderr: a live table of runs at a terminal, one line every few seconds elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from ncpl_cli.commands import _common
from ncpl_cli.commands._common import quiet
from ncpl_cli.commands._table import duration, sparkline
from ncpl_cli.records import EpochRecord
from ncpl_cli.streams import visible
from ncpl_cli.values import count

LINE_SECONDS = 5.0
TOGETHER_SECONDS = 0.05
"""Epochs heard of within so long of the first ones were stored with them: no rate follows from those."""
MOST_ROWS = 12
SHOWN = {"online_accuracy": "online", "nc1": "nc1", "plasticity_loss": "plasticity loss"}
CURVES = {"online_accuracy": "online", "nc1": "nc1"}
"""What a run shows of itself while it trains: the last value, and all of them as a few bars."""
ENDED = ("finished", "diverged", "failed")


@dataclass
class _Run:
    seed: int
    done: int
    total: int
    exact: bool
    began: int
    record: EpochRecord | None = None
    status: str = "waiting"
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=32))
    curves: dict[str, list[float | None]] = field(default_factory=lambda: {name: [] for name in CURVES})


class Drawn:
    """What is drawn on stderr while it is open, at a terminal as a live table; a context manager."""

    per_second: ClassVar[int] = 4

    def __init__(self) -> None:
        self._console = Console(stderr=True, markup=False, emoji=False, highlight=False)
        self._live: Live | None = None
        self._last_line = self._began = time.monotonic()

    def __enter__(self) -> Self:
        if not quiet() and self._console.is_terminal and not self._console.is_dumb_terminal:
            self._live = Live(console=self._console, refresh_per_second=self.per_second, get_renderable=self._table)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a line above the table."""
        if self._live:
            self._live.console.print(visible(text))
        elif not quiet():
            _common.aside(text)

    def _table(self) -> Table:
        raise NotImplementedError


class Progress(Drawn):
    """An observer of runs (runs.Observer) that draws them; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self._runs: dict[str, _Run] = {}
        self._stage: list[_Run] = []
        self._expected = self._then = self._next = 0
        self._first: tuple[float, int] | None = None

    def follow(self, probes: int) -> None:
        """So many probes follow the next stage."""
        self._next = probes

    def expect(self, runs: int) -> None:
        """A stage of so many runs begins."""
        self._stage, self._expected, self._first = [], runs, None
        self._then, self._next = self._next, 0

    def begin(self, run: str, seed: int, done: int, total: int, exact: bool) -> None:
        """A run starts or goes on."""
        self._runs[run] = _Run(seed, done, total, exact, done)
        self._stage.append(self._runs[run])

    def epoch(self, run: str, record: EpochRecord) -> None:
        """A run has finished an epoch."""
        row = self._runs[run]
        row.record, row.done, row.status = record, record.epoch, "running"
        now = time.monotonic()
        row.recent.append((now, record.samples_seen))
        if self._first is None or now - self._first[0] < TOGETHER_SECONDS:
            self._first = now, self._done
        for name, seen in row.curves.items():
            seen.append(record.get(name))
        if not self._live and not quiet() and time.monotonic() - self._last_line >= LINE_SECONDS:
            self._last_line = time.monotonic()
            _common.aside(self._line(run))

    def end(self, run: str, status: str) -> None:
        """A run has ended."""
        self._runs[run].status = status

    def _eta(self) -> str:
        """Time left of this stage at its rate since its first epoch, which programs are loaded and compiled in.

        Runs of unknown length are taken to be as long as others.

        Probes train on other data and end when they fit: before the first of them nobody knows how long they take.
        """
        rows = self._stage
        after = f", then {count(self._then, 'probe')}" if self._then else ""
        if self._first is None or self._done == self._first[1]:
            return f"?{after}"
        ended = [row.done for row in rows if row.status in ENDED]
        usual = sum(ended) / len(ended) if ended else None
        left = waiting = 0.0
        for row in rows:
            if row.status not in ENDED:
                whole = row.total if row.exact or usual is None else min(usual, row.total)
                left += max(whole - row.done, 0)
            waiting += row.done if row.status in ENDED else row.total if row.exact or usual is None else usual
        left += waiting / len(rows) * max(self._expected - len(rows), 0)
        bound = "at most " if usual is None and not all(row.exact for row in rows) else ""
        since, before = self._first
        return bound + duration(left * (time.monotonic() - since) / (self._done - before)) + after

    @property
    def _done(self) -> int:
        """Epochs of this stage so far."""
        return sum(row.done - row.began for row in self._stage)

    def _line(self, run: str) -> str:
        row = self._runs[run]
        record = row.record
        assert record is not None
        done = sum(r.done for r in self._stage)
        ended = sum(r.status in ENDED for r in self._stage)
        runs = f"{ended} of {count(self._expected, 'run')} done"
        return (
            f"{runs}, {count(done, 'epoch')}, ETA {self._eta()}; seed {row.seed}: "
            f"task {record.task} epoch {record.epoch} "
            + "".join(f"{text} {v:.4f} " for name, text in SHOWN.items() if (v := record.get(name)) is not None)
            + rate(row)
        )

    def _table(self) -> Table:
        """The runs, of widths that stay: what a column will need at most is known from the start."""
        epochs = sum(row.done for row in self._runs.values())
        bound = "" if all(row.exact for row in self._runs.values()) else "at most "
        total = sum(row.total for row in self._runs.values())
        ended = sum(row.status in ENDED for row in self._runs.values())
        waiting = max(self._expected - len(self._stage), 0)
        table = Table(
            box=None, padding=(0, 2, 0, 0), pad_edge=False, caption_justify="left",
            caption=f"{ended}/{len(self._runs) + waiting} runs, {epochs}/{bound}{total} epochs, "
            f"elapsed {duration(time.monotonic() - self._began)}, ETA {self._eta()}",
        )  # fmt: skip
        table.add_column("run", min_width=12, no_wrap=True)
        table.add_column("seed", min_width=4, justify="right")
        longest = max((len(f"{row.total}") for row in self._runs.values()), default=1)
        table.add_column("epoch", min_width=max(5, 2 * longest + 1), justify="right")
        for title in CURVES.values():
            table.add_column(title, min_width=6, justify="right")
            table.add_column("", min_width=8)
        table.add_column("", min_width=9, justify="right")
        rows = sorted(self._runs.items(), key=lambda item: (item[1].status in ENDED, item[1].done))
        for run, row in rows[:MOST_ROWS]:
            curves = [text for seen in row.curves.values() for text in (number(seen[-1:]), sparkline(seen))]
            state = rate(row) if row.status == "running" else row.status
            table.add_row(run, str(row.seed), f"{row.done}/{row.total}", *curves, state)
        if len(rows) > MOST_ROWS:
            table.add_row(f"{len(rows) - MOST_ROWS} more", "", "", *[""] * (2 * len(CURVES)), "")
        return table


def number(values: Sequence[float | None]) -> str:
    """The last value with four decimals, of large ones with four digits; a dash where there is none."""
    value = values[-1] if values else None
    return "–" if value is None else f"{value:.4f}" if abs(value) < 10 else f"{value:.4g}"


def rate(row: _Run) -> str:
    """Samples a second over the last epochs."""
    if len(row.recent) < 2 or row.recent[-1][0] == row.recent[0][0]:
        return ""
    (t0, n0), (t1, n1) = row.recent[0], row.recent[-1]
    return f"{(n1 - n0) / (t1 - t0):,.0f}/s"
