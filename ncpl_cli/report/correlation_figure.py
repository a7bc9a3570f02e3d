"""Sliding-window correlations as a figure: first the frame, then the drawing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.errors import InputError, unknown
from ncpl_cli.output import format_of, special
from ncpl_cli.report import theme
from ncpl_cli.report.lines import FEW_RUNS

if TYPE_CHECKING:
    import pandas as pd

    from ncpl_cli.analysis import GroupCorrelation

FORMATS = ("svg", "png", "pdf")

FEW_WINDOWS = 30
"""Up to so many windows each is marked: a line through one point cannot be seen."""

TITLE_WIDTH = 54
"""Characters of a panel's title in one line: what stands above one panel must not run into the next."""

MOST_PANELS = 24
"""Groups and pairs in one figure; more can neither be read nor be drawn in a minute."""


def check_figure(path: str, panels: int) -> str:
    """The format of the figure. Raises InputError for a file or a number of panels that cannot be drawn."""
    kind = format_of(path, None, FORMATS, "svg", "--plot", "figure format")
    if not special(path) and not Path(path).suffix:
        raise unknown("figure format", path, FORMATS)
    if panels > MOST_PANELS:
        raise InputError(
            f"{panels} pairs do not fit into one figure (at most {MOST_PANELS}).", "draw one pair: --x X --y Y"
        )
    return kind


def window_frames(results: Sequence[GroupCorrelation]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Two frames with a row a window: over runs (group, end, mean, low, high = mean -+ sd); (group, run, end, r)."""
    import pandas as pd

    over: list[pd.DataFrame] = []
    single: list[pd.DataFrame] = []
    for i, result in enumerate(results):
        group = f"{textwrap.fill(result.title, TITLE_WIDTH)}\n{result.x} and {result.y}, {result.n_runs} runs"
        group += f" ({i + 1})" if any(row["group"].iloc[0] == group for row in over) else ""
        w = result.windows
        spread = np.where(np.isfinite(w.std), w.std, 0.0)
        columns = {"end": w.end, "mean": w.mean, "low": w.mean - spread, "high": w.mean + spread}
        over.append(pd.DataFrame({"group": group, **columns}))
        for run, r in zip(w.runs, w.r, strict=True):
            single.append(pd.DataFrame({"group": group, "run": run, "end": w.end, "r": r}))
    empty = pd.DataFrame({"group": [], "run": [], "end": [], "r": []})
    return pd.concat(over, ignore_index=True), pd.concat(single, ignore_index=True) if single else empty


def kind_of(result: GroupCorrelation) -> str:
    """The kind of text that says it: a finding (green) only where it survives, else undecided (grey)."""
    from ncpl_cli.analysis.survival import survival

    return "finding" if survival(result).stands else "undecided"


def with_windows(results: Sequence[GroupCorrelation]) -> list[GroupCorrelation]:
    """Those that have a full window in which r is defined."""
    return [result for result in results if np.isfinite(result.windows.mean).any()]


def draw_windows(results: Sequence[GroupCorrelation]) -> Any:
    """The plotnine figure: r of each run thin and grey, mean and one standard deviation over runs in colour."""
    import pandas as pd
    import plotnine
    from mizani.breaks import breaks_extended

    p9: Any = plotnine  # only partly typed

    over, single = window_frames(results)
    order = list(dict.fromkeys(over["group"]))  # panels stand in the order of the results, not of the alphabet
    over, single = (frame.assign(group=pd.Categorical(frame["group"], categories=order)) for frame in (over, single))
    first = results[0]
    name = {"pearson": "Pearson's r", "spearman": "Spearman's rho"}[first.method]
    windows = sorted({r.window for r in results})
    label = f"{first.unit} (end of a window of {' or '.join(map(str, windows))})" if first.across != "runs" else "task"
    figure = p9.ggplot(over, p9.aes("end")) + p9.geom_hline(yintercept=0, linetype="dashed", colour=theme.FAINT)
    if len(single):
        alpha = min(0.6, 6 / max(result.n_runs for result in results))  # a hundred lines must not cover the band
        figure += p9.geom_line(
            p9.aes("end", "r", group="run"), data=single.dropna(), colour=theme.FAINT, alpha=alpha, size=0.4
        )
    shown = over.dropna()
    many = [group for group, result in zip(order, results, strict=True) if result.n_runs > FEW_RUNS]
    banded = shown[shown["group"].isin(many)]
    if len(banded):
        figure += p9.geom_ribbon(p9.aes(ymin="low", ymax="high"), data=banded, fill=theme.COLOURS[0], alpha=0.2)
    figure += p9.geom_line(p9.aes(y="mean"), data=shown, colour=theme.COLOURS[0], size=1.0)
    if over.groupby("group", observed=True).size().min() <= FEW_WINDOWS:
        figure += p9.geom_point(p9.aes(y="mean"), data=shown, colour=theme.COLOURS[0], size=1.5)
    columns = min(len(results), 2)
    over_what = "over runs" if first.across == "runs" else f"mean{' and sd' if len(banded) else ''} over runs"
    return (
        figure
        + p9.facet_wrap("group", ncol=columns)
        + p9.scale_x_continuous(breaks=breaks_extended(Q=[1, 5, 2, 4, 3]))  # no half epochs
        + p9.coord_cartesian(ylim=(-1, 1))
        + p9.labs(x=label, y=f"{name}, {over_what}")
        + theme.theme(7.2, (2.5 if columns > 1 else 3.0) * -(-len(results) // 2) + 0.7, legend=False)
    )


def save_windows(results: Sequence[GroupCorrelation], path: str) -> None:
    """Draw into a file; its ending names the format. Raises InputError when there is no window to draw."""
    drawable = with_windows(results)
    if not drawable:
        raise InputError("there is no full window to draw.", "choose a smaller --window")
    kind = check_figure(path, len(drawable))
    with theme.drawn(draw_windows(drawable)) as figure:
        theme.save(figure, path, kind)
