"""The figure a report begins with: the answer to its question, group by group, with what time alone explains of it."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from ncpl_cli.analysis import words
from ncpl_cli.report import theme, wording
from ncpl_cli.report.blocks import Figure, Table
from ncpl_cli.report.material import Material, Part

if TYPE_CHECKING:
    import pandas as pd

MOST_GROUPS = 6

RAW, LEFT = "as recorded", "without the trend over time"


def lead(material: Material) -> Figure | None:
    """r of the first pair in every group; where nothing can be correlated, the gain of every arm; else None."""
    for part in material.parts:
        if len(numbers := _correlations(part)):
            _, first = part.correlations[0]
            title = f"{first.x} and {first.y}: r within runs"
            caption = (
                f"{part.scenario}: does collapse go with plasticity? Correlation of {first.x} and {first.y} within "
                "runs: a bar that crosses 0 decides nothing, and what the second colour loses is the trend both share. "
                "Points are centres over runs, bars 95 % intervals over runs."
            )
            return _figure(
                f"r-of-{words.slug(first.x)}-and-{words.slug(first.y)}", numbers, title, caption, (-1.0, 1.0)
            )
    for part in material.parts:
        if len(numbers := _gains(part)):
            first_gain = part.comparisons[0]
            title = f"gain in {first_gain.y} over {first_gain.plain}"
            caption = f"{part.scenario}: {title}, paired by seed. Points are means over seeds, bars 95 % intervals."
            return _figure(f"gain-in-{words.slug(first_gain.y)}-by-arm", numbers, title, caption, None)
    return None


def _correlations(part: Part) -> pd.DataFrame:
    import pandas as pd

    rows = []
    first = part.correlations[0][1] if part.correlations else None
    for label, result in part.correlations:
        if first is None or (result.x, result.y) != (first.x, first.y):
            continue
        detrended = result.overall.controls["detrended"].summary if "detrended" in result.overall.controls else None
        for what, summary in ((RAW, result.overall.summary), (LEFT, detrended)):
            if summary is not None and summary.fisher_mean_r is not None:
                low, high = summary.ci95 or (float("nan"), float("nan"))
                rows.append((label, what, summary.fisher_mean_r, low, high))
    kept = list(dict.fromkeys(row[0] for row in rows))[:MOST_GROUPS]
    return pd.DataFrame([r for r in rows if r[0] in kept], columns=["group", "series", "value", "low", "high"])


def _gains(part: Part) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for arm in part.comparisons[0].arms if part.comparisons else ():
        matched = arm.matched.gain if arm.matched else None
        for what, gain in (("gain", arm.gain), ("against equally trained", matched)):
            if gain is not None and gain.mean is not None:
                low, high = gain.ci95 or (float("nan"), float("nan"))
                rows.append((arm.arm, what, gain.mean, low, high))
    return pd.DataFrame(rows[: 2 * MOST_GROUPS], columns=["group", "series", "value", "low", "high"])


def _figure(id_: str, numbers: pd.DataFrame, title: str, caption: str, span: tuple[float, float] | None) -> Figure:
    said = "; ".join(
        f"{row.group}, {row.series}: {row.value:+.2f} ({row.low:+.2f} to {row.high:+.2f})"
        for row in numbers.itertuples()
    )
    return Figure(id_, caption, said, Table.of(f"{id_}-numbers", f"Numbers drawn: {title}", numbers),
                  lambda: _draw(numbers, title, span))  # fmt: skip


def _draw(numbers: pd.DataFrame, title: str, span: tuple[float, float] | None) -> Any:
    import pandas as pd
    import plotnine

    p9: Any = plotnine
    groups = {g: textwrap.fill(short, 26) for g, short in wording.shortened(numbers["group"], 90).items()}
    series = list(dict.fromkeys(numbers["series"]))
    data = numbers.assign(
        group=pd.Categorical(numbers["group"].map(groups), categories=list(groups.values())[::-1]),
        series=pd.Categorical(numbers["series"], categories=series),
    )
    return (
        p9.ggplot(data, p9.aes("group", "value", colour="series", shape="series"))
        + theme.forest(data, -0.5)
        + p9.scale_colour_manual(values=[theme.COLOURS[0], theme.FAINT][: len(series)])
        + (p9.coord_flip(ylim=span) if span else p9.coord_flip())
        + p9.labs(x="", y=title)
        + theme.theme(5.0, 0.42 * len(groups) + 1.2, legend=len(series) > 1)
    )
