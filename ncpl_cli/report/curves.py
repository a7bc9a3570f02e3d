"""Series over tasks or epochs, summarised over runs: first the frame, then the drawing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import Series
from ncpl_cli.report import lines
from ncpl_cli.report.blocks import Figure, Table
from ncpl_cli.report.material import Material, Part

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MOST_PANELS = 8

MOST_POINTS = 200
"""Points of one line that are drawn and tabled; what is longer is thinned evenly, its first and last point kept."""

MOST_THIN = 60
"""Points of a thin line: its shape is what it shows."""

MOST_THIN_GROUPS = 5
"""Groups whose runs are drawn one by one; the lines of more cover each other."""


def axis_of(part: Part) -> str:
    """Title of the horizontal axis."""
    return "task (0 = the first)" if part.several else "epoch"


def points(series: Series, address: str, *, several: bool) -> tuple[Array, Array]:
    """A run's axis and values: one point a task (without a half-trained last one), else one a recorded epoch."""
    if not several:
        return series.epoch, series.column(address)
    stop = -1 if series.unfinished_task() else None
    return series.task[series.task_ends()][:stop], series.per_task(address)[:stop]


def over_runs(xs: Sequence[Array], ys: Sequence[Array]) -> dict[str, Array]:
    """Mean, 95 % t interval and number of runs at each x where a run has a value (low, high NaN below two runs).

    mean +- t(.975, n - 1) s / sqrt(n), s with ddof 1.
    """
    from scipy.special import stdtrit

    axis = np.unique(np.concatenate([x[np.isfinite(y)] for x, y in zip(xs, ys, strict=True)] or [np.array([])]))
    table = np.full((len(xs), len(axis)), np.nan)
    for i, (x, y) in enumerate(zip(xs, ys, strict=True)):
        kept = np.isfinite(y)
        table[i, np.searchsorted(axis, x[kept])] = y[kept]
    n = np.isfinite(table).sum(0)
    mean = np.nansum(table, axis=0) / np.maximum(n, 1)
    squares = np.nansum((table - mean) ** 2, axis=0)
    freedom = np.maximum(n - 1, 1)
    half = np.where(n > 1, stdtrit(freedom, 0.975) * np.sqrt(squares / freedom / np.maximum(n, 1)), np.nan)
    return {"x": axis, "mean": mean, "low": mean - half, "high": mean + half, "runs": n.astype(np.float64)}


def thinned(n: int, most: int = MOST_POINTS) -> NDArray[np.intp]:
    """Which of n points are kept: all up to `most`, else evenly spaced ones."""
    return np.unique(np.round(np.linspace(0, n - 1, min(n, most))).astype(np.intp))


@dataclass(frozen=True)
class Panel:
    """How a panel reads a run (axis, values), and between which limits its metric lies; intervals end there."""

    read: Callable[[Series], tuple[Array, Array]]
    low: float = -np.inf
    high: float = np.inf


def frame(part: Part, panels: Mapping[str, Panel]) -> pd.DataFrame:
    """One row a panel, group and point: panel, group, x, mean, low, high, runs. Panels without a value are left out."""
    cells = [
        Cell(title, label, [(s.run.id, *panel.read(s)) for s in group.series], panel.low, panel.high)
        for title, panel in panels.items()
        for label, group in part.shown
    ]
    return frame_of(part, cells, [label for label, _ in part.shown])


@dataclass(frozen=True)
class Cell:
    """One line of one panel: its runs (id, axis, values), and between which limits its metric lies."""

    panel: str
    group: str
    runs: Sequence[tuple[str, Array, Array]]
    low: float = -np.inf
    high: float = np.inf


