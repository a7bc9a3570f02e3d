"""Series over tasks or epochs, summarised over runs: first the frame, then the drawing."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ncpl_cli.analysis import Series
from ncpl_cli.report import theme, wording
from ncpl_cli.report.blocks import Figure, Table
from ncpl_cli.report.material import Material, Part

if TYPE_CHECKING:
    import pandas as pd

Array = NDArray[np.float64]

MOST_PANELS = 8

MOST_POINTS = 200
"""Points of one line that are drawn and tabled; what is longer is thinned evenly, its first and last point kept."""

FEW_RUNS = 5
"""Up to so many runs are drawn one by one; of more the interval says more."""

MOST_THIN = 60
"""Points of a thin line: its shape is what it shows."""

MOST_THIN_GROUPS = 5
"""Groups whose runs are drawn one by one; the lines of more cover each other."""

UNCERTAINTY = (
    "Thick lines are means over runs (seeds); thin lines are single runs where at most five groups have at most five, "
    "else the band is the 95 % t interval, cut where the metric ends (shares at 0 and 1)."
)

CHANCE = ("accuracy",)
"""Metrics for which guessing has a value: one class in so many."""


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
    import pandas as pd

    made = []
    thin: list[tuple[str, str, str, Array, Array]] = []
    most = min(MOST_POINTS, part.most_rows // max(1, len(panels) * len(part.shown)))
    for title, panel in panels.items():
        for label, group in part.shown:
            lines = [panel.read(series) for series in group.series]
            summary = over_runs([x for x, _ in lines], [y for _, y in lines])
            if len(summary["x"]):
                kept = thinned(len(summary["x"]), most)
                columns = {name: values[kept] for name, values in summary.items()}
                columns["low"] = np.maximum(columns["low"], panel.low)
                columns["high"] = np.minimum(columns["high"], panel.high)
                if 1 < len(lines) <= FEW_RUNS and len(part.shown) <= MOST_THIN_GROUPS:
                    for series, (x, y) in zip(group.series, lines, strict=True):
                        few = thinned(len(x), min(most, MOST_THIN))
                        thin.append((title, label, series.run.id, x[few], y[few]))
                made.append(pd.DataFrame({"panel": title, "group": label, **columns}))
    if not made:
        return pd.DataFrame(columns=["panel", "group", "x", "mean", "low", "high", "runs"])
    found = pd.concat(made, ignore_index=True)
    found.attrs["thin"] = thin
    found.attrs["chance"] = 1 / part.classes if part.classes else None
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


def draw(numbers: pd.DataFrame, *, x: str, y: str = "", columns: int = 2, zero: bool = False) -> Any:
    """Lines with bands, a colour and dash a group, a panel a metric with its own scale."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    titles, groups = (list(dict.fromkeys(numbers[key])) for key in ("panel", "group"))
    width = 50 if len(titles) > 1 else 90
    wrapped = {title: textwrap.fill(wording.titled(title), width) for title in titles}
    legend = {label: textwrap.fill(short, 88) for label, short in shortened(groups).items()}
    data = numbers.assign(
        panel=pd.Categorical(numbers["panel"].map(wrapped), categories=list(wrapped.values())),
        group=pd.Categorical(numbers["group"].map(legend), categories=list(legend.values())),
    )
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    plot = p9.ggplot(data, p9.aes("x", "mean", colour="group", fill="group", linetype="group"))
    if zero:
        plot += p9.geom_hline(yintercept=0, colour=theme.FAINT, linetype="dotted", size=0.5)
    thin = numbers.attrs.get("thin")
    banded = (data[data["runs"] > FEW_RUNS] if thin else data).dropna()
    if len(banded):
        plot += p9.geom_ribbon(p9.aes(ymin="low", ymax="high"), data=banded, alpha=0.18, colour="none", size=0)
    if thin:
        each = pd.concat([
            pd.DataFrame({"panel": wrapped[panel], "group": legend[group], "run": run, "x": xs, "mean": ys})
            for panel, group, run, xs, ys in thin
        ])  # fmt: skip
        each = each.assign(
            panel=pd.Categorical(each["panel"], categories=list(wrapped.values())),
            group=pd.Categorical(each["group"], categories=list(legend.values())),
            run=each["run"] + each["group"],
        )
        plot += p9.geom_line(p9.aes(group="run"), data=each.dropna(), size=0.3, alpha=0.35, linetype="solid")
    if guess := numbers.attrs.get("chance"):
        where = [title for title in titles if title.partition(" ")[0].partition("@")[0].endswith(CHANCE)
                 and _near(guess, numbers.loc[numbers["panel"] == title, "mean"])]  # fmt: skip
        lines = pd.DataFrame({"panel": [wrapped[title] for title in where], "chance": guess})
        lines = lines.assign(panel=pd.Categorical(lines["panel"], categories=list(wrapped.values())))
        if len(lines):
            plot += p9.geom_hline(p9.aes(yintercept="chance"), data=lines, colour=theme.FAINT, linetype="dotted",
                                  size=0.5)  # fmt: skip
    plot += p9.geom_line(size=0.8)
    if data.groupby(["panel", "group"], observed=True).size().max() <= 30:
        plot += p9.geom_point(size=1.1)
    if len(titles) > 1:
        plot += p9.facet_wrap("panel", ncol=columns, scales="free_y")
    title = y or (titles[0] if len(titles) == 1 else "")
    height = (2.1 if len(titles) > 1 else 3.0) * rows + 0.55 + 0.2 * (len(groups) if len(groups) > 1 else 0)
    plot += p9.labs(x=x, y=textwrap.fill(wording.titled(title), 48))
    plot += theme.theme(7.2, height, legend=len(groups) > 1)
    for scale in theme.scales(len(groups)):
        plot += scale
    return plot


