"""The figure that the question is about: collapse against plasticity, runs as colours, raw and detrended together."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ncpl_cli.analysis import GroupCorrelation, statistics
from ncpl_cli.analysis.study import Group
from ncpl_cli.analysis.tracks import track
from ncpl_cli.report import theme
from ncpl_cli.report.blocks import Figure, Table
from ncpl_cli.report.curves import thinned

if TYPE_CHECKING:
    import pandas as pd

MOST_POINTS = 150
"""Points of one run that are drawn, thinned evenly."""

RAW, DETRENDED = "as recorded", "without a straight line in the {unit}"


def question_figure(group: Group, result: GroupCorrelation, what: str, id_: str) -> Figure:
    """x against y of one group; what a shared trend makes is in the left panel only."""
    numbers = question_frame(group, result)
    raw, left = result.overall.summary.mean_r, result.overall.controls["detrended"].summary.mean_r
    shown = numbers["run"].nunique()
    caption = (
        f"{what}: {result.x} against {result.y}, one point a {result.unit}, a colour a run"
        f"{f' ({shown} of {result.n_runs} runs)' if shown < result.n_runs else ''}. Left as recorded, right after a "
        f"straight line in the {result.unit} is taken from both, run by run: what is left when training time is not "
        "allowed to speak."
    )
    said = ["undefined" if r is None else f"{r:+.2f}" for r in (raw, left)]
    alt = f"Mean r over runs {said[0]} as recorded, {said[1]} without the straight line."
    table = Table.of(f"{id_}-numbers", "Numbers drawn: each point", numbers)
    return Figure(id_, caption, alt, table, lambda: draw_question(numbers, result))


def question_frame(group: Group, result: GroupCorrelation) -> pd.DataFrame:
    """A row a run, panel and point: panel, run, place, x, y; undefined ones left out."""
    import pandas as pd

    made = []
    for series in [s for s in group.series if s.run.id in result.seeds][: theme.MOST_LINES]:
        axis, x, y, _ = track(series, result.x, result.y, result.across, ()).points()
        if len(axis) < statistics.FEWEST_POINTS:
            continue
        name = f"seed {series.run.seed} ({series.run.id[:6]})"
        kept = thinned(len(axis), MOST_POINTS)
        sides = {RAW: (x, y), DETRENDED.format(unit=result.unit): tuple(
            statistics.detrended(v[None], axis)[0] for v in (x, y))}  # fmt: skip
        for panel, (a, b) in sides.items():
            columns = {"place": axis[kept], "x": a[kept], "y": b[kept]}
            made.append(pd.DataFrame({"panel": panel, "run": name, **columns}))
    if not made:
        return pd.DataFrame(columns=["panel", "run", "place", "x", "y"])
    return pd.concat(made, ignore_index=True)


def draw_question(numbers: pd.DataFrame, result: GroupCorrelation) -> Any:
    """Two panels with scales of their own; each run's points and their least-squares line."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    runs = list(dict.fromkeys(numbers["run"]))
    panels = list(dict.fromkeys(numbers["panel"]))
    data = numbers.assign(panel=pd.Categorical(numbers["panel"], panels), run=pd.Categorical(numbers["run"], runs))
    alpha = 0.75 if len(numbers) < 400 else 0.45
    return (
        p9.ggplot(data, p9.aes("x", "y", colour="run"))
        + p9.geom_point(alpha=alpha, size=1.1)
        + p9.geom_line(data=_lines(data), size=0.7)
        + p9.facet_wrap("panel", ncol=2, scales="free")
        + p9.scale_colour_manual(values=theme.COLOURS[: len(runs)])
        + p9.labs(x=result.x, y=result.y)
        + theme.theme(7.2, 2.9 + 0.2 * len(runs))
    )


def _lines(data: pd.DataFrame) -> pd.DataFrame:
    """The ends of each run's least-squares line, where x varies."""
    import pandas as pd

    rows = []
    for (panel, run), of in data.groupby(["panel", "run"], observed=True):
        x, y = of["x"].to_numpy(), of["y"].to_numpy()
        if statistics.constant(x):
            continue
        slope = float(np.cov(x, y, ddof=0)[0, 1] / x.var())
        rows += [(panel, run, at, float(y.mean() + slope * (at - x.mean()))) for at in (x.min(), x.max())]
    found = pd.DataFrame(rows, columns=["panel", "run", "x", "y"])
    return found.assign(panel=pd.Categorical(found["panel"], data["panel"].cat.categories),
                        run=pd.Categorical(found["run"], data["run"].cat.categories))  # fmt: skip