def frame_of(part: Part, cells: Sequence[Cell], groups: Sequence[str]) -> pd.DataFrame:
    """The frame of any lines; attrs: thin (panel, group, run, x, y of single runs), chance, groups (all of them)."""
    import pandas as pd

    made = []
    thin: list[tuple[str, str, str, Array, Array]] = []
    most = min(MOST_POINTS, part.most_rows // max(1, len({cell.panel for cell in cells}) * len(groups)))
    for cell in cells:
        summary = over_runs([x for _, x, _ in cell.runs], [y for _, _, y in cell.runs])
        if len(summary["x"]):
            kept = thinned(len(summary["x"]), most)
            columns = {name: values[kept] for name, values in summary.items()}
            columns["low"] = np.maximum(columns["low"], cell.low)
            columns["high"] = np.minimum(columns["high"], cell.high)
            if 1 < len(cell.runs) <= lines.FEW_RUNS and len(groups) <= MOST_THIN_GROUPS:
                for run, x, y in cell.runs:
                    few = thinned(len(x), min(most, MOST_THIN))
                    thin.append((cell.panel, cell.group, run, x[few], y[few]))
            made.append(pd.DataFrame({"panel": cell.panel, "group": cell.group, **columns}))
    if not made:
        return pd.DataFrame(columns=["panel", "group", "x", "mean", "low", "high", "runs"])
    found = pd.concat(made, ignore_index=True)
    found.attrs |= {"thin": thin, "chance": 1 / part.classes if part.classes else None, "groups": list(groups)}
    return found.assign(runs=found["runs"].astype(int))


SIGNED = ("plasticity_loss", "plasticity_loss_b24", "fresh_gap", "warm_start_gap", "gnc2", "gradient_interference")
"""Metrics that may be negative; of the others those named here lie in [0, 1]."""

SHARES = ("accuracy", "nc4", "_units", "_error", "_fraction", "vci", "_hit")


def panels(part: Part, material: Material, addresses: Sequence[str]) -> dict[str, Panel]:
    """A panel an address that was recorded, titled by the metric and its direction."""

    def panel(address: str) -> Panel:
        metric = address.partition("@")[0]
        low = -np.inf if metric in SIGNED else 0.0
        high = 1.0 if metric.endswith(SHARES) else np.inf
        return Panel(lambda series: points(series, address, several=part.several), low, high)

    return {material.named(a): panel(a) for a in addresses if part.has(a)}


def figure(
    id_: str, caption: str, numbers: pd.DataFrame, part: Part, *, alt: str, y: str = "", zero: bool = False,
    columns: int = 2, x: str | None = None,
) -> Figure:  # fmt: skip
    """Numbers and their drawing as a block; says what lines and bands are, which groups are drawn, what is thinned."""
    most = {str(group): int(runs) for group, runs in numbers.groupby("group", sort=False)["runs"].max().items()}
    more = [lines.drawn_how(most, bool(numbers.attrs.get("thin")))]
    if len(part.groups) > len(part.shown):
        more.append(f"The first {len(part.shown)} of {len(part.groups)} groups are drawn.")
    recorded = max(len(s.task_ends()) if part.several else len(s.epoch) for g in part.groups for s in g.series)
    longest = int(numbers.groupby(["panel", "group"]).size().max())
    if longest < recorded and (longest == MOST_POINTS or len(numbers) > part.most_rows // 2):
        more.append(f"Of each line {longest} evenly spaced points are drawn; ncpl export gives all.")
    if part.classes and any(panel.partition(" ")[0].endswith(lines.CHANCE) for panel in numbers["panel"].unique()):
        more.append(f"Guessing is right {100 / part.classes:.3g} % of the time (dotted where it is near).")
    axis = x or axis_of(part)
    return Figure(
        id_, " ".join([caption, *more]), alt, Table.of(f"{id_}-numbers", f"Numbers drawn: {caption}", numbers),
        lambda: lines.draw(numbers, x=axis, y=y, zero=zero, columns=columns),
    )  # fmt: skip


def ends(numbers: pd.DataFrame, panel: str) -> str:
    """A sentence on the first and last value of each line of a panel, for those who do not see the figure."""
    said = []
    for label, line in numbers[numbers["panel"] == panel].groupby("group", sort=False):
        first, last = float(line["mean"].iloc[0]), float(line["mean"].iloc[-1])
        said.append(f"{label} from {first:.3g} to {last:.3g}")
    return f"{panel}: {'; '.join(said)}." if said else ""