def _near(guess: float, values: pd.Series[float]) -> bool:
    """Whether a line at chance leaves the curves more than half of their panel."""
    return bool(values.min() - guess <= values.max() - values.min())


def shortened(labels: Iterable[str], most: int = 170) -> dict[str, str]:
    """Labels that fit a legend, by the whole ones, which tables have; those that begin alike get a number."""
    cut = {label: label if len(label) <= most else f"{label[: most - 1]}…" for label in labels}
    alike: Counter[str] = Counter()
    for label, short in cut.items():
        alike[short] += 1
        cut[label] = short if alike[short] == 1 else f"{short} ({alike[short]})"
    return cut


def figure(
    id_: str, caption: str, numbers: pd.DataFrame, part: Part, *, alt: str, y: str = "", zero: bool = False,
    columns: int = 2, x: str | None = None,
) -> Figure:  # fmt: skip
    """Numbers and their drawing as a block; says how many groups are drawn and whether lines are thinned."""
    more = []
    if len(part.groups) > len(part.shown):
        more.append(f"The first {len(part.shown)} of {len(part.groups)} groups are drawn.")
    recorded = max(len(s.task_ends()) if part.several else len(s.epoch) for g in part.groups for s in g.series)
    longest = int(numbers.groupby(["panel", "group"]).size().max())
    if longest < recorded and (longest == MOST_POINTS or len(numbers) > part.most_rows // 2):
        more.append(f"Of each line {longest} evenly spaced points are drawn; ncpl export gives all.")
    if part.classes and any(panel.partition(" ")[0].endswith(CHANCE) for panel in numbers["panel"].unique()):
        more.append(f"Guessing is right {100 / part.classes:.3g} % of the time (dotted where it is near).")
    axis = x or axis_of(part)
    return Figure(
        id_, " ".join([caption, *more]), alt, Table.of(f"{id_}-numbers", f"Numbers drawn: {caption}", numbers),
        lambda: draw(numbers, x=axis, y=y, zero=zero, columns=columns),
    )  # fmt: skip


def ends(numbers: pd.DataFrame, panel: str) -> str:
    """A sentence on the first and last value of each line of a panel, for those who do not see the figure."""
    said = []
    for label, line in numbers[numbers["panel"] == panel].groupby("group", sort=False):
        first, last = float(line["mean"].iloc[0]), float(line["mean"].iloc[-1])
        said.append(f"{label} from {first:.3g} to {last:.3g}")
    return f"{panel}: {'; '.join(said)}." if said else ""
