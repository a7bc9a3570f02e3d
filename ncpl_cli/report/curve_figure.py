"""The specification curve as a figure: every defensible analysis in order, coloured by the choice that decides most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ncpl_cli.analysis.multiverse import Multiverse
from ncpl_cli.report import theme
from ncpl_cli.report.blocks import Figure, Table

if TYPE_CHECKING:
    import pandas as pd


def curve_figure(found: Multiverse, what: str, id_: str) -> Figure:
    """The curve of one group, with its numbers."""
    numbers = curve_frame(found)
    low, middle, high = found.r
    caption = (
        f"{what}: the specification curve. Each point is one defensible analysis (metric, series, controls, window, "
        "method), mean r over runs with its 95 % interval over runs, from the lowest to the highest; the colour is the "
        f"choice on the axis that changes most ({numbers.attrs['axis']})."
    )
    alt = f"{len(found.curve)} analyses from {low:+.2f} to {high:+.2f}, median {middle:+.2f}. {found.verdict}"
    table = Table.of(f"{id_}-numbers", "Numbers drawn: every specification", numbers)
    return Figure(id_, caption, alt, table, lambda: draw_curve(numbers))


def curve_frame(found: Multiverse) -> pd.DataFrame:
    """A row a specification: rank, r, low, high, its choices; `attrs["axis"]`: the axis whose choices change most."""
    import pandas as pd

    rows = [
        {"rank": i + 1, "r": one.r, "low": (one.ci95 or (None, None))[0], "high": (one.ci95 or (None, None))[1],
         **one.choices, "runs": one.runs}
        for i, one in enumerate(found.curve)
    ]  # fmt: skip
    frame = pd.DataFrame(rows).astype({"low": float, "high": float})
    frame.attrs["axis"] = found.decisive[0].choice.partition(":")[0] if found.decisive else "method"
    return frame


def draw_curve(numbers: pd.DataFrame) -> Any:
    """Points with thin intervals, a line at 0, a colour and shape a choice."""
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    axis = numbers.attrs["axis"]
    order = list(dict.fromkeys(numbers.sort_values(axis)[axis]))[: theme.MOST_LINES]
    data = numbers[numbers[axis].isin(order)].assign(
        choice=lambda frame: pd.Categorical([f"{axis}: {v}" for v in frame[axis]], [f"{axis}: {v}" for v in order])
    )
    return (
        p9.ggplot(data, p9.aes("rank", "r", colour="choice", shape="choice"))
        + p9.geom_linerange(p9.aes(ymin="low", ymax="high"), data=data.dropna(), alpha=0.25, size=0.4)
        + p9.geom_point(size=1.3)
        + p9.geom_hline(yintercept=0, colour=theme.FAINT, linetype="dotted", size=0.5)
        + p9.scale_colour_manual(values=theme.COLOURS[: len(order)])
        + p9.coord_cartesian(ylim=(-1, 1))
        + p9.labs(x="analyses, from the lowest r to the highest", y="r (mean over runs)")
        + theme.theme(7.2, 2.8 + 0.2 * len(order))
    )
