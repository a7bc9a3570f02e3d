"""Sliding-window correlations as a figure: first the frame, then the drawing."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.errors import InputError, StoreError, unknown

if TYPE_CHECKING:
    import pandas as pd

    from ncpl_cli.analysis import GroupCorrelation

FORMATS = (".svg", ".png", ".pdf")

FEW_WINDOWS = 30
"""Up to so many windows each is marked: a line through one point cannot be seen."""

DOTS = 200
"""Dots per inch of a .png: sharp in print."""

_SAME_BYTES: dict[str, dict[str, None]] = {
    ".svg": {"Date": None}, ".png": {"Software": None}, ".pdf": {"CreationDate": None},
}  # fmt: skip
"""What matplotlib would write about the moment and the machine."""

TITLE_WIDTH = 54
"""Characters of a panel's title in one line: what stands above one panel must not run into the next."""

MOST_PANELS = 24
"""Groups and pairs in one figure; more can neither be read nor be drawn in a minute."""


def check_figure(path: str, panels: int) -> None:
    """Raise InputError for a file or a number of panels that cannot be drawn, before anything is computed."""
    target = Path(path)
    if target.suffix.lower() not in FORMATS:
        raise unknown("figure format", target.suffix or path, FORMATS)
    if panels > MOST_PANELS:
        raise InputError(
            f"{panels} pairs do not fit into one figure (at most {MOST_PANELS}).", "draw one pair: --x X --y Y"
        )


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


def draw_windows(results: Sequence[GroupCorrelation]) -> Any:
    """The plotnine figure: r of each run in grey, mean and one standard deviation over runs in colour."""
    import plotnine
    from mizani.breaks import breaks_extended

    p9: Any = plotnine  # only partly typed

    import pandas as pd

    over, single = window_frames(results)
    order = list(dict.fromkeys(over["group"]))  # panels stand in the order of the results, not of the alphabet
    over, single = (frame.assign(group=pd.Categorical(frame["group"], categories=order)) for frame in (over, single))
    first = results[0]
    name = {"pearson": "Pearson's r", "spearman": "Spearman's rho"}[first.method]
    unit = first.unit
    label = f"{unit} (end of a window of {first.window})" if first.across != "runs" else "task"
    figure = p9.ggplot(over, p9.aes("end")) + p9.geom_hline(yintercept=0, linetype="dashed", colour="#888888")
    if len(single):
        alpha = min(0.6, 6 / max(result.n_runs for result in results))  # a hundred lines must not cover the band
        figure += p9.geom_line(
            p9.aes("end", "r", group="run"), data=single.dropna(), colour="#999999", alpha=alpha, size=0.4
        )
    shown = over.dropna()
    figure += p9.geom_ribbon(p9.aes(ymin="low", ymax="high"), data=shown, fill="#2166ac", alpha=0.2)
    figure += p9.geom_line(p9.aes(y="mean"), data=shown, colour="#2166ac", size=1.0)
    if over.groupby("group", observed=True).size().min() <= FEW_WINDOWS:
        figure += p9.geom_point(p9.aes(y="mean"), data=shown, colour="#2166ac", size=1.5)
    return (
        figure
        + p9.facet_wrap("group", ncol=min(len(results), 2))
        + p9.scale_x_continuous(breaks=breaks_extended(Q=[1, 5, 2, 4, 3]))  # no half epochs
        + p9.coord_cartesian(ylim=(-1, 1))
        + p9.labs(x=label, y=f"{name}, {'over runs' if first.across == 'runs' else 'mean and sd over runs'}")
        + p9.theme_minimal()
        + p9.theme(figure_size=(4.5 * min(len(results), 2) + 1.5, 3.2 * ((len(results) + 1) // 2) + 0.8))
    )


def save_windows(results: Sequence[GroupCorrelation], path: str) -> None:
    """Draw into a file; its ending names the format. Raises InputError when there is no window to draw."""
    target = Path(path)
    drawable = [r for r in results if len(r.windows.end)]
    if not drawable:
        raise InputError("there is no full window to draw.", "choose a smaller --window")
    check_figure(path, len(drawable))
    figure = draw_windows(drawable)
    import matplotlib

    try:
        with matplotlib.rc_context({"svg.hashsalt": "ncpl"}):
            figure.save(target, verbose=False, limitsize=False, dpi=DOTS, metadata=_SAME_BYTES[target.suffix.lower()])
    except OSError as error:
        raise StoreError(f"{target} cannot be written ({error.strerror}).", "name another file with --plot") from error
